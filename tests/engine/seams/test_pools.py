"""What every pool must keep: the same bits as in this process, one hospital after another. A new pool is added to `POOLS`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.config import RunConfig
from engine.data.cohort import Cohort, build_cohort
from engine.data.config import CLASSES
from engine.errors import HospitalError
from engine.hospital import Task
from engine.ledger.desk import unanchored
from engine.ledger.signer import Terms
from engine.ledger.subjects.synthetic import SignedRequest
from engine.ledger.typed import digest
from engine.messages import Asked, Pool, Update
from engine.model import build_network, initial_parameters
from engine.pools.build import build_pool
from engine.privacy.dpsgd import SPENT
from engine.result import SyntheticRow
from engine.synthesis.files import load_synthetic

TERMS = Terms(unanchored(b"\x11" * 32), 1)

POOLS: dict[str, dict[str, Any]] = {
    "inprocess": {"execution.pool": "inprocess"},
    "threads": {"execution.pool": "threads", "execution.cpus": 2},
    "ray, an actor each": {"execution.pool": "ray", "execution.hospitals_per_actor": 1},
    "ray, one for all": {"execution.pool": "ray", "execution.hospitals_per_actor": 3},
}


def task(config: RunConfig, cohort: Cohort, keep: bool = True) -> Task:
    beats = cohort.beats
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    return Task(config, network, beats.folder, None, keep_vectors=keep)


@pytest.fixture(scope="module")
def cohort(tiny_config) -> Cohort:
    config = tiny_config()
    return build_cohort(config.data, config.cohort)


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.long] * (name == "ray, an actor each")) for name in POOLS]
)
def keys(request: pytest.FixtureRequest) -> dict[str, Any]:
    if "ray" in request.param:
        request.getfixturevalue("ray2")
    return POOLS[request.param]


@pytest.fixture
def pool(keys: dict[str, Any], tiny_config, cohort: Cohort) -> Iterator[Pool]:
    built = build_pool(cohort.hospitals, task(tiny_config(**keys), cohort))
    yield built
    built.close()


@pytest.fixture
def reference_pool(tiny_config, cohort: Cohort) -> Pool:
    return build_pool(cohort.hospitals, task(tiny_config(), cohort))


def start(cohort: Cohort, tiny_config) -> np.ndarray:
    return initial_parameters(task(tiny_config(), cohort).network, 0)


def test_training_gives_the_bits_of_this_process(pool: Pool, reference_pool: Pool, cohort: Cohort, tiny_config):
    asked = Asked(1, (0, 2), start(cohort, tiny_config))
    found, expected = pool.train(asked, None), reference_pool.train(asked, None)
    np.testing.assert_array_equal(found.summed, expected.summed)
    assert [u.hospital for u in found.answers] == [0, 2]
    for a, b in zip(found.answers, expected.answers, strict=True):
        np.testing.assert_array_equal(a.vector, b.vector)
        assert (a.samples, a.loss, a.gradient_evaluations) == (b.samples, b.loss, b.gradient_evaluations)


def test_noise_and_account_are_those_of_this_process(keys: dict[str, Any], cohort: Cohort, tiny_config):
    """A hospital that is put back to an earlier state releases the same again; one that goes on counts on."""
    private = {"privacy.method": "dp-sgd", "privacy.noise": 1.0, "privacy.steps": 2, "privacy.sampling_rate": 0.1}
    params, found = start(cohort, tiny_config), []
    for own in ({}, keys):
        pool = build_pool(cohort.hospitals, task(tiny_config(**private, **own), cohort))
        try:
            first = pool.train(Asked(1, (0, 1, 2), params), None).answers
            pool.restore({u.hospital: u.state for u in first}, ())
            again = pool.train(Asked(1, (0, 1, 2), params), None).answers
            second = pool.train(Asked(2, (0, 1, 2), params), None).answers
            (outcome,) = pool.finish(2, params, None, [1])
        finally:
            pool.close()
        assert [u.vector.tobytes() for u in again] == [u.vector.tobytes() for u in first]
        assert [u.state[SPENT].tolist() for u in (*again, *second)] == [[2, 0]] * 3 + [[4, 0]] * 3
        assert outcome.privacy["spent"] == [4 + 10, 0]
        found.append([u.vector.tobytes() for u in (*first, *second)])
    assert found[0] == found[1]
    assert len(set(found[0])) == 6


def test_judges_reveal_the_same_wherever_they_are_and_whether_or_not_their_process_has_committed(
    pool: Pool, reference_pool: Pool, cohort: Cohort, tiny_config
):
    asked = Asked(1, (0, 2), start(cohort, tiny_config))
    updates = reference_pool.train(asked, None).answers
    expected = reference_pool.reveal(asked, updates, {}, None, [2, 1])  # as one that was started anew
    assert [len(vote.correct) for vote in expected] == [1, 2]
    committed = pool.commit(asked, updates, None, [2, 1])
    assert len(committed) == 2
    assert pool.reveal(asked, updates, dict(zip([2, 1], committed, strict=True)), None, [2, 1]) == expected


def test_answers_come_in_the_order_of_the_ids(pool: Pool, cohort: Cohort, tiny_config):
    params = start(cohort, tiny_config)
    sizes = [int(table.sum()) for table in pool.validate(1, params, [2, 0, 1])]
    assert sizes == [len(cohort.hospitals[h].validation) for h in (2, 0, 1)]
    assert [outcome.hospital for outcome in pool.finish(1, params, None, [1, 0])] == [1, 0]
    assert pool.train(Asked(1, (), params), None).answers == []


def test_a_repeated_call_gives_the_same_bits(pool: Pool, cohort: Cohort, tiny_config):
    asked = Asked(3, (0, 1, 2), start(cohort, tiny_config))
    first, second = pool.train(asked, None), pool.train(asked, None)
    np.testing.assert_array_equal(first.summed, second.summed)


def test_without_vectors_only_the_sum_leaves_a_host(keys: dict[str, Any], cohort: Cohort, tiny_config, reference_pool):
    pool = build_pool(cohort.hospitals, task(tiny_config(**keys), cohort, keep=False))
    asked = Asked(1, (0, 1, 2), start(cohort, tiny_config))
    try:
        found = pool.train(asked, None)
    finally:
        pool.close()
    assert [type(u) for u in found.answers] == [Update] * 3
    assert all(u.vector is None for u in found.answers)
    np.testing.assert_array_equal(found.summed, reference_pool.train(asked, None).summed)


def granted(signed: SignedRequest, batch: str | None = None) -> SyntheticRow:
    """Four beats for a request; with the digest of a batch they were accepted."""
    record, few = signed.record, 4
    return SyntheticRow(
        request=digest(record, TERMS.signing.domain).hex(),
        hospital=record.slot,
        class_=CLASSES[record.class_],
        generator="smote",
        wanted=record.quantity,
        real_floor=record.real_floor,
        allowed=0,
        granted=few,
        accepted=0 if batch is None else few,
        status="approved" if batch is None else "accepted",
        reasons="",
        preview=None,
        blind=False,
        numbers=None,
        batch=batch,
        evidence=None,
        file=None,
        organisation="",
        record="",
    )


def test_synthetic_beats_are_the_same_wherever_they_are_made(
    keys: dict[str, Any], cohort: Cohort, tiny_config, tmp_path
):
    found = []
    for place, own in (("here", {}), ("there", keys)):
        (tmp_path / place).mkdir()
        config = tiny_config(**own, **{"balance.method": "smote", "balance.classes": "V"})
        pool = build_pool(cohort.hospitals, replace(task(config, cohort), synthetic=tmp_path / place))
        try:
            asked = pool.ask(TERMS, [1, 0])
            assert [[one.record.slot for one in many] for many in asked] == [[1], [0]]
            reports = pool.make(TERMS, {many[0].record.slot: [granted(many[0])] for many in asked})
            batches = {
                many[0].record.slot: [granted(many[0], made[0].record.batch.hex())]
                for many, made in zip(asked, reports, strict=True)
            }
            before = pool.train(Asked(1, (0, 1), start(cohort, tiny_config)), None)
            assert pool.keep(batches) == [None, None]
            after = pool.train(Asked(1, (0, 1), start(cohort, tiny_config)), None)
        finally:
            pool.close()
        found.append((asked, reports, before, after))
    (asked, reports, before, after), (*others, before_there, after_there) = found
    assert others == [asked, reports]
    np.testing.assert_array_equal(before.summed, before_there.summed)
    np.testing.assert_array_equal(after.summed, after_there.summed)
    assert not np.array_equal(before.summed, after.summed)
    for name in ("hospital-0.npz", "hospital-1.npz"):
        for one, other in zip(
            *(load_synthetic(tmp_path / place / name)[:3] for place in ("here", "there")), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_hospital_that_makes_other_beats_than_it_reported_is_named(keys, cohort: Cohort, tiny_config, tmp_path):
    config = tiny_config(**keys, **{"balance.method": "smote", "balance.classes": "V"})
    other = build_pool(cohort.hospitals, replace(task(config, cohort), synthetic=tmp_path))
    try:
        ((signed,),) = other.ask(TERMS, [1])
        (answer,) = other.keep({1: [granted(signed, "ab" * 32)]})
    finally:
        other.close()
    assert isinstance(answer, HospitalError)
    assert str(answer).startswith(
        "hospital 1, round 0, keep: SynthesisError: class V: the beats made now are not those"
    )


def test_it_says_how_many_work_at_once(pool: Pool):
    assert 1 <= pool.width <= 3
