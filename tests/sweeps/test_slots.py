"""Room for trials: CPUs, sites, placement groups that are used again, and what is said when there is none."""

from types import SimpleNamespace
from typing import Any

import pytest
import studies
from simulated_ray import SimulatedRay

from engine.clock import JumpingClock
from engine.errors import ResourceError, StudyError
from sweeps.sizes import trial_bundles, trial_labels
from sweeps.slots import RayLost, Slots, require_head, trial_cpus, unimportable
from sweeps.space import StudyConfig


def study_of(**keys: Any) -> StudyConfig:
    values = {**studies.BASE, "cohort": {"hospitals": 4}, "execution": {"hospitals_per_actor": 1}}
    return studies.study_of(values, **keys)


# --- Who goes where ---------------------------------------------------------------------------------------------------


def nodes_of(*nodes: tuple[str, float, str]) -> Any:
    """What Ray says of a cluster of (id, CPUs, site); the driver is on the node `here`, the head is `head`."""
    rows = [
        {
            "NodeID": name,
            "Alive": True,
            "Labels": {"site": site},
            "Resources": {"CPU": cpus, **({"node:__internal_head__": 1.0} if name == "head" else {})},
        }
        for name, cpus, site in nodes
    ]
    return SimpleNamespace(
        nodes=lambda: rows,
        cluster_resources=lambda: {"CPU": sum(cpus for _, cpus, _ in nodes)},
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
    )


def test_a_trial_fits_the_smallest_site():
    ray = nodes_of(("head", 0, ""), ("x", 4, "a"), ("y", 2, "b"), ("z", 8, "b"))
    assert trial_cpus(ray, study_of(), 1) == 1.0
    assert trial_cpus(ray, study_of(concurrency=2), 2) == 7.0  # half of 14
    assert trial_cpus(ray, study_of(concurrency=1), 1) == 8.0  # no more than the largest node has
    sites = study_of(execution={"sites": dict(enumerate("abba")), "hospitals_per_actor": 1}, concurrency=2)
    assert trial_cpus(ray, sites, 2) == 2.0  # half of what a has; b has a node of eight
    late = study_of(execution={"sites": dict(enumerate("abcc"))})
    assert trial_cpus(ray, late, 1) == 1.0  # c is not there yet
    with pytest.raises(ResourceError, match=r"concurrency 2 leaves 0\.1 CPU"):
        trial_cpus(nodes_of(("x", 0.2, "a"), ("y", 2, "b")), sites, 2)
    assert trial_bundles(sites, 2.0, 2) == [{"CPU": 0.1}] + [{"CPU": 0.475}] * 4
    assert trial_labels(sites, 2.0) == [{}, *({"site": site} for site in "aabb")]
    assert trial_labels(study_of(), 2.0) == []


def test_sqlite_wants_the_driver_on_the_head():
    two, one = nodes_of(("head", 1, ""), ("here", 1, "")), nodes_of(("here", 1, ""))
    for ray in (two, one):
        require_head(ray, study_of(storage="postgresql+psycopg://there/db"))
    require_head(one, study_of())
    with pytest.raises(StudyError, match="wants the driver on the head node of a cluster of 2 nodes"):
        require_head(two, study_of())


# --- Slots ------------------------------------------------------------------------------------------------------------


def test_a_slot_is_used_again_by_a_trial_of_its_size():
    """On one node all trials have one size; on two, a trial with more hospitals in actors of their own has another."""
    ray = SimulatedRay(JumpingClock())
    slots = Slots(ray, study_of(concurrency=1))
    three, four = (study_of(cohort={"hospitals": n}) for n in (3, 4))
    first = slots.take(0, three)
    slots.give_back(first)
    assert slots.take(1, four) is first
    assert ray.groups == 1
    ray.machines = 2
    second = slots.take(2, four)
    slots.give_back(second)
    third = slots.take(3, three)  # of another size: the CPUs of the idle one are wanted
    assert third is not second
    assert ray.groups == 2
    assert not second.runner.alive
    slots.end(first)
    slots.give_back(third)
    slots.close()
    assert ray.groups == 0


def test_a_slot_that_never_comes_says_what_was_wanted_and_what_there_is():
    class Full(SimulatedRay):
        def ready(self) -> bool:
            self.clock.sleep(1.0)
            return False

        def available_resources(self) -> dict[str, float]:
            return {"CPU": 0.5}

    clock, notes = JumpingClock(), list[tuple[float, str]]()
    ray = Full(clock)
    say = lambda text: notes.append((clock.now(), text))  # noqa: E731
    slots = Slots(ray, study_of(concurrency=1), say, clock=clock, start_seconds=180)
    for _ in range(100):
        assert slots.take(7, study_of(), others=True) is None  # what runs may make room
    assert clock.now() == 100
    assert not notes
    with pytest.raises(ResourceError) as error:
        next(slot for _ in range(200) if (slot := slots.take(7, study_of())) is not None)
    assert str(error.value) == ("trial 7 wants 2 CPU in 2 bundles; after 180 s the cluster's 2 CPU have 0.5 free.")
    assert 279 < clock.now() < 283
    assert ray.groups == 0
    left = (170, 110, 50)
    assert [text for _, text in notes] == [
        f"trial 7 waits for 2 CPU in 2 bundles, for {n} s more; the cluster's 2 CPU have 0.5 free" for n in left
    ]
    assert [at for at, _ in notes] == [109, 169, 229]  # within ten seconds, and then rarely


def test_a_ray_without_nodes_is_lost():
    class Gone(SimulatedRay):
        machines = 0

        def ready(self) -> bool:
            return False

    clock = JumpingClock()
    ray = Gone(clock)
    ray.machines = 1
    slots = Slots(ray, study_of(concurrency=1), clock=clock)
    ray.machines = 0
    with pytest.raises(RayLost, match="no node is left"):
        slots.take(0, study_of())


def test_a_head_that_is_away_for_a_moment_is_waited_for_and_then_ends_the_study():
    """Nothing is asked of Ray meanwhile: it would wait a minute, and then end the process."""
    clock, said = JumpingClock(), [""]
    ray = SimulatedRay(clock)
    slots = Slots(ray, study_of(concurrency=1), clock=clock, head=lambda: said[0])
    one = slots.take(0, study_of())
    assert slots.look()
    said[0] = "refused"
    clock.sleep(5.0)
    assert not slots.look()
    slots.end(one)
    assert one.runner.alive
    said[0] = ""
    clock.sleep(5.0)
    assert slots.look()
    assert not one.runner.alive
    assert ray.groups == 0
    said[0] = "refused"
    began = clock.now()

    def wait() -> None:
        while clock.now() < began + 60:
            slots.look()
            clock.sleep(0.5)

    with pytest.raises(RayLost, match=r"its head at .* does not answer: refused"):
        wait()
    assert 10.0 < clock.now() - began < 13.0
    slots.close()


def test_memory_bounds_the_trials_at_a_time():
    ray = SimulatedRay(JumpingClock(), cpus=8)
    joined = study_of(execution={"address": "auto", "hospitals_per_actor": 3})
    ray.memory = 1.5e9  # 0.7 of it hold one trial of 0.35 + 2 * 0.3 GB
    slots = Slots(ray, joined)
    assert (slots.wanted, slots.at_once) == (8, 1)
    ray.memory = 3e9
    assert Slots(ray, joined).at_once == 2


def test_a_worker_that_cannot_import_is_no_lost_process():
    text = (
        "The actor died because of an error raised in its creation task, ray::TrialRunner.__init__() (pid=1)\n"
        "  File \"x.py\", line 1, in <module>\nModuleNotFoundError: No module named 'engine.errors'"
    )
    assert unimportable(RuntimeError(text)) == "ModuleNotFoundError: No module named 'engine.errors'"
    assert unimportable(RuntimeError("The actor died unexpectedly before finishing this task.")) == ""


def test_a_trial_that_no_memory_of_this_machine_holds_is_refused():
    """0.35 GB for its runner and 0.3 GB for each of four hosts."""
    ray = SimulatedRay(JumpingClock(), cpus=8.0)
    with pytest.raises(
        ResourceError, match=r"the largest trial wants about 1\.55 GB of memory, and this machine has 1\.5 GB"
    ):
        Slots(ray, study_of(concurrency=1), memory=1.5e9)
    assert Slots(ray, study_of(concurrency=1), memory=1.6e9).at_once == 1
