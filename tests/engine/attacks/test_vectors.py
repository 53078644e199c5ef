"""What attackers send who know the honest updates: by hand."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32

from engine.aggregation import robust
from engine.attacks import vectors
from engine.attacks.vectors import COPIED, DIRECTION, adaptive, alie, alie_z, copycat, ipm, mimic

HONEST = {2: f32(1, 2), 0: f32(3, 2), 5: f32(2, 8)}


def test_the_printed_examples():
    assert doctest.testmod(vectors).failed == 0


def test_ipm_by_hand():
    assert ipm(HONEST, 0.5).tolist() == [-1.0, -2.0]
    assert float(ipm(HONEST, 2.0) @ np.mean(list(HONEST.values()), 0)) < 0


def test_alie_by_hand():
    # means 2 and 4, standard deviations sqrt(2/3) and sqrt(8)
    assert alie(HONEST, 1.0).tolist() == pytest.approx([2 - (2 / 3) ** 0.5, 4 - 8**0.5])
    assert alie(HONEST, 0.0).tolist() == [2.0, 4.0]


def test_the_z_of_alie():
    # 50 workers, 24 of them hostile: 2 honest ones are wanted, Phi^-1(24/26), the paper's 1.43
    assert alie_z(50, 24) == pytest.approx(1.43, abs=0.01)
    assert alie_z(20, 4) == pytest.approx(0.157, abs=0.001)
    assert alie_z(10, 6) == 0.0  # they are a majority without any help


def test_a_copycat_sends_the_update_of_the_first_hospital_and_no_view_of_it():
    sent = copycat(HONEST)
    assert sent.tolist() == [3.0, 2.0]
    assert not np.shares_memory(sent, HONEST[0])


def test_mimic_finds_the_hospital_that_sticks_out_and_stays_with_it():
    memory: dict[str, np.ndarray] = {}
    for round in range(1, 4):
        _, memory = mimic(HONEST, round, memory)
    # apart from the mean (2, 4): (1, -2), (-1, -2), (0, 4); from (1, 1) the first step leads to (2, 24), and hospital 5 is furthest
    assert float(memory[DIRECTION][1]) > 0.99
    settled = int(memory[COPIED])
    assert settled == 5
    turned = {0: f32(0, 0), 2: f32(90, 0), 5: f32(-90, 0), settled: f32(1, 1)}
    again, kept = mimic(turned, 4, memory)
    assert again.tolist() == [1.0, 1.0]
    assert int(kept[COPIED]) == settled
    gone = {h: v for h, v in turned.items() if h != settled}
    assert mimic(gone, 5, kept)[0].tolist() == gone[min(gone)].tolist()


def test_mimic_bears_updates_that_are_all_the_same():
    sent, memory = mimic({1: f32(1, 1), 2: f32(1, 1)}, 1, {})
    assert sent.tolist() == [1.0, 1.0]
    assert np.isfinite(memory[DIRECTION]).all()


def merge_of(rule, hostile: int):
    def merge(sent: np.ndarray) -> np.ndarray:
        return rule(np.array([*HONEST.values(), *[sent] * hostile], np.float64))

    return merge


def test_against_the_mean_the_adaptive_attack_is_as_strong_as_it_is_allowed_to_be():
    sent = adaptive(HONEST, merge_of(robust.mean, 1))
    assert float(np.linalg.norm(sent)) > 60 * float(np.linalg.norm([2.0, 4.0]))


def test_against_krum_it_does_no_less_harm_than_any_fixed_strength():
    honest = {h: f32(1 + 0.1 * h, 1 - 0.1 * h) for h in range(6)}
    mean = np.mean(list(honest.values()), 0)

    def merge(sent: np.ndarray) -> np.ndarray:
        return robust.multi_krum(np.array([*honest.values(), sent, sent], np.float64), 2, 1)

    def harm(sent: np.ndarray) -> float:
        return float(mean @ (mean - merge(sent)))

    assert harm(adaptive(honest, merge)) >= max(harm(ipm(honest, 2.0**k)) for k in range(-3, 7))


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_nothing_depends_on_the_order_in_which_honest_updates_are_known(seed: int, hospitals: int):
    draw = np.random.default_rng(seed)
    honest = {h: draw.standard_normal(4).astype(np.float32) for h in range(hospitals)}
    turned = dict(reversed(honest.items()))
    for craft in (lambda u: ipm(u, 2.0), lambda u: alie(u, 1.0), copycat, lambda u: mimic(u, 1, {})[0]):
        assert craft(honest).tobytes() == craft(turned).tobytes()
