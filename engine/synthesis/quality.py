"""Evidence of the quality of synthetic beats of one class, tier by tier, as one JSON report.

- statistical: KS statistics on physiologic features with Holm's correction, maximum mean discrepancy with a permutation
  test (Gretton et al. 2012), difference of the features' correlations;
- discriminative: can a classifier trained afterwards tell real from synthetic (Yoon, Jarrett, van der Schaar 2019);
- utility: a classifier trained on synthetic beats tested on real ones (TSTR), the reverse (TRTS), and real on real
  (TRTR), for each class; and what adding the synthetic beats to the real ones changes;
- recognition: how many of the class's train beats a classifier finds that knows the class by the synthetic beats alone;
- variety and privacy (`distances.py`): repetition, spread, distance to real beats, duplicates, membership inference.

What too few beats do not support is `NotComputable` with the reason, not a number.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.oracles.base import Batch
from engine.seeds import generator
from engine.synthesis.distances import FEW, NotComputable, Privacy, Variety, privacy_of, variety_of
from engine.synthesis.generators import Space, joined

REFERENCE = 50  # held-out beats that stand for the real ones alone; with fewer, the train beats join them
MOST = 1000  # beats of one kind that a tier looks at
OTHERS = 1500  # beats of other classes that the classifiers of the utility tier learn from, and are tested on
REPEATS = 10
PERMUTATIONS = 500
WORST = {
    "auc_bp": 10_000,
    "nndr_bp": 0,
    "distance_bp": 65_535,
    "spread_bp": 0,
    "utility_bp": -10_000,
    "recognised_bp": 0,
}  # what stands for a number that is not computable
GRU = {"hidden": 24, "patch": 15, "steps": 150, "batch": 64, "rate": 5e-3}


@dataclass(frozen=True)
class Ks:
    """Two-sample Kolmogorov-Smirnov test of one feature; `holm` is the corrected p over all features."""

    statistic: float
    p: float
    holm: float


@dataclass(frozen=True)
class Statistical:
    """Attributes:
    ks: for each physiologic feature.
    ks_mean: mean of the statistics.
    mmd: unbiased squared maximum mean discrepancy, Gaussian kernel of median width.
    mmd_p: of the permutation test.
    correlation_difference: mean absolute difference between the features' correlation matrices, off the diagonal.
    """

    ks: dict[str, Ks]
    ks_mean: float
    mmd: float
    mmd_p: float
    correlation_difference: float | NotComputable


@dataclass(frozen=True)
class Classifier:
    """A post-hoc classifier over several repeats: the score is the mean of |accuracy - 0.5|, 0 best, 0.5 worst."""

    score: float
    accuracy: float
    auc: float


@dataclass(frozen=True)
class Discriminative:
    """Recurrent (patches of the beat, RR features in each) and linear; `beats` of each kind, half of them to learn."""

    beats: int
    repeats: int
    gru: Classifier
    linear: Classifier


@dataclass(frozen=True)
class Scores:
    """Recall and F1 of each class that is in the tested beats."""

    recall: dict[str, float]
    f1: dict[str, float]


@dataclass(frozen=True)
class Utility:
    """Attributes:
    trtr, tstr, trts: train real test real, train synthetic test real, train real test synthetic. Synthetic means the
        one class; the others' beats are real throughout.
    added: real and synthetic beats train, real ones test.
    change: recall of the class with the synthetic beats added, less its recall without.
    """

    trtr: Scores
    tstr: Scores
    trts: Scores
    added: Scores
    change: float


@dataclass(frozen=True)
class Recognition:
    """Recall of the class's own train beats by a forest.

    Train beats, because held-out ones of a rare class are a dozen or none; whoever only copies them is found by distance.

    Attributes:
        real: learnt from these beats, each asked of the trees that did not see it (out of bag).
        synthetic: learnt from as many synthetic ones in their place.
        share: `synthetic` over `real`.
    """

    real: float
    synthetic: float
    share: float


@dataclass(frozen=True)
class Report:
    """All evidence on the synthetic beats of one class.

    Attributes:
        label: name of the class.
        real, held_out, synthetic: number of beats of the class.
        reference: real beats that statistical and discriminative tier compare with: "held-out" or "all".
    """

    label: str
    generator: str
    real: int
    held_out: int
    synthetic: int
    reference: str
    statistical: Statistical | NotComputable
    discriminative: Discriminative | NotComputable
    utility: Utility | NotComputable
    recognition: Recognition | NotComputable
    variety: Variety
    privacy: Privacy | NotComputable


@dataclass(frozen=True)
class Anatomy:
    """Where things are in a window, and what the RR features are called.

    Attributes:
        classes: their names, in the order of the labels.
        before: samples before the R peak.
        sampling_rate: Hz.
    """

    classes: tuple[str, ...]
    before: int
    sampling_rate: float
    rr_names: tuple[str, ...]


def assess(
    train: Batch,
    held_out: Batch,
    synthetic: Batch,
    anatomy: Anatomy,
    generator_name: str,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """The report on `synthetic`, beats of one class.

    Args:
        train: the hospital's train beats, all classes: what the generator saw.
        held_out: real beats that it did not see, all classes.
        repeats: of the discriminative tier's classifiers.
    """
    from threadpoolctl import threadpool_limits

    label = int(synthetic.y[0])
    space = Space.of(train)
    real, unseen = (of_class(part, label) for part in (train, held_out))
    against, reference = ("held-out", unseen) if len(unseen.y) >= REFERENCE else ("all", joined(real, unseen))
    draw = generator(seed, "evidence")
    with threadpool_limits(1):  # sums keep their order, and threads that wait for each other cost more than they give
        statistical = _statistical(reference, synthetic, space, anatomy, draw)
        discriminative = _discriminative(reference, synthetic, space, draw, repeats)
        utility, recognition = _learnt(train, held_out, synthetic, label, space, anatomy.classes, draw)
        return Report(
            label=anatomy.classes[label],
            generator=generator_name,
            real=len(real.y),
            held_out=len(unseen.y),
            synthetic=len(synthetic.y),
            reference=against,
            statistical=statistical,
            discriminative=discriminative,
            utility=utility,
            recognition=recognition,
            variety=variety_of(real, synthetic, space),
            privacy=privacy_of(real, unseen, synthetic, space),
        )


def report_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values, numbers rounded to six decimals."""
    return _rounded(dataclasses.asdict(report))


def evidence_numbers(report: Report) -> dict[str, int]:
    """The integers that a policy bounds; `_bp` are parts per ten thousand.

    Returns:
        auc_bp: area under the ROC curve of the better post-hoc classifier, 5,000 is chance; nndr_bp: nearest-neighbour
        distance ratio; distance_bp: the same against the train beats alone; duplicates: exact and near; repeated;
        spread_bp; utility_bp: change of the class's recall, may be negative; recognised_bp. What is not computable counts
        as its worst value, so that a policy with a bound on it rejects.
    """
    numbers = {**WORST, "duplicates": report.synthetic, "repeated": report.variety.repeated}
    # of the rounded numbers, so that they follow from the JSON report, too
    found: dict[str, float | NotComputable] = {
        "distance_bp": report.variety.distance,
        "spread_bp": report.variety.spread,
    }
    if isinstance(report.discriminative, Discriminative):
        numbers["auc_bp"] = max(_bp(report.discriminative.gru.auc), _bp(report.discriminative.linear.auc))
    if isinstance(report.utility, Utility):
        numbers["utility_bp"] = _bp(report.utility.change)
    if isinstance(report.recognition, Recognition):
        found["recognised_bp"] = report.recognition.share
    if isinstance(report.privacy, Privacy):
        numbers["duplicates"] = report.privacy.near
        found["nndr_bp"] = report.privacy.nndr
    # the ledger keeps 16 bits
    return numbers | {k: min(_bp(v), 65_535) for k, v in found.items() if not isinstance(v, NotComputable)}


# --- Statistical ------------------------------------------------------------------------------------------------------


def features(x: np.ndarray, rr: np.ndarray, anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Physiologic features of beats, float64[n] each; amplitudes in the unit of `x`, from the window's median.

    r_amplitude: largest deviation within 50 ms of the R peak; qrs_width: milliseconds for which the deviation stays
    above half of it; qrs_area: absolute deviation over 100 ms on either side, in units times seconds; t_amplitude:
    largest deviation from 150 to 400 ms after the peak, signed (left out where the window ends before); and the RR
    ratios. Of the first of several leads they have these names, of the others "lead 2 r_amplitude" and so on.
    """
    found: dict[str, np.ndarray] = {}
    for lead in range(x.shape[1]):
        prefix = f"lead {lead + 1} " if lead else ""
        found |= {prefix + name: values for name, values in _shape_features(x[:, lead], anatomy).items()}
    for i, name in enumerate(anatomy.rr_names):
        if name.endswith("ratio"):
            found[f"rr_{name}"] = np.asarray(rr[:, i], np.float64)
    return found


def _shape_features(x: np.ndarray, anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Of one lead, [n, window]."""
    rate, peak = anatomy.sampling_rate, anatomy.before
    deviation = np.asarray(x, np.float64) - np.median(x, axis=1, keepdims=True)
    rows = np.arange(len(deviation))

    def stretch(start: float, end: float) -> tuple[np.ndarray, int]:
        first = max(peak + round(start * rate), 0)
        return deviation[:, first : peak + round(end * rate) + 1], first

    near, first = stretch(-0.05, 0.05)
    at = first + np.abs(near).argmax(1)
    r = deviation[rows, at]
    above = deviation * np.sign(r)[:, None] >= np.abs(r)[:, None] / 2
    found = {
        "r_amplitude": r,
        "qrs_width": 1000 / rate * np.array([_run_around(line, i) for line, i in zip(above, at, strict=True)]),
        "qrs_area": np.abs(stretch(-0.1, 0.1)[0]).sum(1) / rate,
    }
    t, _ = stretch(0.15, 0.4)
    if t.shape[1]:
        found["t_amplitude"] = t[rows, np.abs(t).argmax(1)]
    return found


def ks_tests(real: Mapping[str, np.ndarray], synthetic: Mapping[str, np.ndarray]) -> dict[str, Ks]:
    """KS tests of the features, p-values corrected by Holm (1979)."""
    from scipy.stats import ks_2samp

    tests = {name: ks_2samp(real[name], synthetic[name]) for name in real}
    worst, corrected = 0.0, {}
    for i, name in enumerate(sorted(tests, key=lambda name: tests[name].pvalue)):
        worst = corrected[name] = max(worst, min(1.0, (len(tests) - i) * float(tests[name].pvalue)))
    return {name: Ks(float(t.statistic), float(t.pvalue), corrected[name]) for name, t in tests.items()}


def mmd_test(
    a: np.ndarray, b: np.ndarray, draw: np.random.Generator, width: float | None = None
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy and its permutation p-value.

    Args:
        width: of the Gaussian kernel exp(-|a - b|^2 / (2 width^2)); null: the median distance.
    """
    from scipy.spatial.distance import pdist, squareform

    distances = pdist(np.concatenate([a, b]))
    width = width or float(np.median(distances)) or 1.0
    kernel = squareform(np.exp(-(distances**2) / (2 * width**2)))  # the diagonal is zero, as the unbiased sum wants
    n, m = len(a), len(b)

    def squared(sign: np.ndarray) -> np.ndarray:
        first = (sign > 0).astype(np.float64)
        to_first, to_second = kernel @ first, kernel @ (1 - first)
        within = (first * to_first).sum(0) / (n * (n - 1)) + ((1 - first) * to_second).sum(0) / (m * (m - 1))
        return within - 2 * (first * to_second).sum(0) / (n * m)

    labels = np.repeat([1, -1], [n, m])
    found = float(squared(labels[:, None])[0])
    shuffled = squared(np.stack([draw.permutation(labels) for _ in range(PERMUTATIONS)], 1))
    return found, float((1 + (shuffled >= found).sum()) / (1 + PERMUTATIONS))


def correlation_difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float | NotComputable:
    """Mean absolute difference between the correlation matrices of features, off the diagonal."""
    names = [name for name in a if np.ptp(a[name]) > 0 and np.ptp(b[name]) > 0]
    if len(names) < 2:
        return NotComputable("fewer than two features vary")
    first, second = (np.corrcoef([values[name] for name in names]) for values in (a, b))
    return float(np.abs(first - second)[np.triu_indices(len(names), 1)].mean())


def _statistical(
    real: Batch, synthetic: Batch, space: Space, anatomy: Anatomy, draw: np.random.Generator
) -> Statistical | NotComputable:
    if reason := _too_few(real, synthetic):
        return NotComputable(reason)
    real, synthetic = (_some(part, MOST, draw) for part in (real, synthetic))
    a, b = (features(part.x, part.rr, anatomy) for part in (real, synthetic))
    ks = ks_tests(a, b)
    mmd, p = mmd_test(space.joint(real.x, real.rr), space.joint(synthetic.x, synthetic.rr), draw)
    return Statistical(ks, float(np.mean([one.statistic for one in ks.values()])), mmd, p, correlation_difference(a, b))


# --- Discriminative ---------------------------------------------------------------------------------------------------

# (train points, train labels, test points, seed) -> probability of label 1 for each test point
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def tell_apart(a: np.ndarray, b: np.ndarray, fit: Fit, draw: np.random.Generator, repeats: int) -> Classifier:
    """Trains on a random half of `a` and `b`, equally many of each, and tests on the other half."""
    from sklearn.metrics import roc_auc_score

    n = min(len(a), len(b))
    accuracy, auc = [], []
    for _ in range(repeats):
        parts = [part[draw.permutation(len(part))[:n]] for part in (a, b)]
        train, test = (np.concatenate([part[half] for part in parts]) for half in (slice(n // 2), slice(n // 2, n)))
        known, asked = (np.repeat([0, 1], count) for count in (n // 2, n - n // 2))
        guess = fit(train, known, test, int(draw.integers(2**31)))
        accuracy.append(((guess > 0.5) == asked).mean())
        auc.append(roc_auc_score(asked, guess))
    return Classifier(
        score=float(np.abs(np.array(accuracy) - 0.5).mean()), accuracy=float(np.mean(accuracy)), auc=float(np.mean(auc))
    )


def linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Logistic regression on standardised points."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(train, labels).predict_proba(test)[:, 1]
    )


def recurrent(shape: tuple[int, int]) -> Fit:
    """A GRU over patches of the window, the RR features in each step.

    Patches, because the rule of the original code, half as many hidden units as features, gives one-lead signals read
    sample by sample a network of no units.
    """

    def fit(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        import torch

        from engine.synthesis.timegan import to_sequences

        torch.set_num_threads(1)  # as the oracles do: faster at this size, and sums keep their order
        centre, spread = train.mean(0), train.std(0) + 1e-9
        x, unseen = (
            torch.from_numpy(to_sequences((part - centre) / spread, shape, int(GRU["patch"]))) for part in (train, test)
        )
        y = torch.from_numpy(labels.astype(np.float32))
        shuffle = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gru = torch.nn.GRU(x.shape[2], int(GRU["hidden"]), batch_first=True)
            head = torch.nn.Linear(int(GRU["hidden"]), 1)
        optimiser = torch.optim.Adam([*gru.parameters(), *head.parameters()], lr=GRU["rate"])
        for _ in range(int(GRU["steps"])):
            rows = torch.from_numpy(shuffle.permutation(len(x))[: int(GRU["batch"])])
            logits = head(gru(x[rows])[1][0])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            return torch.sigmoid(head(gru(unseen)[1][0])[:, 0]).numpy()

    return fit


def _discriminative(
    real: Batch, synthetic: Batch, space: Space, draw: np.random.Generator, repeats: int
) -> Discriminative | NotComputable:
    if reason := _too_few(real, synthetic, 2 * FEW):
        return NotComputable(reason)
    a, b = (space.joint(part.x, part.rr) for part in (_some(real, MOST, draw), _some(synthetic, MOST, draw)))
    return Discriminative(
        beats=min(len(a), len(b)),
        repeats=repeats,
        gru=tell_apart(a, b, recurrent(space.shape), draw, repeats),
        linear=tell_apart(a, b, linear, draw, repeats),
    )


# --- Utility ----------------------------------------------------------------------------------------------------------


def _learnt(
    train: Batch,
    held_out: Batch,
    synthetic: Batch,
    label: int,
    space: Space,
    classes: Sequence[str],
    draw: np.random.Generator,
) -> tuple[Utility | NotComputable, Recognition | NotComputable]:
    """What forests say that learn the class from real, from synthetic, or from both kinds of beats."""
    from sklearn.ensemble import RandomForestClassifier

    real, unseen = of_class(train, label), of_class(held_out, label)
    others, other_unseen = (_some(_without(part, label), OTHERS, draw) for part in (train, held_out))
    for what, part in (("real", real), ("synthetic", synthetic), ("other real", others)):
        if len(part.y) < FEW:
            reason = NotComputable(f"{len(part.y)} {what} beats, at least {FEW} are needed")
            return reason, reason
    seed = int(draw.integers(2**31))

    def fit(*parts: Batch) -> Any:
        beats = joined(*parts)
        forest = RandomForestClassifier(100, random_state=seed, oob_score=True)
        return forest.fit(space.joint(beats.x, beats.rr), beats.y)

    def test(forest: Any, part: Batch) -> Scores:
        return _scores(part.y, forest.predict(space.joint(part.x, part.rr)), classes)

    # as many synthetic as real beats: the forests differ in their beats, not in the balance of the classes
    from_real, from_equal = fit(real, others), fit(_some(synthetic, len(real.y), draw), others)
    guess = np.nan_to_num(from_real.oob_decision_function_[: len(real.y)]).argmax(1)
    out_of_bag = float((from_real.classes_[guess] == label).mean())
    recalled = float((from_equal.predict(space.joint(real.x, real.rr)) == label).mean())
    recognition: Recognition | NotComputable = NotComputable("real beats teach nobody to recognise the class, either")
    if out_of_bag > 0:
        recognition = Recognition(out_of_bag, recalled, recalled / out_of_bag)
    if len(unseen.y) < FEW:
        return NotComputable(f"{len(unseen.y)} held-out beats, at least {FEW} are needed"), recognition
    tested, name = joined(unseen, other_unseen), classes[label]
    trtr, added = test(from_real, tested), test(fit(real, synthetic, others), tested)
    return Utility(
        trtr=trtr,
        tstr=test(from_equal, tested),
        trts=test(from_real, joined(synthetic, other_unseen)),
        added=added,
        change=added.recall[name] - trtr.recall[name],
    ), recognition


def _scores(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Scores:
    from sklearn.metrics import f1_score, recall_score

    labels = np.unique(true)
    recall = recall_score(true, predicted, labels=labels, average=None, zero_division=0)
    f1 = f1_score(true, predicted, labels=labels, average=None, zero_division=0)
    names = [classes[i] for i in labels]
    return Scores(dict(zip(names, recall.tolist(), strict=True)), dict(zip(names, f1.tolist(), strict=True)))


# --- Small things -----------------------------------------------------------------------------------------------------


def of_class(beats: Batch, label: int) -> Batch:
    """The beats of one class."""
    return _rows(beats, np.flatnonzero(beats.y == label))


def _without(beats: Batch, label: int) -> Batch:
    return _rows(beats, np.flatnonzero(beats.y != label))


def _some(beats: Batch, most: int, draw: np.random.Generator) -> Batch:
    return beats if len(beats.y) <= most else _rows(beats, np.sort(draw.permutation(len(beats.y))[:most]))


def _rows(beats: Batch, rows: np.ndarray) -> Batch:
    return Batch(np.asarray(beats.x[rows]), np.asarray(beats.rr[rows]), np.asarray(beats.y[rows]))


def _too_few(real: Batch, synthetic: Batch, needed: int = FEW) -> str | None:
    for what, part in (("real", real), ("synthetic", synthetic)):
        if len(part.y) < needed:
            return f"{len(part.y)} {what} beats, at least {needed} are needed"
    return None


def _run_around(line: Sequence[bool], at: int) -> int:
    """Length of the stretch of true values that holds `at`."""
    false = np.flatnonzero(~np.asarray(line))
    i = int(np.searchsorted(false, at))
    return int(false[i] if i < len(false) else len(line)) - int(false[i - 1] if i else -1) - 1


def _bp(share: float) -> int:
    return round(_rounded(share) * 10_000)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 6) if isinstance(value, float) else value
