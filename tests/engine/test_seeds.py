"""Streams of random numbers: repeatable, and no two purposes, rounds, hospitals or seeds share one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.seeds import generator

numbers = st.integers(0, 2**40)
arguments = st.tuples(st.integers(0, 2**63 - 1), st.text(max_size=20), numbers, numbers)


def draw(*where: object) -> tuple[int, ...]:
    return tuple(generator(*where).integers(2**63, size=4).tolist())  # type: ignore[arg-type]


@given(arguments)
def test_same_arguments_give_the_same_numbers(where: tuple) -> None:
    assert draw(*where) == draw(*where)


@given(arguments, arguments)
def test_one_other_argument_gives_another_stream(where: tuple, others: tuple) -> None:
    for position, other in enumerate(others):
        changed = (*where[:position], other, *where[position + 1 :])
        assert (draw(*changed) == draw(*where)) == (changed == where)


def test_no_two_places_of_a_study_share_a_stream() -> None:
    places = list(itertools.product(range(4), ("batches", "sampling", "partition"), range(5), range(5)))
    assert len({draw(*place) for place in places}) == len(places) == 300


def test_a_hospital_does_not_repeat_the_next_seed() -> None:
    assert draw(0, "batches", 0, 1) != draw(1, "batches", 0, 0)
    assert draw(0, "batches", 1, 0) != draw(0, "batches", 0, 1)
    plain = tuple(np.random.default_rng(1).integers(2**63, size=4).tolist())
    assert plain not in {draw(0, "batches", 0, 1), draw(1, "batches"), draw(0, "batches", 1)}


def test_the_streams_stay_what_they_were() -> None:
    # Two words of NumPy's SeedSequence, which its version policy keeps; another value makes old results unrepeatable.
    source = generator(7, "batches", 3, 2).bit_generator.seed_seq
    assert source.generate_state(2).tolist() == [2043837885, 4202126034]  # type: ignore[attr-defined]


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    generator(1, "batches").random(100)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index,arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        generator(-1, "batches")
