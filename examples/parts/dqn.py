"""A policy of selection that learns by Q-learning, with the warning that a run is far too short to learn from.

Q of a hospital is a network of one hidden layer over what earlier rounds show of it; the value of a choice is the mean over its
hospitals, so that the best choice is those with the largest Q (as of a deep Q network with separable actions; Mnih et al. 2015,
Nature 518). The reward of a round is what the mean recall on validation beats gained in it. Forty rounds are forty transitions:
expect no more than the random policy gives. Nothing is kept between rounds: each one learns again from all before it, so that a
run that goes on after a kill chooses the same.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engine.schedule.policies import Fact, best, facts, mean_recall
from engine.schedule.selection import Choice


def dqn(
    *,
    hidden: int = 8,
    rate: float = 0.05,
    discount: float = 0.5,
    explore: float = 0.3,
    passes: int = 5,
    weights: int = 0,
) -> Callable[[Choice], Sequence[int]]:
    """A policy that draws at random with a chance of `explore`, falling as 1 / round, and else takes the largest Q.

    Args:
        hidden: units of the network.
        rate: of its gradient steps, `passes` over all rounds so far.
        discount: of the next round's value.
        weights: seed of the weights that it begins with.
    """

    def choose(choice: Choice) -> Sequence[int]:
        if choice.draw.random() < max(explore, 1 / choice.round):
            return choice.draw.choice(choice.trainers, choice.wanted, replace=False).tolist()  # type: ignore[no-any-return]
        network = Network(hidden, np.random.default_rng(weights))
        rounds = _transitions(choice)
        for _ in range(passes):
            for taken, reward, following in rounds:
                ahead = np.sort(network.values(following))[-choice.wanted :].mean()
                network.step(taken, reward + discount * ahead, rate)
        inputs = _inputs(facts(choice.trainers, choice.measured, choice.history), choice.round)
        return best(dict(zip(choice.trainers, network.values(inputs).tolist(), strict=True)), choice.wanted)

    return choose


class Network:
    """float64[N, 4] -> Q, float64[N]."""

    def __init__(self, hidden: int, draw: np.random.Generator) -> None:
        self._first = draw.normal(0.0, 0.5, (4, hidden))
        self._last = draw.normal(0.0, 0.5, hidden)

    def values(self, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(inputs @ self._first, 0.0) @ self._last)

    def step(self, inputs: np.ndarray, target: float, rate: float) -> None:
        """A gradient step on half the squared difference between the mean Q of those chosen and its target."""
        active = np.maximum(inputs @ self._first, 0.0)
        slope = ((active @ self._last).mean() - target) / len(inputs)
        first = inputs.T @ (slope * self._last * (active > 0))
        self._last = self._last - rate * slope * active.sum(axis=0)
        self._first = self._first - rate * first


def _transitions(choice: Choice) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Of each round before: inputs of the hospitals that it took, reward, inputs of all in the next round."""
    found, before = [], 0.0
    for number, one in enumerate(choice.measured, 1):
        known = facts(choice.trainers, choice.measured[: number - 1], choice.history[: number - 1])
        after = facts(choice.trainers, choice.measured[:number], choice.history[:number])
        now, taken = mean_recall(one.tables), [h for h in choice.trainers if h in one.gradients]
        inputs = _inputs({h: known[h] for h in taken}, number)
        if taken and number > 1:  # what the first gains is the training's merit
            found.append((inputs, now - before, _inputs(after, number + 1)))
        before = now
    return found


def _inputs(known: Mapping[int, Fact], round: int) -> np.ndarray:
    """Share of wrong predictions, share of the rounds that took it, how long that is ago, and 1."""
    wrong = [1.0 if fact.share is None else fact.share for fact in known.values()]
    often = [fact.times / round for fact in known.values()]
    ago = [(round - fact.last) / round for fact in known.values()]
    return np.column_stack([wrong, often, ago, np.ones(len(known))])
