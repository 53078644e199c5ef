"""What a hospital earns by how it behaves, under the rule of reputation and rewards: games with seeded verdicts.

    python benchmarks/incentive.py

A game has 20 hospitals and 50 rounds; one of them plays the strategy that is asked about, the others play what the field says.
Each round's verdicts are drawn: an update qualifies with the chance of its kind, as measured or assumed in CHANCES, and moves
reputation and reward as `engine/ledger/subjects/reputation.py` has it. Working costs; a lazy hospital saves that cost, a
hostile one gains from harm done while its updates are taken. Whoever has a new key begins again with the reputation of a newcomer.

Printed: the mean reward in points, and what is left of it after the cost of work, with 95 % intervals over the games.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.ledger.format import BASE_REPUTATION
from engine.ledger.subjects.reputation import step

HOSPITALS, ROUNDS, GAMES = 20, 50, 1000


@dataclass(frozen=True)
class Strategy:
    """How a hospital plays.

    Attributes:
        qualifies: chance that its update qualifies.
        work: share of the rounds in which it trains; else it sends what costs nothing.
        idle: chance that what costs nothing qualifies.
        rejoin: takes a new key, and the reputation of a newcomer, as soon as its own is below this.
    """

    qualifies: float
    work: float = 1.0
    idle: float = 0.0
    rejoin: int = 0


# chances of a committee that rejects 4 % of honest updates and lets 30 % of free-riders', 4 % of hostile ones' through: assumed
STRATEGIES: Mapping[str, Strategy] = {
    "honest": Strategy(0.96),
    "lazy": Strategy(0.96, work=0.5, idle=0.30),
    "free-rider": Strategy(0.96, work=0.0, idle=0.30),
    "hostile": Strategy(0.04),
    "colluding": Strategy(0.30),  # with judges among its friends
    "newcomer": Strategy(0.04, rejoin=BASE_REPUTATION),  # hostile, with a new key after each fall
}
# field -> strategies of the others, in turn
FIELDS: Mapping[str, Sequence[str]] = {
    "all honest": ("honest",),
    "20 % hostile": ("hostile", "honest", "honest", "honest", "honest"),
    "half lazy": ("lazy", "honest"),
}


def played(strategies: Sequence[Strategy], rounds: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points that each hospital earns in a game, and rounds in which it worked.

    >>> points, worked = played([Strategy(1.0)] * 3, 2, np.random.default_rng(0))
    >>> points.tolist(), worked.tolist()  # 11 and 12
    ([23, 23, 23], [2, 2, 2])
    """
    many = len(strategies)
    held, points, worked = [BASE_REPUTATION] * many, np.zeros(many, np.int64), np.zeros(many, np.int64)
    for _ in range(rounds):
        threshold = sum(held) // many
        chance, luck = draw.random(many), draw.random(many)
        for i, strategy in enumerate(strategies):
            works = chance[i] < strategy.work
            good = bool(luck[i] < (strategy.qualifies if works else strategy.idle))
            held[i] = step(held[i], good, threshold)
            points[i] += held[i] if good else 0
            worked[i] += works
            if held[i] < strategy.rejoin:
                held[i] = BASE_REPUTATION
    return points, worked


def games(strategy: Strategy, field: Sequence[Strategy], many: int, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of the first hospital in each game, and what is left after `cost` points for each round of work."""
    others = [field[i % len(field)] for i in range(HOSPITALS - 1)]
    found = [played([strategy, *others], ROUNDS, np.random.default_rng([seed, 17])) for seed in range(many)]
    points = np.array([one[0] for one, _ in found], float)
    return points, points - cost * np.array([worked[0] for _, worked in found])


def interval(values: np.ndarray) -> str:
    return f"{values.mean():.0f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", type=int, default=GAMES, help="seeded games of each strategy in each field")
    parser.add_argument("--cost", type=float, default=5.0, help="points that a round of work costs")
    parser.add_argument("--idle", type=float, help="chance that an update that cost nothing qualifies")
    given = parser.parse_args()
    plays = {
        name: one if given.idle is None else replace(one, idle=min(given.idle, one.qualifies))
        for name, one in STRATEGIES.items()
    }
    print("| strategy | " + " | ".join(f"{field}: points | after work" for field in FIELDS) + " |")
    print("|---|" + "---|" * 2 * len(FIELDS))
    for name, strategy in plays.items():
        cells = []
        for field in FIELDS.values():
            found = games(strategy, [plays[other] for other in field], given.games, given.cost)
            cells += [interval(one) for one in found]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
