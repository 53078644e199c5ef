"""What others ask a driver for: to stop, to have more trials, to prune one. Every command is answered."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import driver, until
from reference import Heard, command
from simulated_ray import Hangs, simulated
from studies import ALONE, outcome, parked, study_of, trials_of

from engine.clock import JumpingClock
from engine.errors import ConfigError, StudyError
from engine.ledger.subjects.study import StudyLedger
from engine.settings import dump_yaml
from sweeps.__main__ import main
from sweeps.audit import audit_study
from sweeps.commands import FOLDER, Command, CommandTable, ask, commands, wait
from sweeps.folder import STUDY_FILE, read_progress, read_study, trial_folder
from sweeps.lock import identity, study_key
from sweeps.queue import Queue, open_studies
from sweeps.space import StudyConfig
from sweeps.start import resume_study, start_study
from sweeps.storage import driver_storage
from sweeps.trial import Order, Reply, TrialRunner, Waiting

SEARCHED: dict[str, Any] = {
    **ALONE,
    "federation": {"rounds": 4},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 3,
    "concurrency": 1,
}
# asked at the rungs 1 and 2, and keeps everybody
LOOKED_AT = {"pruner": {"method": "rungs", "factor": 2, "n_startup_trials": 99}}


def written(folder: Path, **keys: Any) -> StudyConfig:
    """A study in its folder, which no driver has seen."""
    study = study_of(SEARCHED, **keys)
    folder.mkdir(exist_ok=True)
    (folder / STUDY_FILE).write_text(dump_yaml(study))
    return study


class Then(Heard):
    """Does something when a trial has ended; `do` gets its number."""

    def __init__(self, do: Callable[[int], object]) -> None:
        super().__init__()
        self.do = do

    def ended(self, trial: int, *rest: Any) -> None:
        super().ended(trial, *rest)
        self.do(trial)


def at_rung(step: int, do: Callable[[Order], object]) -> type[TrialRunner]:
    """A runner that does something when the first trial goes on from its `step`-th rung."""
    did: list[int] = []

    class Doing(TrialRunner):
        def begin(self, order: Order, tracker: Any) -> Reply:
            self.order = order
            return super().begin(order, tracker)

        def advance(self) -> Reply:
            did.append(0)
            reply = super().advance()
            if len(did) == step:
                do(self.order)
            return reply

    return Doing


# --- The table --------------------------------------------------------------------------------------------------------


def test_a_command_waits_in_a_file_of_its_own_until_it_is_answered(tmp_path: Path):
    written(tmp_path)
    first, second = ask(tmp_path, "trials", 9), ask(tmp_path, "prune", 0)
    assert [path.stem for path in sorted((tmp_path / FOLDER).iterdir())] == sorted([first.id, second.id])
    assert {c.id: c for c in commands(tmp_path)} == {c.id: c for c in (first, second)}
    assert (first.verb, first.value, first.state, first.open) == ("trials", 9, "asked", True)
    assert "@" in first.by
    table = CommandTable(tmp_path)
    assert len(table.waiting()) == 2
    table.answer(first, "done", "9 it is")
    table.answer(second, "accepted", "soon")
    assert [command.id for command in table.waiting()] == [second.id]
    answered = wait(tmp_path, first, seconds=0)
    assert (answered.state, answered.said, answered.at) == ("done", "9 it is", first.at)
    clock = JumpingClock()
    assert wait(tmp_path, second, seconds=5, clock=clock).state == "accepted"
    assert 5 <= clock.now() < 6


def test_what_is_no_command_is_left_alone(tmp_path: Path):
    written(tmp_path)
    good = ask(tmp_path, "trials", 4)
    there = json.loads((tmp_path / FOLDER / f"{good.id}.json").read_text())
    for name, change in {
        "verb": {"verb": "dance"},
        "value": {"value": "4"},
        "truth": {"value": True},
        "state": {"state": "maybe"},
        "surplus": {"more": 1},
        "id": {"id": "../../study"},
        "stop": {"verb": "stop"},
    }.items():
        (tmp_path / FOLDER / f"{name}.json").write_text(json.dumps({**there, "id": name, **change}))
    (tmp_path / FOLDER / "torn.json").write_text('{"id": "torn", "verb"')
    (tmp_path / FOLDER / "list.json").write_text("[]")
    assert commands(tmp_path) == [good]
    assert CommandTable(tmp_path).waiting() == [good]


@pytest.mark.parametrize(
    ("verb", "value", "text"),
    [
        ("trials", None, "trials: the number of all trials that the study is to have is needed."),
        ("trials", 0, "trials: 0 is not the number of all trials that the study is to have."),
        ("prune", None, "prune: the number of a trial is needed."),
        ("prune", -1, "prune: -1 is not the number of a trial."),
        ("stop", 3, "stop: takes no number."),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_it_is_asked(tmp_path: Path, verb: Any, value: Any, text: str):
    written(tmp_path)
    with pytest.raises(ConfigError) as error:
        ask(tmp_path, verb, value)
    assert str(error.value) == text
    assert not (tmp_path / FOLDER).exists()


def test_nothing_is_asked_of_a_folder_without_a_study(tmp_path: Path):
    with pytest.raises(StudyError, match="holds no study"):
        ask(tmp_path, "stop")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_not_meant_for_a_driver_that_starts_later(tmp_path: Path):
    written(tmp_path)
    early, interrupted, kept = ask(tmp_path, "stop"), ask(tmp_path, "stop"), ask(tmp_path, "trials", 4)
    CommandTable(tmp_path).answer(interrupted, "accepted", "stopping")  # by a driver that was killed meanwhile
    assert [command.id for command in CommandTable(tmp_path).waiting()] == [kept.id]
    said = {command.id: (command.state, command.said) for command in commands(tmp_path)}
    assert said[early.id] == ("refused", "nobody drove the study when this was asked")
    assert said[interrupted.id] == ("done", "the driver has ended")


# --- More trials ------------------------------------------------------------------------------------------------------


def test_more_trials_are_run_and_kept_in_the_studys_file_and_on_its_ledger(tmp_path: Path):
    study = study_of(SEARCHED, ledger={"backend": "embedded"}, trials=1)
    asked: list[Command] = []
    heard = Then(lambda trial: asked.append(ask(tmp_path, "trials", 2)) if trial == 0 else None)
    start_study(study, tmp_path, heard, means=simulated())
    assert [trial.state for trial in trials_of(tmp_path)] == ["COMPLETE"] * 2
    assert read_study(tmp_path).trials == 2
    assert heard.totals == [2]
    (answered,) = commands(tmp_path)
    assert (answered.id, answered.state, answered.said) == (asked[0].id, "done", "the study is to have 2 trials")
    assert any(note.endswith("asks: trials 2") for note in heard.notes)
    report = audit_study(tmp_path)
    assert report.clean
    ledger = StudyLedger(tmp_path / "ledger", study_key(study, tmp_path), study.ledger)
    assert ledger.summary()["generations"] == 2  # registered, and amended once
    ledger.close()
    again = Heard()
    resume_study(tmp_path, again, means=simulated())
    assert again.starts == []


@pytest.mark.parametrize(
    ("keys", "wanted", "text"),
    [
        ({"trials": 2}, 1, "2 trials have begun already"),
        (
            {"search": {"federation.batch_size": {"choice": [8, 16]}}, "sampler": "grid", "trials": None},
            9,
            "the study is a grid of 2 trials, which has no more points",
        ),
        (
            {"search": {}, "baselines": [{"federation.algorithm": "local"}, {}], "trials": None},
            9,
            "nothing is tuned in this study, so every further trial would be the same",
        ),
    ],
)
def test_trials_that_cannot_be_are_refused_with_the_reason(
    tmp_path: Path, keys: dict[str, Any], wanted: int, text: str
):
    study = study_of(SEARCHED, federation={"rounds": 1}, **keys)
    heard = Then(lambda trial: ask(tmp_path, "trials", wanted) if trial == 1 else None)
    start_study(study, tmp_path, heard, means=simulated())
    (answered,) = commands(tmp_path)
    assert (answered.state, answered.said) == ("refused", text)
    assert len(trials_of(tmp_path)) == 2
    assert read_study(tmp_path).trials == study.trials
    assert heard.totals == []


def test_what_is_asked_of_a_study_that_nobody_drives_is_done_when_it_goes_on(tmp_path: Path):
    written(tmp_path, federation={"rounds": 1}, trials=1)
    asked = ask(tmp_path, "trials", 2)
    assert wait(tmp_path, asked, seconds=0).state == "asked"
    resume_study(tmp_path, Heard(), means=simulated())
    assert len(trials_of(tmp_path)) == 2
    assert wait(tmp_path, asked, seconds=0).state == "done"


# --- Pruning ----------------------------------------------------------------------------------------------------------


def test_a_running_trial_is_pruned_at_its_next_checkpoint(tmp_path: Path):
    """Asked for when it pauses after round 1: it ends after round 2, and the next trials are not touched."""
    runner = at_rung(1, lambda order: ask(tmp_path, "prune", 0))
    heard = Heard()
    start_study(study_of(SEARCHED, **LOOKED_AT), tmp_path, heard, means=simulated(runner))
    first, *others = trials_of(tmp_path)
    assert (first.state, first.pruned, first.reason) == ("PRUNED", 2, "pruned at round 2, as asked")
    assert [trial.state for trial in others] == ["COMPLETE"] * 2
    (answered,) = commands(tmp_path)
    assert (answered.state, answered.said) == ("done", "trial 0 has ended as PRUNED")
    assert heard.ends[0] == ("PRUNED", {}, first.reason)  # at a checkpoint there are no scores
    assert "pruning saved 17% of all rounds" in heard.notes  # 2 of 12
    assert not list(tmp_path.glob("trials/*/.stop"))


def test_a_trial_that_was_lost_meanwhile_is_pruned_where_it_is(tmp_path: Path):
    runner = at_rung(1, lambda order: ask(tmp_path, "prune", 0))

    class Losing(runner):  # type: ignore[misc, valid-type]
        calls = 0

        def advance(self) -> Reply:
            Losing.calls += 1
            if Losing.calls == 2:
                raise MemoryError
            return super().advance()

    start_study(study_of(SEARCHED, **LOOKED_AT, trials=1), tmp_path, Heard(), means=simulated(Losing))
    (trial,) = trials_of(tmp_path)
    assert (trial.state, trial.reason) == ("PRUNED", "pruned at round 1, as asked")


def test_a_trial_that_is_quicker_than_its_end_is_complete(tmp_path: Path):
    class Quick(TrialRunner):
        calls = 0

        def begin(self, order: Order, tracker: Any) -> Reply:
            Quick.calls += 1
            if Quick.calls == 1:
                ask(tmp_path, "prune", 0)
                raise Hangs
            assert commands(tmp_path)[0].state == "accepted"
            order.stops[1].unlink()  # it was past its last checkpoint when the driver asked
            reply = super().begin(order, tracker)
            order.stops[1].touch()
            return reply

    start_study(study_of(SEARCHED, trials=1), tmp_path, Heard(), means=simulated(Quick))
    assert [trial.state for trial in trials_of(tmp_path)] == ["COMPLETE"]
    assert [(c.state, c.said) for c in commands(tmp_path)] == [("refused", "trial 0 has ended as COMPLETE")]
    assert not list(tmp_path.glob("trials/*/.stop"))


def test_a_trial_that_waits_for_a_reviewer_can_be_pruned(tmp_path: Path):
    class Parked(TrialRunner):
        def begin(self, order: Order, tracker: Any) -> Reply:
            if order.folder.name != "0000":
                return super().begin(order, tracker)
            parked(order.home)
            return Waiting(0.0, "a request waits for a reviewer")

    heard = Then(lambda trial: ask(tmp_path, "prune", 0) if trial == 1 else None)
    start_study(study_of(SEARCHED, trials=2), tmp_path, heard, means=simulated(Parked))
    assert [(trial.state, trial.waiting) for trial in trials_of(tmp_path)] == [
        ("PRUNED", "a request waits for a reviewer"),
        ("COMPLETE", ""),
    ]
    assert [command.state for command in commands(tmp_path)] == ["done"]


def test_what_a_killed_driver_had_accepted_the_next_one_does(tmp_path: Path):
    """Its trial is still RUNNING in the database; it is pruned and not begun again."""
    study = written(tmp_path, trials=1)
    with driver_storage(study, tmp_path, print) as storage:
        assert Queue(study, open_studies(study, tmp_path, storage)).ask() is not None
    identity(tmp_path)
    trial_folder(tmp_path, 0).mkdir(parents=True)
    CommandTable(tmp_path).answer(ask(tmp_path, "prune", 0), "accepted", "ending at its next checkpoint")
    heard = Heard()
    resume_study(tmp_path, heard, means=simulated())
    assert [trial.state for trial in trials_of(tmp_path)] == ["PRUNED"]
    assert heard.starts == []
    assert [command.state for command in commands(tmp_path)] == ["done"]


def test_a_trial_that_is_not_under_way_is_not_pruned(tmp_path: Path):
    def look(trial: int) -> None:
        if trial == 0:
            ask(tmp_path, "prune", 0)
            ask(tmp_path, "prune", 7)

    start_study(study_of(SEARCHED, federation={"rounds": 1}, trials=2), tmp_path, Then(look), means=simulated())
    said = {command.value: (command.state, command.said) for command in commands(tmp_path)}
    assert said == {
        0: ("refused", "trial 0 has ended as COMPLETE"),
        7: ("refused", "there is no trial 7 so far"),
    }


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_a_study_that_was_stopped_goes_on_as_one_that_was_not(tmp_path: Path):
    study = study_of(SEARCHED, **LOOKED_AT)
    start_study(study, tmp_path / "whole", Heard(), means=simulated())
    folder = tmp_path / "stopped"
    runner = at_rung(1, lambda order: ask(folder, "stop"))
    heard = Heard()
    with pytest.raises(KeyboardInterrupt, match="every trial is at a checkpoint; `pulseledger resume"):
        start_study(study, folder, heard, means=simulated(runner))
    assert [(trial.state, read_progress(trial_folder(folder, 0)).round) for trial in trials_of(folder)] == [
        ("RUNNING", 2)
    ]
    (answered,) = commands(folder)
    assert (answered.state, answered.said) == ("done", "every trial is at a checkpoint")
    resume_study(folder, Heard(), means=simulated())
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_a_driver_in_a_thread_can_be_stopped(tmp_path: Path):
    """Signals reach the main thread alone; a command reaches every driver."""
    study = study_of(SEARCHED, **LOOKED_AT)
    ended: list[BaseException] = []

    def drive() -> None:
        try:
            start_study(study, tmp_path, Heard(), means=simulated(at_rung(1, lambda order: ask(tmp_path, "stop"))))
        except KeyboardInterrupt as stop:
            ended.append(stop)

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(ended) == 1


# --- From another process ---------------------------------------------------------------------------------------------


def test_the_command_line_says_what_became_of_it(tmp_path: Path, capsys):
    written(tmp_path, federation={"rounds": 1}, trials=1)
    assert main(["ask", str(tmp_path), "prune", "5", "--wait", "0"]) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("prune 5: asked, asked by ")
    assert captured.err == f"pulseledger: nobody has answered in 0 s; is {tmp_path} being driven?\n"
    resume_study(tmp_path, Heard(), means=simulated())
    assert main(["ask", str(tmp_path), "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verb"], row["value"], row["state"]) == ("prune", 5, "refused")
    assert main(["ask", str(tmp_path), "list"]) == 0
    assert capsys.readouterr().out.startswith("prune 5: refused (there is no trial 5 so far), asked by ")
    assert main(["ask", str(tmp_path), "trials"]) == 2
    assert "is needed" in capsys.readouterr().err


def test_a_running_study_is_pruned_extended_and_stopped_by_other_processes(tmp_path: Path, capsys):
    """`pulseledger sweep` on Ray in one process, `pulseledger ask` in others."""
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    # so many rounds that no trial ends by itself
    file.write_text(dump_yaml(study_of(SEARCHED, federation={"rounds": 5000}, trials=2)))

    def moving(trial: int) -> bool:
        return read_progress(trial_folder(folder, trial)).round > 0

    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        until(lambda: moving(0), process)
        done = command("ask", folder, "prune", "0", "--wait", "60")
        assert (done.returncode, done.stderr) == (0, "")
        until(lambda: moving(1), process)
        assert main(["ask", str(folder), "trials", "3", "--wait", "60"]) == 0
        assert capsys.readouterr().out.startswith("trials 3: done (the study is to have 3 trials), asked by ")
        assert main(["ask", str(folder), "prune", "9", "--wait", "60"]) == 2
        assert main(["ask", str(folder), "stop", "--wait", "60"]) == 0
        assert process.wait(60) == 130
    said = [(c.verb, c.value, c.state) for c in commands(folder)]
    assert said == [("prune", 0, "done"), ("trials", 3, "done"), ("prune", 9, "refused"), ("stop", None, "done")]
    assert [(trial.state, trial.reason.endswith(", as asked")) for trial in trials_of(folder)] == [
        ("PRUNED", True),
        ("RUNNING", False),
    ]
    assert read_study(folder).trials == 3
    text = (tmp_path / "study.log").read_text()
    assert f"`pulseledger resume {folder}` goes on" in text
    assert "Traceback" not in text
