"""Beats as they might have looked: each change by itself, by hand, and only where hospitals train."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.config import RunConfig
from engine.data.augment import AugmentConfig, alter_of, unaltered
from engine.data.samples import Samples
from engine.experiment import run
from engine.oracles.base import Batch


def batch(n: int = 2000, leads: int = 1, window: int = 5) -> Batch:
    """Each beat rises by one from sample to sample; in the second lead by ten."""
    ramp = np.arange(1, window + 1, dtype=np.float32) * np.array([[1], [10]], np.float32)[:leads]
    return Batch(np.tile(ramp, (n, 1, 1)), np.zeros((n, 0), np.float32), np.arange(n) % 3)


def altered(given: Batch, copies: int = 1, **settings: float) -> np.ndarray:
    alter = alter_of(AugmentConfig(**settings), np.random.default_rng(3), copies)  # type: ignore[arg-type]
    found = alter(given)
    assert found.x.dtype == np.float32
    assert found.y is given.y
    return found.x


def test_nothing_is_done_by_default():
    assert alter_of(AugmentConfig(), np.random.default_rng(0)) is unaltered
    given = batch()
    assert unaltered(given) is given


def test_a_beat_moves_as_a_whole_and_its_ends_are_drawn_out():
    moved = altered(batch(leads=2), shift=2)
    allowed = {(3, 4, 5, 5, 5), (2, 3, 4, 5, 5), (1, 2, 3, 4, 5), (1, 1, 2, 3, 4), (1, 1, 1, 2, 3)}
    assert {tuple(beat) for beat in moved[:, 0].astype(int).tolist()} == allowed
    assert np.array_equal(moved[:, 1], 10 * moved[:, 0])


def test_a_factor_is_the_same_all_along():
    by = altered(batch(leads=2), scale=0.5) / batch(leads=2).x
    assert np.allclose(by, by[:, :1, :1], rtol=1e-5)
    assert np.log(by[:, 0, 0]).std() == pytest.approx(0.5, rel=0.1)
    assert np.log(by[:, 0, 0]).mean() == pytest.approx(0.0, abs=0.05)


def test_noise_is_fresh_in_each_sample_and_the_same_in_both_looks_at_a_lead():
    added = altered(batch(leads=2), copies=2, noise=0.25) - batch(leads=2).x
    assert np.allclose(added[:, 0], added[:, 1], atol=1e-5)
    assert added[:, 0].std() == pytest.approx(0.25, rel=0.05)
    assert abs(np.corrcoef(added[:, 0, 0], added[:, 0, 1])[0, 1]) < 0.1
    apart = altered(batch(leads=2), noise=0.25) - batch(leads=2).x
    assert abs(np.corrcoef(apart[:, 0, 0], apart[:, 1, 0])[0, 1]) < 0.1


def test_a_baseline_wanders_slowly():
    added = altered(batch(window=100), wander=1.0) - batch(window=100).x
    # a sine of height h and at most half a turn changes by h * pi / 100 a sample at most
    assert np.abs(np.diff(added, axis=2)).max() < 4.5 * np.pi / 100
    assert np.abs(added).max() > 1


def test_batches_are_altered_anew_and_what_is_kept_is_not():
    x = batch(4).x
    samples = Samples(x, np.zeros((4, 0), np.float32), np.zeros(4, np.int8), np.arange(4))
    noisy = Samples(**{**vars(samples), "alter": alter_of(AugmentConfig(noise=1.0), np.random.default_rng(0))})
    first, second = noisy.batch(), noisy.batch()
    assert not np.array_equal(first.x, second.x)
    assert np.array_equal(samples.batch().x, x)
    assert np.array_equal(noisy.x, x)


def test_a_run_that_alters_beats_is_another_one_and_comes_again(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    changed = {"augment.noise": 0.2, "augment.shift": 3, "data.template": "leads"}
    found = [run(tiny_config(**settings), tmp_path / str(i)) for i, settings in enumerate([{}, changed, changed])]
    assert found[1].model_hash == found[2].model_hash != found[0].model_hash
    assert found[1].final == found[2].final
