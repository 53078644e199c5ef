"""The trials of a study in Optuna's database: what is enqueued, asked for, adopted, and noted."""

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from studies import BASE, study_of

from sweeps.definition import CODE, DEFINITION, code, definition
from sweeps.queue import Entry, Queue, open_studies, wanted_first
from sweeps.space import conditions

GRID = {**BASE, "search": {"federation.batch_size": {"choice": [8, 16, 32]}}, "sampler": "grid"}
FIRST = {"federation.algorithm": "local"}


def test_what_was_enqueued_is_never_enqueued_again(tmp_path: Path):
    """Trials wait one at a time; a driver that died before it asked for the one that waits left it for the next."""
    study, storage = study_of(GRID, baselines=[FIRST]), optuna.storages.InMemoryStorage()
    ((made, _),) = open_studies(study, tmp_path, storage)
    assert not made.get_trials()
    made.enqueue_trial({}, user_attrs={"baseline": FIRST})
    for _ in range(5):
        queue = Queue(study, open_studies(study, tmp_path, storage))
        queue.ask()
        fixed = [t.system_attrs["fixed_params"] for t in made.get_trials()]
        assert fixed == [{}, *({"federation.batch_size": size} for size in (8, 16, 32))][: len(fixed)]
        assert all(t.state == TrialState.RUNNING for t in made.get_trials())
    assert [t.user_attrs.get("baseline") for t in made.get_trials()] == [FIRST, None, None, None]
    assert queue.ask() is None


def test_the_program_that_is_noted_is_the_one_that_began_the_first_trial(tmp_path: Path):
    study, storage = study_of(GRID), optuna.storages.InMemoryStorage()
    ((made, _),) = open_studies(study, tmp_path, storage)
    old = {"version": "0.0.1", "commit": None, "changed": False}
    for name in (CODE, DEFINITION):
        made.set_user_attr(name, old)  # of a driver that was killed before any trial, and of a release before this one
    ((made, _),) = open_studies(study, tmp_path, storage)
    assert (made.user_attrs[CODE], made.user_attrs[DEFINITION]) == (code(), definition(study))
    made.ask()
    for name in (CODE, DEFINITION):
        made.set_user_attr(name, old)
    ((made, _),) = open_studies(study, tmp_path, storage)
    assert (made.user_attrs[CODE], made.user_attrs[DEFINITION]) == (old, old)


def opened(tmp_path: Path, **keys: Any) -> Queue:
    study = study_of({**GRID, **keys})
    return Queue(study, open_studies(study, tmp_path, optuna.storages.InMemoryStorage()))


def test_a_joint_study_has_the_queues_of_all_conditions():
    study = study_of(GRID, baselines=[FIRST], joint=True, conditions={"cohort.hospitals": [2, 3]})
    rows = wanted_first(study, None)
    places = ["hospitals=2", "hospitals=3"]
    assert [row for row in rows if row[1]] == [({"condition": place}, {"baseline": FIRST}) for place in places]
    assert [row[0]["federation.batch_size"] for row in rows if not row[1]] == [8, 16, 32] * 2
    assert wanted_first(study, conditions(study)[0])[0] == ({"condition": "hospitals=2"}, {"baseline": FIRST})


def test_conditions_are_asked_in_turn_until_the_grid_is_used_up(tmp_path: Path):
    queue = opened(tmp_path, conditions={"cohort.hospitals": [2, 3]}, repeats=2)
    entries = []
    while (entry := queue.ask()) is not None:
        entries.append(entry)
    trials = [entry.read() for entry in entries]
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.condition for trial in trials] == ["hospitals=2", "hospitals=3"] * 3
    assert [trial.keys["federation.batch_size"] for trial in trials] == [8, 8, 16, 16, 32, 32]
    assert [config["seed"] for config in trials[0].configs] == [0, 1]
    assert trials[3].configs[0]["cohort"]["hospitals"] == 3
    assert {trial.state for trial in trials} == {"RUNNING"}
    assert sorted(trial.number for trial in queue.trials()) == list(range(6))
    assert {trial.number for trial in queue.rivals(entries[0])} == {0, 2, 4}


def test_what_a_dead_driver_had_taken_is_adopted_or_put_back(tmp_path: Path):
    """The first trial has a configuration. The second, a baseline, was asked for and nothing more."""
    study, storage = study_of(GRID, baselines=[FIRST, {"federation.algorithm": "fedprox"}]), None
    storage = optuna.storages.InMemoryStorage()
    ((database, _),) = open_studies(study, tmp_path, storage)
    first = Queue(study, [(database, conditions(study)[0])]).ask()
    assert first is not None
    database.enqueue_trial({}, user_attrs={"baseline": {"federation.algorithm": "fedprox"}})
    lost = database.ask()
    queue = Queue(study, open_studies(study, tmp_path, storage))
    for _ in range(2):
        (adopted,) = queue.adopt()
        assert adopted.read().number == 0
        states = [trial.state for trial in database.get_trials()]
        assert states.count(TrialState.FAIL) == 1
        assert states[lost.number] == TrialState.FAIL
        assert len(states) == 3  # the two that were asked for, and one instead of the lost
    keys = []
    while (entry := queue.ask()) is not None:
        keys.append(entry.read().keys)
    sizes = [{"federation.batch_size": size} for size in (8, 16, 32)]
    assert keys == [{"federation.algorithm": "fedprox"}, *sizes]


def test_an_entry_notes_reports_and_tells_again_without_harm(tmp_path: Path):
    queue = opened(tmp_path)
    entry = queue.ask()
    assert isinstance(entry, Entry)
    again = queue.entries()[0]
    for one in (entry, again):
        one.report(3, 0.25)
        one.constrain("ledger/overhead_share", -0.5)
        one.note("rung/3", {"values": [0.25], "kept": True, "memory": {}})
    again.complete([0.5])
    trial = entry.read()
    assert (trial.state, trial.values, trial.constraints) == ("COMPLETE", (0.5,), {"ledger/overhead_share": -0.5})
    assert trial.frozen.intermediate_values == {3: 0.25}
    assert trial.rungs[3].values == (0.25,)
    other = queue.ask()
    assert other is not None
    other.end("PRUNED")
    assert other.read().state == "PRUNED"
