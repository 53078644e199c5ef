"""What another chain beneath would change of a round: the latency model of `ledger.py` for permissioned networks.

    python benchmarks/permissioned.py            # tables in Markdown; arithmetic, nothing is run
    python benchmarks/permissioned.py --picture docs/pictures/permissioned.png

Two designs. "waits": the next round begins when the last one's transactions are in a block, as in the original study. "seals": this ledger,
where a round waits for hashes and signatures only and one transaction is sent beside the next round.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PREPARE = 0.078  # seconds from taking a round up to sending its transaction, measured (docs/ledger-cost.md)
CRITICAL = {
    3: 0.0011,
    20: 0.0050,
    1000: 0.2270,
}  # seconds a round waits for; 3 measured when quiet, others by its 0.227 ms a hospital
GAS = {  # of a round, measured: one seal for any number of hospitals, or every update in a contract
    "seal": {3: 58_500, 20: 58_500, 1000: 58_500},
    "store": {3: 389_519, 20: 2_337_000, 1000: 114_626_012},
}
BLOCK_GAS = 30_000_000  # of Ethereum, and of deploy/besu-qbft
HOSPITALS = (3, 20, 1000)
ROUND = 60.0  # seconds of training of which a share is told
EXECUTE = 0.1  # seconds of endorsement and validation, which those who measured it call a small part of the whole
CONSENSUS = 0.1  # seconds from a block's proposal to two thirds of the signatures, on one continent
LOOK = 0.125  # seconds until we look again, on average


@dataclass(frozen=True)
class Network:
    """How long a lone transaction takes.

    Attributes:
        block: seconds between blocks, or until a batch is cut; 0 for at once.
        timer: whether the batch's clock starts with its first transaction, as an orderer's of Fabric does; else blocks come by the clock.
        after: seconds from the block to knowing.
    """

    name: str
    block: float
    timer: bool = False
    after: float = 0.0
    limited: bool = True

    def latency(self, phase: float = 0.5) -> float:
        """Seconds from sending to the block; `phase` is the part of a block that is to be waited for."""
        return (self.block if self.timer else phase * self.block) + self.after

    def blocks(self, gas: int) -> int:
        """Blocks that a round's transactions fill."""
        return max(1, math.ceil(gas / BLOCK_GAS)) if self.limited else 1


NETWORKS = (
    Network("embedded, here", 0.0),
    Network("anvil, a block a second", 1.0, after=LOOK),
    Network("anvil, a block in 2 s", 2.0, after=LOOK),
    Network("anvil, a block in 5 s", 5.0, after=LOOK),
    Network("QBFT as in Besu's example, 5 s", 5.0, after=LOOK + CONSENSUS),
    Network("QBFT as in deploy/besu-qbft, 2 s", 2.0, after=LOOK + CONSENSUS),
    Network("Fabric as it comes, batch of 10 or 2 s", 2.0, timer=True, after=EXECUTE + LOOK, limited=False),
    Network("Fabric, a batch of one", 0.0, timer=True, after=EXECUTE + LOOK, limited=False),
    Network("Ethereum, 12 s, one block", 12.0, after=LOOK),
)
# seconds from the last round's end to its seal, measured on anvil: block, least, mean, most (docs/ledger-cost.md, "A slow chain")
MEASURED = ((1.0, 0.4, 0.6, 0.8), (2.0, 1.1, 1.3, 1.5), (5.0, 1.1, 2.4, 3.8))
# the same on two EthereumJS clients that check each other's blocks; at 1 s they did not keep up
TWO_NODES = ((2.0, 1.5, 1.9, 2.3), (5.0, 1.2, 2.4, 3.7))


def waits(network: Network, hospitals: int, design: str = "store") -> float:
    """Seconds that a round gets longer where it waits for its transactions."""
    return PREPARE + network.latency() + (network.blocks(GAS[design][hospitals]) - 1) * network.block


def change(before: Network, after: Network, hospitals: int, train: float) -> float:
    """By which part a waiting round's length changes from one network to another; below 0: shorter."""
    old, new = (train + waits(one, hospitals, "seal") for one in (before, after))
    return new / old - 1


def table(networks: Sequence[Network] = NETWORKS) -> str:
    """What a round of a minute gains or loses."""
    rows = [
        "| network | a lone transaction, s | waits: 3 hospitals | 20 | 1,000 | waits for updates in a contract: 3 | 20 | 1,000 | seals: 3 | 20 | 1,000 |",
        "|" + "---|" * 11,
    ]
    for one in networks:
        told = [f"{one.latency():.2f}"]
        told += [f"{waits(one, h, design):.2f} s" for design in ("seal", "store") for h in HOSPITALS]
        told += [f"{1000 * CRITICAL[h]:.0f} ms" for h in HOSPITALS]
        rows.append(f"| {one.name} | {' | '.join(told)} |")
    return "\n".join(rows)


def changes(trains: Sequence[float] = (0.0, 0.5, 5.0, ROUND)) -> str:
    """What a move to Fabric as it comes makes of a waiting round, by what it is moved from and how long it trains."""
    fabric = next(one for one in NETWORKS if one.name.startswith("Fabric as"))
    head = " | ".join("nothing but the ledger" if t == 0 else f"{t:g} s" for t in trains)
    rows = [f"| moved from | {head} |", "|" + "---|" * (len(trains) + 1)]
    for one in NETWORKS:
        if not one.name.startswith("Fabric"):
            told = " | ".join(f"{100 * change(one, fabric, 3, t):+.1f} %" for t in trains)
            rows.append(f"| {one.name} | {told} |")
    return "\n".join(rows)


def picture(path: Path) -> None:
    """Seconds of a lone transaction by seconds between blocks: model, measured points, networks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=120)
    line = [0.1 * i for i in range(1, 121)]
    by_clock: Callable[[float], float] = lambda block: PREPARE + block / 2 + LOOK  # noqa: E731
    axes.plot(line, [by_clock(b) for b in line], label="blocks by the clock: half a block")
    axes.plot(line, [PREPARE + b + EXECUTE + LOOK for b in line], label="batches by a timer (Fabric): all of it")
    for points, mark, where in ((MEASURED, "o", "anvil"), (TWO_NODES, "s", "two nodes")):
        for block, least, mean, most in points:
            aside = block + 0.15 * (mark == "s")  # not on top of each other
            axes.errorbar(aside, mean, [[mean - least], [most - mean]], fmt=mark, color="black", capsize=3, mfc="white")
        axes.plot([], [], mark, color="black", mfc="white", label=f"measured on {where}")
    for one in NETWORKS:
        if one.name.startswith(("QBFT", "Ethereum")) or one.timer:
            axes.plot(one.block, PREPARE + one.latency(), "x", color="gray")
            axes.annotate(
                one.name.split(",")[0],
                (one.block, PREPARE + one.latency()),
                fontsize=7,
                xytext=(12, -12),
                textcoords="offset points",
            )
    axes.set(
        xlabel="seconds between blocks, or until a batch is cut", ylabel="seconds until a lone transaction is known"
    )
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Prints the tables, or draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw instead of printing")
    options = parser.parse_args()
    if options.picture is not None:
        picture(options.picture)
        return
    print(table(), changes(), sep="\n\n")


if __name__ == "__main__":
    main()
