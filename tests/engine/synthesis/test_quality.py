"""Evidence of quality: toys whose scores can be worked out, and what too few beats do not support."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from engine.data.config import CLASSES
from engine.ledger.subjects.policy import Reason, policy_of, shortcomings
from engine.ledger.subjects.synthetic import SyntheticReport
from engine.oracles.base import Batch
from engine.synthesis.config import PolicyConfig
from engine.synthesis.distances import NotComputable, membership, near_duplicates
from engine.synthesis.generators import generate, joined
from engine.synthesis.picture import draw_quality
from engine.synthesis.quality import (
    WORST,
    Anatomy,
    Discriminative,
    Report,
    Scores,
    assess,
    correlation_difference,
    evidence_numbers,
    features,
    ks_tests,
    linear,
    mmd_test,
    recurrent,
    report_json,
    tell_apart,
)

N, S = 0, 1
WINDOW = 120
ANATOMY = Anatomy(("N", "S"), 60, 200.0, ("previous", "previous_ratio"))
SHIFTS = (0.0, 1.0, 2.0)


def cloud(n: int, seed: int, shift: float = 0.0, columns: int = 1) -> np.ndarray:
    """Standard normal points, the first coordinate shifted."""
    points = np.random.default_rng(seed).standard_normal((n, columns))
    points[:, 0] += shift
    return points


def beats(counts: dict[int, int], seed: int, noise: float = 0.1) -> Batch:
    """Beats with an R peak of 2 in the middle; S comes early and is half as high."""
    draw = np.random.default_rng(seed)
    y = np.repeat(list(counts), list(counts.values())).astype(np.int8)
    time = (np.arange(WINDOW) - ANATOMY.before) / ANATOMY.sampling_rate
    height = (2.0 - y)[:, None] * draw.normal(1, 0.1, (len(y), 1))
    x = height * np.exp(-0.5 * (time / 0.02) ** 2) + draw.normal(0, noise, (len(y), WINDOW))
    rr = np.stack([-y - 0.0, -3.0 * y], 1) + draw.normal(0, 0.3, (len(y), 2))
    return Batch(x[:, None].astype(np.float32), rr.astype(np.float32), y)


# --- Toys: two normal distributions, d apart ----------------------------------------------------------------------


@pytest.mark.parametrize("d", SHIFTS)
def test_ks_statistic_of_two_normals(d: float):
    """The largest distance of Phi(x) and Phi(x - d) is at x = d / 2: 2 Phi(d / 2) - 1."""
    a, b = ({"f": cloud(20_000, seed, shift)[:, 0]} for seed, shift in ((1, 0.0), (2, d)))
    assert ks_tests(a, b)["f"].statistic == pytest.approx(2 * norm.cdf(d / 2) - 1, abs=0.02)


def test_holm_multiplies_the_smallest_p_by_the_number_of_features():
    draw = np.random.default_rng(0)
    a = {name: draw.standard_normal(300) for name in "abc"}
    b = {name: draw.standard_normal(300) + shift for name, shift in (("a", 0.3), ("b", 0.2), ("c", 0.0))}
    tests = ks_tests(a, b)
    small, middle, large = sorted(tests.values(), key=lambda test: test.p)
    assert small.holm == pytest.approx(3 * small.p)
    assert middle.holm == pytest.approx(max(2 * middle.p, small.holm))
    assert large.holm == pytest.approx(max(large.p, middle.holm))


@pytest.mark.parametrize("d", SHIFTS)
def test_mmd_of_two_normals(d: float):
    """E k(x, y) = w / sqrt(w^2 + 2) exp(-d^2 / (2 (w^2 + 2))), as x - y is normal around d with variance 2."""
    width = 1.5
    found, p = mmd_test(cloud(800, 1), cloud(800, 2, d), np.random.default_rng(0), width)
    peak = width / np.sqrt(width**2 + 2)
    assert found == pytest.approx(2 * peak * (1 - np.exp(-(d**2) / (2 * (width**2 + 2)))), abs=0.02)
    assert (p < 0.01) == (d > 0)


def test_mmd_is_its_definition_on_three_points():
    a, b = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    k = lambda distance: np.exp(-(distance**2) / 2)  # noqa: E731
    wanted = k(1) + k(2) - 2 * (k(0) + k(2) + k(1) + k(1)) / 4
    assert mmd_test(a, b, np.random.default_rng(0), 1.0)[0] == pytest.approx(wanted)


def test_correlation_difference_is_that_of_the_correlations():
    draw = np.random.default_rng(0)
    u, v, w, z = draw.standard_normal((4, 50_000))
    a, b = {"f": u, "g": v}, {"f": w, "g": 0.8 * w + 0.6 * z}  # correlations 0 and 0.8
    assert correlation_difference(a, b) == pytest.approx(0.8, abs=0.02)
    assert correlation_difference(a, a) == 0
    flat = correlation_difference({"f": u, "g": np.ones(50_000)}, b)
    assert flat == NotComputable("fewer than two features vary")


@pytest.mark.parametrize("d", SHIFTS)
def test_classifier_of_two_normals(d: float):
    """The best threshold is d / 2: accuracy Phi(d / 2); and AUC = P(x < y) = Phi(d / sqrt 2)."""
    found = tell_apart(cloud(3000, 1), cloud(3000, 2, d), linear, np.random.default_rng(0), 4)
    assert found.auc == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.02)
    assert found.accuracy == pytest.approx(norm.cdf(d / 2), abs=0.02)
    assert found.score == pytest.approx(norm.cdf(d / 2) - 0.5, abs=0.02)


def test_equally_many_of_each_are_told_apart():
    """A classifier that only knew that one kind is rarer would be right more often than not."""
    seen = []

    def fit(train, labels, test, seed):
        seen.append((len(train), len(test), labels.mean()))
        return np.ones(len(test))

    found = tell_apart(cloud(1000, 1), cloud(41, 2), fit, np.random.default_rng(0), repeats=3)
    assert seen == [(40, 42, 0.5)] * 3
    assert (found.accuracy, found.auc, found.score) == (0.5, 0.5, 0.0)


def test_the_recurrent_classifier_sees_a_single_lead():
    """The univariate trap: here its answer comes from the window and from the RR features alike."""
    draw = np.random.default_rng(0)
    a = draw.normal(0, 1, (200, 62))
    for columns in (slice(20, 40), slice(60, 62)):
        b = draw.normal(0, 1, (200, 62))
        b[:, columns] += 3
        assert tell_apart(a, b, recurrent((1, 60)), draw, repeats=2).auc > 0.99
    same = tell_apart(a, draw.normal(0, 1, (200, 62)), recurrent((1, 60)), draw, repeats=4)
    assert same.auc == pytest.approx(0.5, abs=0.1)


def test_membership_by_hand():
    # members at distance 1 and 3, others at 2 and 4: 3 of 4 pairs are in order
    assert membership(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == (0.75, 0.5)
    assert membership(np.zeros(5), np.ones(5)) == (1.0, 1.0)


# --- Features ---------------------------------------------------------------------------------------------------------


def test_features_of_a_beat_drawn_by_hand():
    """100 Hz, R at sample 50: a rectangle of height -2 and 8 samples, and a T wave of 0.5 at 300 ms, on 1."""
    x = np.ones((1, 120), np.float32)
    x[0, 46:54] = -1.0
    x[0, 80] = 1.5
    found = features(
        x[:, None], np.array([[7.0, 0.25]]), Anatomy(("N", "S"), 50, 100.0, ("previous", "previous_ratio"))
    )
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
        {"r_amplitude": -2.0, "qrs_width": 80.0, "qrs_area": 0.16, "t_amplitude": 0.5, "rr_previous_ratio": 0.25}
    )
    short = features(x[:, None, :55], np.zeros((1, 2)), Anatomy(("N", "S"), 50, 100.0, ("previous", "previous_ratio")))
    assert "t_amplitude" not in short


def test_each_lead_has_its_own_features():
    x = beats({N: 4}, 0).x
    both = features(np.concatenate([x, 2 * x], 1), np.zeros((4, 2)), ANATOMY)
    alone = features(x, np.zeros((4, 2)), ANATOMY)
    np.testing.assert_allclose(both["lead 2 r_amplitude"], 2 * alone["r_amplitude"], rtol=1e-6)
    np.testing.assert_array_equal(both["r_amplitude"], alone["r_amplitude"])
    assert [name for name in both if not name.startswith("lead 2")] == list(alone)


# --- Duplicates -------------------------------------------------------------------------------------------------------


def test_near_copies_are_flagged():
    """One heartbeat plus noise of 0.01: 194 of the original study's 285 synthetic beats."""
    draw = np.random.default_rng(0)
    train, held_out = beats({N: 200, S: 40}, 1), beats({N: 100, S: 30}, 2)
    one = train.x[train.y == S][:1, 0]
    one = one / one.std()
    copies = one + draw.normal(0, 0.01, (91, WINDOW)).astype(np.float32)
    assert near_duplicates(one, copies) == (0, 91)
    assert near_duplicates(one, np.concatenate([one, one + 0.1, copies[:2]])) == (1, 3)
    assert near_duplicates(train.x[:, 0], held_out.x[:, 0]) == (0, 0)  # real beats are none of each other
    train.x[np.flatnonzero(train.y == S)[0], 0] = one[0]
    made = Batch(copies[:, None], np.tile(train.rr[train.y == S][:1], (91, 1)), np.full(91, S, np.int8))
    report = assess(train, held_out, made, ANATOMY, "copies", repeats=2)
    assert (report.privacy.exact, report.privacy.near, report.variety.repeated) == (0, 91, 90)
    assert report.variety.spread < 0.05
    assert report.privacy.nndr < 0.2
    assert evidence_numbers(report)["duplicates"] == 91


# --- The report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts() -> tuple[Batch, Batch]:
    return beats({N: 300, S: 80}, 1), beats({N: 150, S: 60}, 2)


@pytest.fixture(scope="module")
def good(parts: tuple[Batch, Batch]) -> Report:
    """Beats of the very distribution that the real ones come from."""
    return assess(*parts, beats({S: 100}, 3), ANATOMY, "fresh", seed=4, repeats=4)


def test_fresh_beats_of_the_same_distribution_pass_every_tier(good: Report):
    assert (good.label, good.real, good.held_out, good.synthetic, good.reference) == ("S", 80, 60, 100, "held-out")
    assert set(good.statistical.ks) == {"r_amplitude", "qrs_width", "qrs_area", "t_amplitude", "rr_previous_ratio"}
    assert min(test.holm for test in good.statistical.ks.values()) > 0.05
    assert good.statistical.mmd_p > 0.05
    assert good.discriminative.linear.auc == pytest.approx(0.5, abs=0.15)
    assert good.discriminative.gru.auc == pytest.approx(0.5, abs=0.15)
    for scores in (good.utility.trtr, good.utility.tstr, good.utility.trts):
        assert min(scores.recall.values()) > 0.97
    assert good.utility.change == pytest.approx(0, abs=0.03)
    assert good.privacy.nndr == pytest.approx(1, abs=0.05)
    assert good.privacy.membership_auc == pytest.approx(0.5, abs=0.15)
    assert (good.privacy.exact, good.privacy.near, good.variety.repeated) == (0, 0, 0)
    assert good.variety.spread == pytest.approx(1, abs=0.15)
    assert good.variety.distance == pytest.approx(1, abs=0.05)
    assert (good.recognition.real, good.recognition.share) == (pytest.approx(1, abs=0.03), pytest.approx(1, abs=0.03))


def test_beats_of_another_shape_fail(parts: tuple[Batch, Batch]):
    """N beats called S: everyone can tell, and a classifier trained on them finds no real S."""
    made = beats({N: 100}, 5)._replace(y=np.full(100, S, np.int8))
    report = assess(*parts, made, ANATOMY, "wrong", repeats=2)
    assert report.utility.tstr.recall["S"] < 0.1
    assert report.recognition.share < 0.1
    assert report.variety.distance > 1.5
    assert report.utility.trtr.recall["S"] > 0.97
    assert report.utility.trts.recall["S"] < 0.1
    assert report.discriminative.linear.auc > 0.99
    assert report.discriminative.gru.score > 0.45
    assert report.statistical.ks["rr_previous_ratio"].statistic > 0.99
    assert report.statistical.mmd_p < 0.01


def test_copies_pass_the_statistics_and_fail_privacy(parts: tuple[Batch, Batch]):
    train, held_out = parts
    made = generate("oversample", train, S, 300, seed=1).batch()
    report = assess(train, held_out, made, ANATOMY, "oversample", repeats=2)
    assert min(test.holm for test in report.statistical.ks.values()) > 0.01
    assert report.privacy.exact == report.privacy.near == 300
    assert report.privacy.nndr == pytest.approx(0, abs=1e-6)
    assert report.privacy.membership_auc > 0.95
    assert evidence_numbers(report)["nndr_bp"] == 0


def test_a_report_is_the_same_twice(parts: tuple[Batch, Batch], good: Report):
    again = assess(*parts, beats({S: 100}, 3), ANATOMY, "fresh", seed=4, repeats=4)
    assert report_json(again) == report_json(good)
    assert json.loads(json.dumps(report_json(good), allow_nan=False)) == report_json(good)
    assert report_json(good)["privacy"]["nndr"] == round(good.privacy.nndr, 6)


def test_evidence_is_whole_numbers(good: Report):
    assert evidence_numbers(good) == {
        "auc_bp": round(10_000 * max(good.discriminative.gru.auc, good.discriminative.linear.auc)),
        "nndr_bp": round(10_000 * good.privacy.nndr),
        "distance_bp": round(10_000 * good.variety.distance),
        "duplicates": 0,
        "repeated": 0,
        "spread_bp": round(10_000 * good.variety.spread),
        "utility_bp": round(10_000 * good.utility.change),
        "recognised_bp": round(10_000 * good.recognition.share),
    }
    assert all(type(value) is int for value in evidence_numbers(good).values())


def test_tiny_counts_are_not_computable_and_count_as_the_worst():
    train, held_out, made = beats({N: 30, S: 1}, 1), beats({N: 30}, 2), beats({S: 50}, 3)
    report = assess(train, held_out, made, ANATOMY, "x", repeats=2)
    assert report.statistical == NotComputable("1 real beats, at least 10 are needed")
    assert report.discriminative == NotComputable("1 real beats, at least 20 are needed")
    assert report.utility == NotComputable("1 real beats, at least 10 are needed")
    assert report.privacy.nndr == NotComputable("1 real and 0 held-out beats, 10 of a kind are needed")
    assert report.privacy.membership_auc == NotComputable("1 real and 0 held-out beats, 10 of each are needed")
    assert report_json(report)["utility"] == {"not_computable": "1 real beats, at least 10 are needed"}
    assert report.variety.spread == NotComputable("1 real and 50 synthetic beats, at least 10 of each are needed")
    assert report.recognition == report.utility
    assert evidence_numbers(report) == {**WORST, "duplicates": 0, "repeated": 0}
    none = assess(beats({N: 30}, 1), held_out, made, ANATOMY, "x", repeats=2)
    assert none.privacy == NotComputable("0 real beats")
    assert evidence_numbers(none)["duplicates"] == 50
    alone = assess(beats({S: 30}, 1), beats({S: 30}, 2), made, ANATOMY, "x", repeats=2)
    assert alone.utility == NotComputable("0 other real beats, at least 10 are needed")
    assert isinstance(alone.discriminative, Discriminative)
    assert isinstance(report, Report)
    assert not isinstance(report.utility, Scores)


@pytest.mark.parametrize("enough", [True, False])
def test_the_page_is_a_picture(parts: tuple[Batch, Batch], good: Report, tmp_path: Path, enough: bool):
    report, real = good, beats({S: 60}, 6)
    if not enough:
        train = beats({N: 30, S: 1}, 1)
        report, real = assess(train, beats({N: 30}, 2), beats({S: 50}, 3), ANATOMY, "x", repeats=2), beats({S: 1}, 6)
    draw_quality(report, real, beats({S: 50}, 7), ANATOMY, tmp_path / "page.png")
    page = (tmp_path / "page.png").read_bytes()
    assert page.startswith(b"\x89PNG")
    assert len(page) > 50_000


# --- What the default policy makes of it ------------------------------------------------------------------------------


def verdict(train: Batch, held_out: Batch, made: Batch) -> Reason:
    """What the default policy finds wrong with a batch."""
    numbers = evidence_numbers(assess(train, held_out, made, ANATOMY, "x", repeats=1))
    signed = SyntheticReport(bytes(32), len(made.y), bytes(32), bytes(32), **numbers)
    return shortcomings(policy_of(PolicyConfig(), CLASSES), signed)


def mean_beat(train: Batch, count: int, noise: float) -> Batch:
    """What a collapsed generator gives: the mean S beat, over and over, with noise of a share of its deviation."""
    draw, real = np.random.default_rng(0), train.y == S
    x, rr = (np.repeat(part[real].mean(0)[None], count, 0) for part in (train.x, train.rr))
    x = x + noise * x.std((1, 2), keepdims=True) * draw.standard_normal(x.shape)
    rr = rr + noise * train.rr[real].std(0) * draw.standard_normal(rr.shape)
    return Batch(x.astype(np.float32), rr.astype(np.float32), np.full(count, S, np.int8))


def test_honest_batches_are_accepted_by_default(parts: tuple[Batch, Batch]):
    train, held_out = parts
    assert not verdict(train, held_out, beats({S: 100}, 3))
    assert not verdict(train, held_out, generate("smote", train, S, 300, seed=1).batch())


def test_a_collapsed_batch_is_rejected_by_default_with_any_noise(parts: tuple[Batch, Batch]):
    """544 of 545 beats of a TimeGAN after 20 steps were one; every number said so, and all were accepted."""
    assert Reason.REPEATED | Reason.SPREAD in verdict(*parts, mean_beat(parts[0], 200, 0))
    for noise in (0.02, 0.1):
        assert Reason.SPREAD in verdict(*parts, mean_beat(parts[0], 200, noise)), noise


def test_half_a_batch_of_one_beat_is_too_much(parts: tuple[Batch, Batch]):
    train, held_out = parts
    made = joined(generate("smote", train, S, 100, seed=1).batch(), mean_beat(train, 100, 0))
    assert verdict(train, held_out, made) == Reason.REPEATED


def test_copies_other_classes_noise_and_too_few_beats_are_rejected_by_default(parts: tuple[Batch, Batch]):
    train, held_out = parts
    copies = generate("oversample", train, S, 300, seed=1).batch()
    assert Reason.NNDR | Reason.DUPLICATES | Reason.REPEATED in verdict(train, held_out, copies)
    assert Reason.RECOGNISED in verdict(train, held_out, beats({N: 100}, 5)._replace(y=np.full(100, S, np.int8)))
    draw = np.random.default_rng(1)
    x = 3 * draw.standard_normal((100, 1, WINDOW))
    noise = Batch(x.astype(np.float32), np.zeros((100, 2), np.float32), np.full(100, S, np.int8))
    assert Reason.DISTANCE in verdict(train, held_out, noise)
    assert verdict(train, held_out, beats({S: 9}, 3)) == Reason.SPREAD | Reason.RECOGNISED  # nothing can be said
