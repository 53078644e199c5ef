"""Features that are released once with noise: bounds by hand, their noise, the head on them, refusals, a whole run and its audit."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import case_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from engine.algorithms.base import Work
from engine.algorithms.build import build_algorithm
from engine.algorithms.config import METHODS, FederationConfig, PersonalisationConfig
from engine.audit import accountant, privacy
from engine.audit.case import Case
from engine.audit.report import Finding
from engine.audit.run import audit
from engine.data.samples import Samples
from engine.encoding import canonical_json
from engine.errors import ConfigError, PrivacyError, Stopped
from engine.experiment import HERE, run
from engine.model import FeatureNetwork, frozen_features
from engine.oracles.base import Batch
from engine.oracles.torch import TorchOracle
from engine.privacy.config import PrivacyConfig
from engine.privacy.features import (
    HeadOracle,
    Normalisation,
    by_batch,
    by_beat,
    normalised,
    of_features,
    raised,
    shortened,
)
from engine.privacy.plan import mechanism_of
from engine.result import Result

NETWORK = FeatureNetwork(leads=1, window=12, rr=3, classes=3, features=20, seed=0)
DELTA = 1e-5


def config(**settings: Any) -> PrivacyConfig:
    return PrivacyConfig(method="features", **settings)


def beats(n: int, seed: int = 0) -> Samples:
    draw = np.random.default_rng(seed)
    x, rr = (draw.standard_normal(shape).astype(np.float32) for shape in ((n, 1, 12), (n, 3)))
    return Samples(x, rr, (np.arange(n) % 3).astype(np.int8), np.arange(n))


def release(samples: Samples, settings: PrivacyConfig, secret: bytes = bytes(32), state: Any = None) -> Any:
    how = Normalisation(settings.normalisation, settings.batch, settings.clip)
    made = of_features(mechanism_of(settings, (0, 0), NETWORK.features), NETWORK, how, secret)
    return made(1, np.zeros(NETWORK.size, np.float32), state or {}, samples)


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_the_bounds_of_zhao_et_al_by_hand():
    """64 maps of 14 x 14: a value that stands out alone is sqrt(64 196 - 1) under batch norm and sqrt(196 - 1) over its own map, 112 and 14."""
    maps = np.zeros((64, 196))
    maps[0, 0] = 1.0
    alone = by_beat(maps[:1]) * math.sqrt(196)  # of variance 1, as theirs are
    assert alone.max() == pytest.approx(math.sqrt(195))  # 13.96
    whole = maps.reshape(-1, 1)  # one channel: all of its 64 x 196 values are normalised together
    assert by_batch(whole, whole.mean(0), whole.std(0)).max() == pytest.approx(math.sqrt(64 * 196 - 1))  # 111.996
    assert [round(math.sqrt(n)) for n in (64 * 196 - 1, 195)] == [112, 14]
    assert np.linalg.norm(alone) == pytest.approx(14)  # so two maps are at most 28 apart


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({}, 2.0),
        ({"release": "laplace"}, 2 * math.sqrt(196)),
        ({"normalisation": "batch", "batch": 64}, 2 * 8.0),
        ({"normalisation": "batch", "batch": 64, "release": "laplace"}, 2 * 8 * math.sqrt(64 * 196)),
        ({"normalisation": "none", "clip": 0.3}, 0.6),
        ({"normalisation": "none", "clip": 0.3, "release": "laplace"}, 0.6 * 14),
    ],
)
def test_what_the_noise_goes_by_is_how_far_neighbours_are_apart(settings: dict[str, Any], clip: float):
    assert mechanism_of(config(noise=1.0, **settings), (0, 0), 196).clip == round(clip * 10**6)


@given(
    st.sampled_from(["beat", "batch", "none"]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 1e3]),
    st.integers(0, 7),
)
def test_no_two_neighbours_are_farther_apart(how: str, seed: int, scale: float, place: int):
    """Whatever one of eight beats is, in groups of four, the last of which is smaller: of a beat of nothing, too."""
    draw = np.random.default_rng(seed)
    one = np.maximum(draw.standard_normal((7, 5)), 0)
    other = one.copy()
    other[place % 7] = scale * np.maximum(draw.standard_normal(5), 0)
    settings = {"normalisation": how, "batch": 4, "clip": 0.5}
    kind = Normalisation(how, 4, 0.5)
    moved = normalised(one, kind) - normalised(other, kind)
    most = {
        name: mechanism_of(config(noise=1.0, release=name, **settings), (0, 0), 5).clip / 1e6
        for name in ("gaussian", "laplace")
    }
    assert np.linalg.norm(moved) <= most["gaussian"] + 1e-9
    assert np.abs(moved).sum() <= most["laplace"] + 1e-9


def test_the_bounds_are_reached():
    """Opposite beats; a group of two that are exchanged; two long ones."""
    sign = np.array([[1.0, 1, -1, -1]])
    assert np.linalg.norm(by_beat(sign) - by_beat(-sign)) == pytest.approx(2)
    assert np.abs(by_beat(sign) - by_beat(-sign)).sum() == pytest.approx(2 * math.sqrt(4))
    group = np.array([[0.0] * 4, [1.0] * 4])
    moved = normalised(group, Normalisation("batch", 2, 1)) - normalised(
        np.array([[2.0] * 4, [1.0] * 4]), Normalisation("batch", 2, 1)
    )
    assert np.linalg.norm(moved) == pytest.approx(2 * math.sqrt(2))
    assert np.linalg.norm(shortened(9 * sign, 0.5) - shortened(-9 * sign, 0.5)) == pytest.approx(1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_beat_that_is_not_finite_is_released_as_nothing_and_moves_no_other(value: float):
    samples = beats(6)
    broken = samples.x.copy()
    broken[2, 0, 3] = value
    for how in (Normalisation("beat", 2, 1.0), Normalisation("none", 2, 1.0)):
        plain, other = (normalised(raised(NETWORK, x, samples.rr), how) for x in (samples.x, broken))
        assert not other[2].any()
        np.testing.assert_array_equal(np.delete(other, 2, 0), np.delete(plain, 2, 0))


# --- Noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "law"), [("gaussian", "norm"), ("laplace", "laplace")])
def test_the_noise_has_its_law_and_scale(name: str, law: str):
    settings = config(noise=3.0, release=name)
    samples = beats(400)
    clean, shown = normalised_of(samples), release(samples, settings).shown(samples)
    scale = 3.0 * (2 * math.sqrt(20) if name == "laplace" else 2)
    assert kstest(((shown.x - clean) / scale).ravel(), law).pvalue > 1e-3
    assert shown.rr.shape == (400, 0)
    assert (shown.labels() == samples.labels()).all()


def normalised_of(samples: Samples) -> np.ndarray:
    """Features of length one, as torch's network has them."""
    network = replace(NETWORK, classes=NETWORK.features)
    identity = np.concatenate([np.eye(NETWORK.features).ravel(), np.zeros(NETWORK.features)]).astype(np.float32)
    return TorchOracle(network).scores(identity, *samples.batch()[:2])


def test_a_release_is_made_once_and_again_with_the_same_bits_and_no_second_one():
    samples, settings = beats(30), config(noise=1.0)
    first = release(samples, settings)
    again = release(samples, settings, state=first.memory())
    np.testing.assert_array_equal(first.shown(samples).x, again.shown(samples).x)
    assert first.price(7) == again.price(0)
    assert (first.price(7)["steps"], first.price(7)["spent"]) == ([1, 0], [1, 0])
    assert not np.array_equal(release(samples, settings, bytes([1] * 32)).shown(samples).x, first.shown(samples).x)
    for other in (beats(30, seed=1), replace(samples, index=samples.index[:-1])):
        with pytest.raises(PrivacyError, match="other train beats were released before"):
            release(other, settings, state=first.memory())


def test_one_release_costs_what_two_formulas_say():
    """Of Laplace noise of scale b on a sum of absolute values of at most D, D / b; of one Gaussian of sigma 1, 4.377 (Balle, Wang 2018)."""
    laplace = mechanism_of(config(epsilon=3.0, release="laplace"), (0, 0), 50)
    assert (laplace.sigma, laplace.delta) == (334_000, 0)  # 1 / 3, rounded up
    assert laplace.epsilon((1, 0)) == pytest.approx(1 / 0.334)
    assert laplace.bounds((1, 0)) == (laplace.epsilon((1, 0)),) * 2
    gaussian = mechanism_of(config(noise=1.0), (0, 0), 50)
    assert gaussian.epsilon((1, 0)) == pytest.approx(4.377, abs=2e-3)
    assert accountant.epsilon([(1.0, 1.0, 1, 1)], DELTA) == pytest.approx(4.377, abs=1e-3)
    asked = mechanism_of(config(epsilon=2.0), (0, 0), 50)
    assert asked.epsilon((1, 0)) <= 2 < asked._replace(sigma=asked.sigma - 1000).epsilon((1, 0))


# --- The head ---------------------------------------------------------------------------------------------------------


def head(how: str = "beat", train: Samples | None = None) -> HeadOracle:
    return HeadOracle(NETWORK, Normalisation(how, 8, 1.0), TorchOracle(NETWORK), beats(40) if train is None else train)


def test_the_head_s_gradient_is_that_of_the_network_where_there_is_no_noise():
    samples, draw = beats(9), np.random.default_rng(5)
    params = draw.standard_normal(NETWORK.size).astype(np.float32)
    weight, offset = np.array([1.0, 3.0, 0.5], np.float32), np.array([0.2, -1.0, 0.0], np.float32)
    windows = samples.batch()._replace(class_weight=weight, logit_offset=offset)
    given = windows._replace(x=normalised_of(samples), rr=np.zeros((9, 0), np.float32))
    (loss, gradient), (expected, right) = head().gradient(params, given), TorchOracle(NETWORK).gradient(params, windows)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, right, atol=2e-6)
    vector = draw.standard_normal(NETWORK.size).astype(np.float32)
    np.testing.assert_allclose(
        head().hessian_vector(params, given, vector),
        TorchOracle(NETWORK).hessian_vector(params, windows, vector),
        atol=2e-6,
    )


@pytest.mark.parametrize("how", ["beat", "batch", "none"])
def test_windows_are_scored_by_features_normalised_as_those_of_the_train_beats(how: str):
    train = beats(40)
    params = np.random.default_rng(5).standard_normal(NETWORK.size).astype(np.float32)
    found = head(how, train).scores(params, *train.batch()[:2])
    z = normalised(raised_of(train), Normalisation(how, 40, 1.0))
    np.testing.assert_allclose(found, z @ params[:60].reshape(3, 20).T + params[60:], atol=1e-5)


def raised_of(samples: Samples) -> np.ndarray:
    """relu(W (row, 1)), written down again."""
    batch = samples.batch()
    rows = np.concatenate([batch.x[:, 0], batch.rr, np.ones((len(batch.y), 1), np.float32)], 1).astype(np.float64)
    return np.maximum(rows @ frozen_features(NETWORK).astype(np.float64), 0)


class Noised(HeadOracle):
    """Asks for nothing but the head on features."""

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        assert x.ndim == 2
        return super().scores(params, x, rr)

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        assert batch.x.ndim == 2
        assert batch.rr.shape[1] == 0
        return super().gradient(params, batch)


@pytest.mark.parametrize("algorithm", [name for name in METHODS if name != "fedbn"])
def test_every_algorithm_sees_noised_features_and_no_window(algorithm: str):
    samples = beats(30)
    one = release(samples, config(noise=1.0))
    built = build_algorithm(FederationConfig(algorithm=algorithm), PersonalisationConfig(steps=2))
    oracle = Noised(NETWORK, Normalisation("beat", 2, 1.0), TorchOracle(NETWORK), samples)
    params = np.zeros(NETWORK.size, np.float32)
    work = Work(oracle, NETWORK.layout, params, {}, one.shown(samples), np.random.default_rng(0), 1, one)
    update = built.local(work).update
    assert np.isfinite(update).all()
    built.personalise(replace(work, round=0))


# --- Refusals ---------------------------------------------------------------------------------------------------------

KEYS = {
    "privacy.method": "features",
    "privacy.epsilon": 8.0,
    "model.network": "features",
    "model.features": 30,
    "ledger.backend": "embedded",
    "personalisation.steps": 2,
}
REFUSED = {
    "model.network cnn has no frozen features to release; with privacy.method features it is features": {"model.network": "cnn"},
    "privacy.unit patient has many beats": {"privacy.unit": "patient"},
    "attack.method noise alters windows or updates": {"attack.method": "noise"},
    "augment alters windows": {"augment.shift": 2},
    "makes or repeats beats beside those whose features are released": {"balance.method": "smote"},
    "privacy.method features needs one of privacy.epsilon and privacy.noise, not none": {"privacy.epsilon": None},
    "chooses by beats without noise": {"personalisation.method": "safeguarded"},
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_does_not_go_with_it_is_refused_by_name(tiny_config, sentence: str):
    with pytest.raises(ConfigError) as error:
        tiny_config(**{**KEYS, **REFUSED[sentence]})
    assert sentence in str(error.value)


def test_passes_and_class_weights_go_with_it(tiny_config):
    tiny_config(**KEYS, **{"federation.local_epochs": 2, "balance.method": "class_weighted"})


# --- A run, and its audit ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "run"
    run(tiny_config(**KEYS, **{"privacy.normalisation": "batch"}), folder)
    return folder


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    return case_of(folder)


def found(case: Case) -> set[tuple[int | None, int | None, str]]:
    told = [one for one in privacy.check(case) if isinstance(one, Finding)]
    return {(one.round, one.hospital, one.field) for one in told}


def test_a_run_is_clean_and_its_result_says_what_was_spent(folder: Path):
    report = audit(folder)
    assert report.findings == []
    assert str(report.verdict) == "clean"
    said = Result.read(folder).privacy
    assert said is not None
    assert (said.mechanism, said.neighbours, said.sampling_rate) == ("features-batch-gaussian/1", "change", 1.0)
    assert 7.9 < said.epsilon <= 8.0
    assert said.clip == 16.0
    assert [(one.samples, one.told) for one in said.hospitals] == [((1, 0), True)] * 3
    for words in (
        "that a beat is among the train beats, and its class",
        "mean and deviation of the train beats' features",
    ):
        assert any(words in one for one in said.not_protected)


def changed(case: Case, number: int, change: Callable[[dict[str, Any]], Any]) -> Case:
    """With another record of one update."""
    entry = case.rounds[number]
    update = entry.updates[1]
    record = json.loads(update.opening.privacy)
    change(record)
    update = replace(update, opening=replace(update.opening, privacy=canonical_json(record).encode()))
    return replace(case, rounds={**case.rounds, number: replace(entry, updates={**entry.updates, 1: update})})


@pytest.mark.parametrize(
    "name", ["mechanism", "sigma", "clip", "delta", "unit", "neighbours", "sampler", "rate", "budget", "secret"]
)
def test_an_altered_value_is_named(case: Case, name: str):
    assert found(case) == set()
    altered = changed(case, 1, lambda record: record.update({name: "x"}))
    assert (1, 1, f"privacy.{name}") in found(altered)


def test_a_second_release_and_one_beyond_the_budget_are_named(case: Case):
    other = changed(case, 2, lambda record: record.update(noise="0x" + "11" * 32))
    assert found(other) == {(2, 1, "privacy.noise")}
    twice = changed(case, 2, lambda record: record.update(steps=[2, 0], spent=[2, 0]))
    assert found(twice) == {(2, 1, "privacy.steps"), (2, 1, "privacy.spent")}


def test_noise_that_does_not_follow_from_the_epsilon_is_named(case: Case):
    private = {**case.config["privacy"], "epsilon": 4.0}
    less = replace(case)
    vars(less)["config"] = {**case.config, "privacy": private}
    assert (None, None, "privacy.sigma") in found(less)


def test_an_interrupted_run_ends_with_the_same_bits(folder: Path, tiny_config, tmp_path: Path):
    settings = tiny_config(**KEYS, **{"privacy.normalisation": "batch"})
    with pytest.raises(Stopped):
        run(settings, tmp_path / "run", replace(HERE, stopping=lambda: True))
    again = run(settings, tmp_path / "run")
    assert (again.model_hash, again.privacy) == (Result.read(folder).model_hash, Result.read(folder).privacy)


@pytest.mark.parametrize(
    "settings", [{"privacy.release": "laplace", "privacy.epsilon": 3.0}, {"privacy.normalisation": "none"}]
)
def test_other_kinds_are_clean_too(tiny_config, tmp_path: Path, settings: dict[str, Any]):
    result = run(tiny_config(**{**KEYS, **settings, "federation.rounds": 1}), tmp_path / "run")
    assert str(audit(tmp_path / "run").verdict) == "clean"
    assert result.privacy is not None
    assert result.privacy.delta == (0 if "privacy.release" in settings else 1e-5)
    assert result.privacy.epsilon <= settings.get("privacy.epsilon", 8.0)
