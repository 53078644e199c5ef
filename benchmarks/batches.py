"""Where the limits of the default policy on synthetic beats lie: batches that must pass and batches that must not.

    python benchmarks/batches.py                        # the interpolating generators, and batches that nobody may use
    python benchmarks/batches.py --steps 20 500 1500    # TimeGAN, too (make timegan); hours at the largest number
    python benchmarks/batches.py --classes 2F           # of hospital 2, class F

Real MIT-BIH records, as the small case of docs/synthesis.md has them. Prints one row a batch, in Markdown, as it is measured.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.data.config import CLASSES
from engine.data.samples import Samples
from engine.errors import PulseLedgerError
from engine.ledger.subjects.policy import EXPLAINED, policy_of, shortcomings
from engine.ledger.subjects.synthetic import SyntheticReport
from engine.oracles.base import Batch
from engine.synthesis.balance import wanted_beats
from engine.synthesis.config import BalanceConfig, PolicyConfig, TimeGanConfig
from engine.synthesis.generators import generate, joined
from engine.synthesis.quality import Anatomy, assess, evidence_numbers, of_class
from engine.synthesis.workshop import anatomy_of

RUN = {
    "name": "batches",
    "data": {"source": "mitdb", "records": [208, 209, 213], "classes": "NSVF", "window": [90, 162]},
    "cohort": {"hospitals": 3, "partition": "one-record"},
}
SHOWN = ("0F", "1S", "2S", "2V", "2F")
POLICY = policy_of(PolicyConfig(), CLASSES)
HEAD = (
    "batch",
    "of",
    "real",
    "made",
    "AUC",
    "NNDR",
    "distance",
    "copies",
    "repeated",
    "spread",
    "change",
    "recognised",
)

Make = Callable[[Batch, int, int], Batch]  # (train part, class, beats wanted) -> a batch of the class


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", default=SHOWN, help="hospital and class, such as 2F")
    parser.add_argument("--steps", nargs="*", type=int, default=[], help="TimeGAN's, each phase")
    parser.add_argument("--only-timegan", action="store_true")
    given = parser.parse_args(arguments)
    config = RunConfig.model_validate(RUN)
    cohort = build_cohort(config.data, config.cohort)
    beats, anatomy = cohort.beats, anatomy_of(cohort.beats)
    makers = {} if given.only_timegan else {**{m: by(m) for m in ("smote", "borderline", "adasyn")}, **BAD}
    makers |= {f"timegan, {steps} steps": timegan(steps) for steps in given.steps}
    print(f"| {' | '.join(HEAD)} | by default |\n|{'---|' * (len(HEAD) + 1)}")
    for (hospital, letter), (name, make) in itertools.product(given.classes, makers.items()):
        rows = cohort.hospitals[int(hospital)]
        train, held_out = (Samples(beats.x, beats.rr, beats.y, part).batch() for part in (rows.train, rows.validation))
        wanted = wanted_beats(train.y, anatomy.classes, BalanceConfig())[letter]
        try:
            made = make(train, anatomy.classes.index(letter), wanted)
        except PulseLedgerError as error:
            print(f"| {name} | {hospital} {letter} | {error}", flush=True)
            continue
        cells = [name, f"{hospital} {letter}", *measured(train, held_out, made, anatomy)]
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def measured(train: Batch, held_out: Batch, made: Batch, anatomy: Anatomy) -> Iterator[str]:
    """The numbers that policy bounds, and what it makes of them by default."""
    numbers = evidence_numbers(assess(train, held_out, made, anatomy, "", repeats=3))
    count = len(made.y)
    yield str(len(of_class(train, int(made.y[0])).y))
    yield str(count)
    for name in (
        "auc_bp",
        "nndr_bp",
        "distance_bp",
        "duplicates",
        "repeated",
        "spread_bp",
        "utility_bp",
        "recognised_bp",
    ):
        yield f"{numbers[name] / (10_000 if name.endswith('_bp') else count):.2f}"
    short = shortcomings(POLICY, SyntheticReport(bytes(32), count, bytes(32), bytes(32), **numbers))
    yield "; ".join(text for reason, text in EXPLAINED.items() if reason in short) or "accepted"


def by(method: str) -> Make:
    """One of the interpolating generators at its defaults."""
    settings = BalanceConfig.model_validate({"method": method})
    return lambda train, label, wanted: generate(method, train, label, wanted, settings).batch()


def timegan(steps: int) -> Make:
    """TimeGAN as docs/synthesis.md trains it, for as many steps."""
    settings = BalanceConfig(method="timegan", timegan=TimeGanConfig(steps=steps, patch=21, learning_rate=2e-3))
    return lambda train, label, wanted: generate(
        "timegan", train, label, wanted, settings, note=lambda text: print(text, file=sys.stderr, flush=True)
    ).batch()


# --- Batches that nobody may use --------------------------------------------------------------------------------------


def copies(noise: float) -> Make:
    """Real beats again, each sample with noise of a share of its beat's standard deviation."""

    def make(train: Batch, label: int, wanted: int) -> Batch:
        draw, real = np.random.default_rng(0), of_class(train, label)
        rows = draw.integers(len(real.y), size=wanted)
        x = real.x[rows]
        return _batch(x + noise * x.std((1, 2), keepdims=True) * draw.standard_normal(x.shape), real.rr[rows], label)

    return make


def mean_beat(noise: float) -> Make:
    """The class's mean, over and over, with noise: what a collapsed generator gives."""

    def make(train: Batch, label: int, wanted: int) -> Batch:
        draw, real = np.random.default_rng(0), of_class(train, label)
        x, rr = (np.repeat(part.mean(0)[None], wanted, 0) for part in (real.x, real.rr))
        x = x + noise * x.std((1, 2), keepdims=True) * draw.standard_normal(x.shape)
        return _batch(x, rr + noise * real.rr.std(0) * draw.standard_normal(rr.shape), label)

    return make


def half_mean(train: Batch, label: int, wanted: int) -> Batch:
    """SMOTE's beats and as many of the mean beat."""
    half = wanted // 2
    return joined(by("smote")(train, label, wanted - half), mean_beat(0)(train, label, half))


def noise(train: Batch, label: int, wanted: int) -> Batch:
    """White noise as loud as the beats."""
    draw, real = np.random.default_rng(0), of_class(train, label)
    x = real.x.mean() + real.x.std() * draw.standard_normal((wanted, *real.x.shape[1:]))
    return _batch(x, draw.standard_normal((wanted, real.rr.shape[1])) * real.rr.std(0), label)


def other_class(train: Batch, label: int, wanted: int) -> Batch:
    """Real beats of the other classes under this one's name."""
    others = np.random.default_rng(0).choice(np.flatnonzero(train.y != label), wanted)
    return _batch(train.x[others], train.rr[others], label)


def _batch(x: np.ndarray, rr: np.ndarray, label: int) -> Batch:
    return Batch(x.astype(np.float32), rr.astype(np.float32), np.full(len(x), label, np.int8))


BAD: dict[str, Make] = {
    "copies": copies(0),
    "copies, 1 % noise": copies(0.01),
    "mean beat": mean_beat(0),
    "mean beat, 2 % noise": mean_beat(0.02),
    "mean beat, 10 % noise": mean_beat(0.1),
    "half SMOTE, half mean beat": half_mean,
    "white noise": noise,
    "other classes": other_class,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
