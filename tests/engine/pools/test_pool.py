"""Where hospitals live: how they are grouped, and what happens when one of them, or its process, fails."""

import os
import re
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import settled

from engine.config import RunConfig
from engine.data.cohort import Cohort, HospitalData, build_cohort
from engine.errors import HospitalError, PulseLedgerError, ResourceError
from engine.experiment import Place, run
from engine.hospital import Task
from engine.messages import Asked, Update
from engine.model import build_network, initial_parameters
from engine.pools.build import build_pool
from engine.pools.config import ExecutionConfig
from engine.pools.local import InProcessPool
from engine.pools.ray import ATTEMPTS, RayPool, host_groups

SIZES = st.lists(st.integers(0, 500), min_size=1, max_size=80).map(lambda sizes: list(enumerate(sizes)))


def execution(per: Any) -> ExecutionConfig:
    return ExecutionConfig(hospitals_per_actor=per)


# --- Groups -----------------------------------------------------------------------------------------------------------


@given(sizes=SIZES, per=st.sampled_from(["auto", 1, 2, 3, 7, 100]), cpus=st.floats(0.05, 32))
def test_every_hospital_has_exactly_one_host(sizes: list[tuple[int, int]], per: Any, cpus: float):
    groups = host_groups(sizes, execution(per), cpus)
    assert sorted(h for group in groups for h in group) == [h for h, _ in sizes]
    assert all(group and group == sorted(group) for group in groups)
    if per != "auto":
        assert max(len(group) for group in groups) <= per
        assert len(groups) == -(-len(sizes) // per)
    elif len(sizes) <= 2 * cpus:
        assert len(groups) == len(sizes)
    else:
        assert len(groups) <= max(1, round(cpus))
    assert host_groups(sizes, execution(per), cpus) == groups


@given(sizes=SIZES, cpus=st.integers(1, 8))
def test_work_is_balanced(sizes: list[tuple[int, int]], cpus: int):
    groups = host_groups(sizes, execution("auto"), cpus)
    if len(sizes) <= 2 * cpus:
        return
    beats = dict(sizes)
    work = [sum(beats[h] for h in group) for group in groups]
    # the largest first, each to the least loaded: no two hosts differ by more than one hospital
    assert max(work) - min(work) <= max(beats.values())


def test_groups_by_hand():
    sizes = [(0, 10), (1, 70), (2, 20), (3, 40), (4, 30), (5, 50)]
    # up to two for each CPU, an actor each
    assert host_groups(sizes, execution("auto"), 3) == [[1], [5], [3], [4], [2], [0]]
    # beyond that 70 | 50, then 40, 30, 20, 10 to whoever has less: 110 beats each
    assert host_groups(sizes, execution("auto"), 2) == [[0, 1, 4], [2, 3, 5]]
    # at most four each: the last one no longer fits on the emptier host
    assert host_groups([(0, 9), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)], execution(4), 2) == [[0, 5], [1, 2, 3, 4]]
    assert host_groups(sizes, execution(1), 2) == [[1], [5], [3], [4], [2], [0]]


# --- One hospital fails -----------------------------------------------------------------------------------------------


def broken(cohort: Cohort, hospital: int) -> tuple[HospitalData, ...]:
    """The hospitals of a cohort; one of them has a train beat that does not exist."""
    wrong = np.array([10**9])
    return tuple(replace(h, train=wrong) if h.id == hospital else h for h in cohort.hospitals)


@pytest.fixture(scope="module")
def cohort(tiny_config) -> Cohort:
    config = tiny_config()
    return build_cohort(config.data, config.cohort)


def task(config: RunConfig, cohort: Cohort) -> Task:
    beats = cohort.beats
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    return Task(config, network, beats.folder, None)


def start(config: RunConfig, cohort: Cohort, hospitals: tuple[HospitalData, ...]) -> tuple[Any, np.ndarray]:
    made = task(config, cohort)
    return build_pool(hospitals, made), initial_parameters(made.network, 0)


@pytest.mark.parametrize("pool", ["inprocess", "threads", "ray"])
def test_a_hospital_that_fails_is_answered_by_its_error(tiny_config, cohort, request, pool: str):
    if pool == "ray":
        request.getfixturevalue("ray2")
    keys = {"execution.pool": pool, "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    hospitals, params = start(tiny_config(**keys), cohort, broken(cohort, 1))
    try:
        answers = hospitals.train(Asked(7, (2, 1, 0), params), None).answers
        assert [type(a) for a in answers] == [Update, HospitalError, Update]
        assert [answers[0].hospital, answers[2].hospital] == [2, 0]
        error = answers[1]
        assert (error.hospital, error.round, error.stage) == (1, 7, "train")
        assert str(error).startswith("hospital 1, round 7, train: IndexError: ")
        (finish,) = hospitals.finish(8, params, None, [1])
        assert (finish.hospital, finish.round, finish.stage) == (1, 8, "finish")
        # it validates as ever: nothing was lost with the error
        assert hospitals.validate(7, params, [1])[0].sum() == len(cohort.hospitals[1].validation)
    finally:
        hospitals.close()


def test_a_run_with_a_broken_hospital_stops_or_goes_on_as_asked(tiny_config, cohort, tmp_path):
    place = Place(cohort=lambda *args: replace(cohort, hospitals=broken(cohort, 1)))
    keys = {"personalisation.method": "none"}
    with pytest.raises(HospitalError) as caught:
        run(tiny_config(**keys), tmp_path / "all", place)
    assert (caught.value.hospital, caught.value.round, caught.value.stage) == (1, 1, "train")
    assert not (tmp_path / "all" / "result.json").exists()
    result = run(tiny_config(**keys, **{"federation.min_hospitals": 2}), tmp_path / "two", place)
    assert [row.participants for row in result.rounds] == [2, 2]
    for round, row in enumerate(result.rounds, 1):
        assert len(row.lost) == 1
        assert row.lost[0].startswith(f"hospital 1, round {round}, train: IndexError")
    with pytest.raises(
        PulseLedgerError, match=r"^2 hospitals answered, federation.min_hospitals is 3; first failure: "
    ):
        run(tiny_config(**keys, **{"federation.min_hospitals": 3}), tmp_path / "three", place)


def test_an_update_that_is_not_finite_is_a_failure(tiny_config, cohort):
    hospitals, params = start(tiny_config(**{"federation.learning_rate": 1e30}), cohort, cohort.hospitals)
    (error,) = hospitals.train(Asked(1, (0,), params), None).answers
    assert isinstance(error, HospitalError)
    assert "not finite" in str(error)
    assert "learning rate" in str(error)


# --- Ray --------------------------------------------------------------------------------------------------------------


def test_a_host_that_keeps_dying_is_given_up(ray2, tiny_config, cohort, monkeypatch):
    config = tiny_config(**{"execution.pool": "ray", "execution.hospitals_per_actor": 2})
    pool, params = start(config, cohort, cohort.hospitals)
    assert isinstance(pool, RayPool)
    try:
        pids = pool.processes()
        assert len(set(pids)) == 2
        assert os.getpid() not in pids
        restart = pool._restart

        def restart_and_kill(i: int) -> None:
            restart(i)
            pool._ray.kill(pool._hosts[i])

        monkeypatch.setattr(pool, "_restart", restart_and_kill)
        os.kill(pids[0], signal.SIGKILL)
        gone, kept = pool._groups[0], pool._groups[1]
        answers = dict(zip((0, 1, 2), pool.validate(3, params, [0, 1, 2]), strict=True))
        for h in gone:
            assert (answers[h].hospital, answers[h].round, answers[h].stage) == (h, 3, "validate")
            assert str(answers[h]).endswith(f"its process was lost, {ATTEMPTS} times")
        assert all(isinstance(answers[h], np.ndarray) for h in kept)
        monkeypatch.undo()
        assert all(isinstance(a, np.ndarray) for a in pool.validate(4, params, [0, 1, 2]))  # built again
    finally:
        pool.close()


def test_a_round_has_a_deadline(ray2, tiny_config, cohort):
    config = tiny_config(**{"execution.pool": "ray", "execution.hospitals_per_actor": 1, "execution.deadline": 0.2})
    endless = replace(cohort.hospitals[1], train=np.tile(cohort.hospitals[1].train, 20_000))
    pool, params = start(config, cohort, (endless,))
    try:
        began = time.monotonic()
        (answer,) = pool.train(Asked(1, (1,), params), None).answers
        assert time.monotonic() - began < 30
        assert isinstance(answer, HospitalError)
        assert str(answer) == f"hospital 1, round 1, train: no answer in 0.2 s, {ATTEMPTS} times"
    finally:
        pool.close()


def test_hosts_that_do_not_fit_are_refused_in_one_sentence(ray2, tiny_config, cohort, monkeypatch):
    wait = RayPool._wait_until_ready
    monkeypatch.setattr(RayPool, "_wait_until_ready", lambda self: wait(self, seconds=1.0))
    monkeypatch.setattr(RayPool, "_free_cpus", lambda self: 64.0)  # as if CPUs had gone since they were counted
    config = tiny_config(**{"execution.pool": "ray", "execution.hospitals_per_actor": 1})
    with pytest.raises(ResourceError) as caught:
        start(config, cohort, cohort.hospitals)
    assert re.match(
        r"\d of 3 hospital actors did not start in 1 s: each wants 1 CPU, the cluster has 2 CPU", str(caught.value)
    )
    assert "\n" not in str(caught.value)


def test_no_free_cpu_is_refused_at_once(ray2, tiny_config, cohort):
    import ray

    settled()
    group = ray.util.placement_group([{"CPU": 2}])
    assert group.wait(60)
    try:
        with pytest.raises(ResourceError, match="the hospitals want CPUs, but none of the cluster's 2 is free"):
            start(tiny_config(**{"execution.pool": "ray"}), cohort, cohort.hospitals)
    finally:
        ray.util.remove_placement_group(group)
        settled()


def test_a_host_that_cannot_be_built_says_why(ray2, tiny_config, cohort, tmp_path):
    config = tiny_config(**{"execution.pool": "ray", "execution.hospitals_per_actor": 3})
    with pytest.raises(PulseLedgerError, match="a hospital could not be built: ") as caught:
        build_pool(cohort.hospitals, replace(task(config, cohort), beats=tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_hosts_are_used_again(ray2, tiny_config, cohort):
    """By the next pool of the same share, for other hospitals with other settings."""
    settled()
    keys = {"execution.pool": "ray", "execution.hospitals_per_actor": 2}
    first, params = start(tiny_config(**keys), cohort, cohort.hospitals)
    pids = first.processes()
    trained = first.train(Asked(1, (0, 1, 2), params), None).answers
    first.close()
    for rate, same in ((0.1, True), (0.05, False)):
        again, _ = start(tiny_config(**keys, **{"federation.learning_rate": rate}), cohort, cohort.hospitals)
        assert sorted(again.processes()) == sorted(pids)
        for before, now in zip(trained, again.train(Asked(1, (0, 1, 2), params), None).answers, strict=True):
            assert np.array_equal(before.vector, now.vector) == same
        again.close()
    # one that died while nobody looked is replaced
    os.kill(pids[0], signal.SIGKILL)
    last, _ = start(tiny_config(**keys), cohort, cohort.hospitals)
    for before, now in zip(trained, last.train(Asked(1, (0, 1, 2), params), None).answers, strict=True):
        np.testing.assert_array_equal(before.vector, now.vector)
    assert pids[0] not in last.processes()
    last.close()


def test_private_states_are_restored_into_the_hospitals(tiny_config, cohort):
    config = tiny_config(**{"federation.algorithm": "local"})
    pool, params = start(config, cohort, cohort.hospitals)
    assert isinstance(pool, InProcessPool)
    first = pool.train(Asked(1, (0, 1, 2), params), None).answers
    second = pool.train(Asked(2, (0, 1, 2), params), None).answers
    other, _ = start(config, cohort, cohort.hospitals)
    other.restore({u.hospital: u.state for u in first}, ())
    for expected, found in zip(second, other.train(Asked(2, (0, 1, 2), params), None).answers, strict=True):
        np.testing.assert_array_equal(found.state["params"], expected.state["params"])
        assert not np.array_equal(found.state["params"], first[found.hospital].state["params"])
