"""What a hostile hospital does alone."""

import doctest

import numpy as np
import pytest
from reference import f32, samples

from engine.attacks import poison
from engine.attacks.config import AttackConfig
from engine.attacks.poison import HONEST, conduct, flipped, hostile, relabelled, triggered, wave
from engine.config import RunConfig, config_hash
from engine.errors import ConfigError
from engine.settings import parse

CLASSES = ("N", "S", "V", "F")
VECTOR, MODEL = f32(1, -2), f32(5, 5)


def sent(config: AttackConfig, round: int = 1, state: dict | None = None, params: np.ndarray = MODEL):
    return conduct(config, CLASSES, 7, 3, round).send(VECTOR, params, state or {})


def test_the_printed_examples():
    assert doctest.testmod(poison).failed == 0


def test_labels_are_turned_round_and_the_beats_stay():
    part = samples([[1.0], [2.0], [3.0]], [0, 2, 3])
    turned = conduct(AttackConfig(method="label-flip"), CLASSES, 0, 0, 1).beats(part)
    assert turned.labels().tolist() == [3, 1, 0]
    assert turned.batch().x.tolist() == part.batch().x.tolist()
    assert part.labels().tolist() == [0, 2, 3]  # its test is not touched
    assert relabelled(turned, flipped(4)).labels().tolist() == part.labels().tolist()


def test_a_backdoor_marks_a_share_of_the_beats_with_a_bump_and_the_target():
    part = samples(np.zeros((8, 1, 20), np.float32), [2] * 8)
    marked = triggered(part, 0.25, 0, np.random.default_rng(0)).batch()
    bumped = np.flatnonzero(marked.x.any((1, 2)))
    assert len(bumped) == 2
    assert marked.y[bumped].tolist() == [0, 0]
    assert (marked.y == 2).sum() == 6
    np.testing.assert_array_equal(marked.x[bumped[0], 0], wave(20))
    assert np.flatnonzero(wave(20)).tolist() == [18, 19]
    assert not part.batch().x.any()


def test_signs_are_flipped_and_stretched():
    assert sent(AttackConfig(method="sign-flip")).vector.tolist() == [-4.0, 8.0]
    assert sent(AttackConfig(method="sign-flip", strength=0.5)).vector.tolist() == [-0.5, 1.0]


def test_noise_is_as_long_as_it_is_told_and_another_in_each_round():
    first, second = (sent(AttackConfig(method="noise", strength=2), round).vector for round in (1, 2))
    assert float(np.linalg.norm(first)) == pytest.approx(2 * 5**0.5, rel=1e-6)
    assert first.tolist() != second.tolist()
    assert first.tolist() == sent(AttackConfig(method="noise", strength=2)).vector.tolist()


def test_a_free_rider_sends_the_last_change_of_the_model():
    ride = AttackConfig(method="free-rider", start=2)
    first = sent(ride, 1)
    assert first.vector.tolist() == VECTOR.tolist()  # honest until then
    second = sent(ride, 2, first.memory, MODEL + f32(0.5, 0))
    assert second.vector.tolist() == [0.5, 0.0]
    assert sent(AttackConfig(method="free-rider")).vector.tolist() == [0.0, 0.0]  # it has seen nothing yet


@pytest.mark.parametrize("method", ["left-out", "ipm", "alie", "mimic", "copycat", "adaptive"])
def test_those_who_are_told_what_to_send_are_honest_alone(method: str):
    assert conduct(AttackConfig(method=method), CLASSES, 0, 0, 1) is HONEST


@pytest.mark.parametrize("method", ["label-flip", "backdoor", "sign-flip", "noise", "ipm"])
def test_before_it_starts_an_attack_is_none(method: str):
    assert conduct(AttackConfig(method=method, start=3), CLASSES, 0, 0, 2) is HONEST


def test_who_is_hostile_follows_from_share_and_seed():
    config = AttackConfig(method="ipm", share=0.3)
    drawn = [hostile(config, 20, seed) for seed in range(5)]
    assert {len(d) for d in drawn} == {6}
    assert len(set(drawn)) > 1
    assert drawn[0] == hostile(AttackConfig(method="alie", share=0.3), 20, 0)  # the same ones, whatever they do


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ({"method": "ipm", "hospitals": [5]}, r"there is no hospital 5; they are 0 to 4"),
        ({"method": "ipm", "hospitals": [1, 1]}, r"names a hospital twice"),
        ({"method": "ipm", "share": 0.05}, r"attack.share makes none of the 5 hospitals hostile"),
        ({"method": "ipm", "hospitals": [0, 1, 2, 3, 4]}, r"attack.hospitals makes all of the 5"),
        ({"method": "backdoor", "target": "X"}, r"attack.target: 'X' is no class; allowed: N, S, V, F"),
    ],
)
def test_an_attack_that_cannot_be_is_refused(attack: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        parse(RunConfig, {"attack": attack, "cohort": {"hospitals": 5}}, "run.yaml")


def test_what_an_attack_does_not_read_is_no_part_of_a_run_s_identity():
    def of(**attack: object) -> str:
        return config_hash(parse(RunConfig, {"attack": attack}, "run.yaml"))

    assert of() == of(share=0.5, strength=9.0)
    assert of(method="ipm") != of(method="alie")
    assert of(method="mimic", strength=1.0) == of(method="mimic")
    assert of(method="ipm", strength=1.0) != of(method="ipm")
