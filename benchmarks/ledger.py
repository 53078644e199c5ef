"""What the ledger costs: gas and milliseconds a round against two simpler designs, and how long a slow chain holds a run.

    python benchmarks/ledger.py                    # quick: some minutes, on the embedded chain and, with Node, on anvil
    python benchmarks/ledger.py --full             # more repetitions
    python benchmarks/ledger.py --parts table --hospitals 3 --rounds 2

Part "table": one round of 3 to 1,000 hospitals, four designs on the embedded chain.

    none    training only; its spread is the noise of everything below
    store   every update is stored in a contract, a transaction each, one more for the model
    event   every update is an event, a transaction each, one more for the model
    seal    this ledger: signed updates, journal, receipts, one root and one head a round in one transaction

The two baselines sign nothing but their transactions, keep no journal and no vectors, and wait for the chain before the
next round. "Critical" is what the next round waits for, as if all hospitals shared one core; "total" adds what goes on
beside it. Both are given as time on the clock, with every fsync, and as CPU time, which a busy machine stretches less.
Shares are of the CPU time of a round that also trains `--steps` gradient steps of 32 beats for each hospital.

Part "latency": T_round = T_train + T_critical is what a run's rounds take. Sealing goes on beside it, one round after
the other: it prepares (T_prepare: checks, journal, signature), waits for the next block and for `confirmations` more,
and notices the receipt at its next look. Rounds longer than that never wait; the run ends one seal late. Shorter ones
queue up, and the run ends when the queue is empty, about (block time) x (rounds) after its start. `predict` computes it;
the part compares it, run by run, with runs on anvil with interval mining, whose training is a sleep. Its "error" is the
largest of the runs; "wait" is what the run takes beyond its rounds.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from eth_abi import encode
from eth_hash.auto import keccak

from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.chain.rpc import KEY_VARIABLE
from engine.ledger.chain.transactions import created_contract
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import FIRST_PAUSE, LAST_PAUSE
from engine.ledger.format import MEAN
from engine.ledger.observer import LedgerObserver
from engine.ledger.signer import Signer
from engine.ledger.signing import address, hospital_key
from engine.ledger.subjects.registry import Federation
from engine.messages import Asked, Judged, RoundRecord, Signed, Update
from engine.model import Network, initial_parameters, vector_hash
from engine.oracles.base import Batch, Oracle
from engine.result import RoundSummary

HERE = Path(__file__).parent
NETWORK = Network(1, 252, 4, 4, (16, 32, 64), (7, 5, 5), 32, 8, 4)
ID, CONFIG, SEED = b"\x11" * 32, b"\x22" * 32, 5
COLUMNS = ("gas", "critical", "total", "critical_cpu", "total_cpu")
ENDLESS = 10**6  # rounds of a run that this benchmark ends when it has seen enough


@dataclass
class Spread:
    """Median, least and largest of some measurements."""

    values: list[float]

    def __str__(self) -> str:
        return f"{self.median:.1f} ({min(self.values):.1f}..{max(self.values):.1f})"

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)


# --- The designs ------------------------------------------------------------------------------------------------------


class Run:
    """A federation of hospitals whose updates are drawn, with this ledger; `ledger` holds further settings of it."""

    def __init__(self, folder: Path, hospitals: int, **ledger: Any) -> None:
        started = time.perf_counter()
        self.layout, size = NETWORK.layout, len(initial_parameters(NETWORK, 1))
        draw = np.random.default_rng(1)
        self.vectors = [draw.standard_normal(size).astype(np.float32) for _ in range(hospitals)]
        self.model = vector_hash(self.vectors[0], self.layout)
        keys = [hospital_key(SEED, ID, slot) for slot in range(hospitals)]
        federation = Federation(ID, CONFIG, tuple(map(address, keys)), self.model, self.layout)
        archive.write_genesis(folder, self.vectors[0])
        config = LedgerConfig(**ledger)
        rule = {"name": MEAN, "weighting": "samples", "server": {"method": "none"}}
        self.observer = LedgerObserver(folder, federation, rule, config, False, ENDLESS)
        self.signers = [Signer(slot, self.observer.signing, SEED) for slot in range(hospitals)]
        self.round = 0
        self.opening = time.perf_counter() - started
        self._spent = int(self.observer.summary()["gas_total"])

    def play(self) -> float:
        """One round without training; returns the seconds that the next round waits for."""
        started = time.perf_counter()
        self.round += 1
        slots = tuple(range(len(self.signers)))
        asked = Asked(self.round, slots, self.vectors[0], self.model)
        notice = self.observer.notice(asked)
        updates = []
        for slot, (signer, vector) in enumerate(zip(self.signers, self.vectors, strict=True)):
            signer.check(notice)
            metrics = {"loss": 0.5, "gradient_evaluations": 100}
            signed = Signed(*signer.update(notice, vector_hash(vector, self.layout), 100, metrics))
            updates.append(Update(slot, vector, 100, 0.5, 100, signed=signed))
        parent, self.model = self.model, vector_hash(self.vectors[self.round % len(self.vectors)], self.layout)
        nothing = RoundSummary.model_construct()  # the ledger reads no score
        self.observer.round_finished(
            RoundRecord(self.round, parent, self.model, tuple(updates), Judged({}), nothing, ({}, {}), asked, {})
        )
        return time.perf_counter() - started

    def settle(self) -> float:
        """Wait for the ledger; returns the seconds that took."""
        started = time.perf_counter()
        self.observer.finish()
        return time.perf_counter() - started

    def gas(self) -> int:
        """Gas of all transactions since this was asked for, or since the opening."""
        before, self._spent = self._spent, int(self.observer.summary()["gas_total"])
        return self._spent - before


class Baseline:
    """A contract that is told of every update in a transaction of its own."""

    def __init__(self, contract: str, function: str, hospitals: int) -> None:
        draw = np.random.default_rng(1)
        self.layout, size = NETWORK.layout, len(initial_parameters(NETWORK, 1))
        self.vectors = [draw.standard_normal(size).astype(np.float32) for _ in range(hospitals)]
        self.chain = EmbeddedChain()
        code = json.loads((HERE / "contracts/baselines.json").read_text(encoding="utf-8"))[contract]
        raw = self.chain.sign(None, bytes.fromhex(code[2:]), 2_000_000)
        self.address = created_contract(self.chain.sender, raw)
        self.chain.send(raw)
        self._write = keccak(f"{function}(uint64,uint32,bytes32,bytes32,bytes32,uint32)".encode())[:4]
        self._close = keccak(b"close(uint64,bytes32)")[:4]
        self.round = 0
        self.model = vector_hash(self.vectors[0], self.layout)

    def play(self) -> tuple[float, int]:
        """One round without training; returns seconds and gas."""
        started, gas = time.perf_counter(), 0
        self.round += 1
        types = ["uint64", "uint32", "bytes32", "bytes32", "bytes32", "uint32"]
        for slot, vector in enumerate(self.vectors):
            values = [self.round, slot, vector_hash(vector, self.layout), self.model, b"\x77" * 32, 100]
            gas += self._send(self._write + encode(types, values))
        self.model = vector_hash(self.vectors[self.round % len(self.vectors)], self.layout)
        gas += self._send(self._close + encode(["uint64", "bytes32"], [self.round, self.model]))
        return time.perf_counter() - started, gas

    def _send(self, data: bytes) -> int:
        raw = self.chain.sign(self.address, data, 500_000)
        self.chain.send(raw)
        receipt = self.chain.receipt(keccak(raw))
        assert receipt is not None
        assert receipt.status == 1
        return receipt.gas


def trainer(steps: int) -> Callable[[], float]:
    """Returns a function that trains one hospital for a round and returns the seconds of CPU time."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((32, NETWORK.leads, NETWORK.window)).astype(np.float32)
    rr = draw.standard_normal((32, NETWORK.rr)).astype(np.float32)
    batch = Batch(x, rr, draw.integers(0, NETWORK.classes, 32))
    oracle, params = _oracle(), initial_parameters(NETWORK, 1)

    def train() -> float:
        started = time.process_time()
        moved = params.copy()
        for _ in range(steps):
            moved -= np.float32(0.01) * oracle.gradient(moved, batch)[1]
        return time.process_time() - started

    train()
    return train


def _oracle() -> Oracle:
    try:
        from engine.oracles.native import NativeOracle

        return NativeOracle(NETWORK)
    except Exception:  # without a compiler
        from engine.oracles.torch import TorchOracle

        return TorchOracle(NETWORK)


def table(hospitals: list[int], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure every design for each number of hospitals; designs take turns, round by round."""
    train = trainer(steps)
    rows = []
    for number in hospitals:
        repeats = rounds if number <= 100 else max(1, rounds // 3)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), number)
            designs = {
                "store": Baseline("UpdateStore", "store", number),
                "event": Baseline("UpdateEvents", "write", number),
            }
            taken: dict[str, dict[str, list[float]]] = {
                name: {what: [] for what in COLUMNS} for name in ("none", "store", "event", "seal")
            }
            trained = []
            # The first round pays for storage that the others only change.
            for repeat in range(repeats + 1):
                measured: dict[str, tuple[float, ...]] = {"none": (0.0,) * len(COLUMNS)}
                trained.append(1000 * number * statistics.median(train() for _ in range(3)))
                for name, design in designs.items():
                    used = time.process_time()
                    seconds, gas = design.play()
                    used = time.process_time() - used
                    measured[name] = (gas, *(1000 * value for value in (seconds, seconds, used, used)))
                # The ledger's thread begins while the round still runs: the round's own time is its thread's.
                used, own = time.process_time(), time.thread_time()
                critical = run.play()
                own = time.thread_time() - own
                total = critical + run.settle()
                used = time.process_time() - used
                measured["seal"] = (run.gas(), *(1000 * value for value in (critical, total, own, used)))
                for name, values in measured.items() if repeat else ():
                    for kept, value in zip(taken[name].values(), values, strict=True):
                        kept.append(value)
            run.observer.abandon()
            training = Spread(trained[1:])
            for name, kept in taken.items():
                spreads = {what: Spread(values) for what, values in kept.items()}
                shares = {
                    f"share_{what}": 100 / (1 + training.median / max(spreads[f"{what}_cpu"].median, 1e-9))
                    for what in ("critical", "total")
                }
                rows.append({"hospitals": number, "design": name, "training": training, **spreads, **shares})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """As Markdown."""
    print(
        "| hospitals | design | gas a round | critical ms | total ms | critical CPU ms | total CPU ms | shares of CPU time |"
    )
    print("|" + "---|" * 8)
    for row in rows:
        where = f"| {row['hospitals']:,} | {row['design']} |"
        if row["design"] == "none":
            print(f"{where} 0 | | | training {row['training']} | | |")
            continue
        times = " | ".join(str(row[what]) for what in COLUMNS[1:])
        shares = f"{row['share_critical']:.2f} %, {row['share_total']:.2f} %"
        print(f"{where} {row['gas'].median:,.0f} | {times} | {shares} |", flush=True)


# --- The latency model ------------------------------------------------------------------------------------------------


def predict(
    round_seconds: float, rounds: int, block: float, prepare: float, phase: float = 0.0, confirmations: int = 0
) -> float:
    """Seconds from the start of round 1 until the last round is sealed.

    Args:
        round_seconds: T_train + T_critical.
        block: seconds between two blocks; 0: a block at once.
        prepare: seconds from taking a round up to sending its transaction.
        phase: when the first block comes, 0 to `block`.
    """
    done = 0.0
    for number in range(1, rounds + 1):
        sent = max(number * round_seconds, done) + prepare
        mined = sent
        if block:
            mined = phase + block * (math.ceil((sent - phase) / block) + confirmations)
        done = sent
        pause = FIRST_PAUSE
        while done < mined:
            done += pause
            pause = min(2 * pause, LAST_PAUSE)
    return done


def predicted(round_seconds: float, rounds: int, block: float, prepare: float, confirmations: int = 0) -> Spread:
    """The same for blocks that come at any time: over 50 phases."""
    phases = [block * i / 50 for i in range(50)]
    return Spread([predict(round_seconds, rounds, block, prepare, phase, confirmations) for phase in phases])


@contextmanager
def chain(block: float, nodes: int) -> Iterator[Any]:
    """anvil with this block time (0: a block for each transaction), or the first of several clients that check each other."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from nodes import KEY, Node
    from validators import Validators

    os.environ[KEY_VARIABLE] = KEY.hex()
    if nodes == 1:
        with Node("anvil", *(["--block-time", f"{block:g}"] if block else [])) as node:
            yield node
    else:
        with Validators(nodes, block) as network:
            yield network.nodes[0]


def measure(
    block: float, train: float, rounds: int, delay: float, confirmations: int = 0, nodes: int = 1
) -> dict[str, float]:
    """A run of three hospitals on a node, with sleep for training, that begins `delay` seconds after a block."""
    with tempfile.TemporaryDirectory() as folder, chain(block, nodes) as node:
        run = Run(Path(folder), 3, backend="rpc", url=node.url, confirmations=confirmations)
        before, last = node("eth_blockNumber"), time.perf_counter()
        while block and node("eth_blockNumber") == before:
            last = time.perf_counter()
            time.sleep(0.002)
        time.sleep(delay)
        started, critical = time.perf_counter(), []
        for _ in range(rounds):
            time.sleep(train)
            critical.append(run.play())
        run.settle()
        seconds = time.perf_counter() - started
        sealing = run.observer.summary()["seconds"] / rounds
        run.observer.abandon()
    return {
        "seconds": seconds,
        "round": train + statistics.mean(critical),
        "sealing": sealing,
        "opening": run.opening,
        "phase": block - (started - last) % block if block else 0.0,
    }


# nodes, seconds between blocks, confirmations, seconds that a round trains
CHAINS = (
    (1, 1, 0, 0.3),
    (1, 1, 0, 1.5),
    (1, 1, 2, 0.3),
    (1, 2, 0, 0.5),
    (1, 2, 0, 2.5),
    (1, 5, 0, 6.0),
    (2, 1, 0, 1.5),
    (2, 2, 0, 2.5),
    (2, 5, 0, 6.0),
)


def latency(full: bool, rounds: int, chains: Sequence[tuple[int, int, int, float]]) -> None:
    """Compare prediction and measurement; prints as it goes."""
    repeats = 5 if full else 2
    at_once = [measure(0, 0.05, rounds, 0.0) for _ in range(repeats)]
    prepare = statistics.median(run["sealing"] for run in at_once)
    print(f"T_prepare (node that seals at once): {1000 * prepare:.1f} ms a round, 3 hospitals, {rounds} rounds")
    print(
        "| nodes | block s | confirmations | training s a round | predicted s | measured s | error | wait: predicted s | measured s | opening s |"
    )
    print("|" + "---|" * 10)
    for nodes, block, confirmations, train in chains:
        taken = [measure(block, train, rounds, block * i / repeats, confirmations, nodes) for i in range(repeats)]
        expected = [predict(t["round"], rounds, block, prepare, t["phase"], confirmations) for t in taken]
        found = [t["seconds"] for t in taken]
        error = max((f / e - 1 for f, e in zip(found, expected, strict=True)), key=abs)
        waits = [
            [s - rounds * t["round"] for s, t in zip(seconds, taken, strict=True)] for seconds in (expected, found)
        ]
        opening = Spread([t["opening"] for t in taken])
        cells = [nodes, block, confirmations, train, Spread(expected), Spread(found), f"{100 * error:+.1f} %"]
        print("| " + " | ".join(map(str, [*cells, *map(Spread, waits), opening])) + " |", flush=True)
    print_outlook(prepare)


def print_outlook(prepare: float, rounds: int = 20) -> None:
    """What the model says for other chains: seconds that a run of `rounds` rounds waits at its end, and their share."""
    times = (0.5, 2, 5, 15, 60)
    print(f"\nPredicted wait at the end of {rounds} rounds that take t seconds each (share of the run's {rounds} x t)")
    print("| block s | " + " | ".join(f"t = {t:g}" for t in times) + " |")
    print("|---" * (len(times) + 1) + "|")
    for block in (1, 5, 12):
        cells = []
        for seconds in times:
            wait = statistics.mean(predicted(seconds, rounds, block, prepare).values) - rounds * seconds
            cells.append(f"{wait:.1f} s ({100 * wait / (rounds * seconds):.1f} %)")
        print(f"| {block} | " + " | ".join(cells) + " |")


def main() -> int:
    """Print the parts."""
    parser = argparse.ArgumentParser(description="What the ledger costs.")
    parser.add_argument("--parts", default="table,latency")
    parser.add_argument("--hospitals", default="3,10,100,1000")
    parser.add_argument(
        "--rounds", type=int, help="measured rounds of the table (a third of them for 1,000 hospitals), or of a run"
    )
    parser.add_argument(
        "--nodes", default="1,2", help="of the chains that runs are measured on: 1 is anvil, 2 check each other"
    )
    parser.add_argument("--blocks", default="1,2,5", help="of these chains: seconds between blocks")
    parser.add_argument("--steps", type=int, default=100, help="gradient steps of each hospital in a round")
    parser.add_argument("--full", action="store_true", help="more repetitions")
    given = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before; median (least..largest)\n")
    if "table" in given.parts:
        numbers = [int(number) for number in given.hospitals.split(",")]
        print_table(table(numbers, given.rounds or (15 if given.full else 5), given.steps))
        print()
    if "latency" in given.parts:
        try:
            nodes, blocks = ({int(one) for one in text.split(",")} for text in (given.nodes, given.blocks))
            chains = [one for one in CHAINS if one[0] in nodes and one[1] in blocks]
            latency(given.full, given.rounds or (20 if given.full else 10), chains)
        except LedgerError as error:
            print(f"latency: {error}", file=sys.stderr)
            return 2
    print(f"\nload {os.getloadavg()[0]:.1f} after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
