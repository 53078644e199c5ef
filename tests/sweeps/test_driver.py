"""Whole studies on Ray: small ones that run through, and one whose driver is killed."""

import os
import shutil
import signal
import socket
import statistics
from pathlib import Path
from typing import Any

import ecg
import pytest
import yaml
from processes import driver, until
from reference import Heard, as_run, settled
from simulated_ray import Dies, Hangs, SimulatedRay, simulated
from studies import ALONE, BASE, ROUNDS, TUNED, outcome, runs_of, store_of, study_of, trials_of

from engine.audit.run import audit
from engine.clock import JumpingClock
from engine.config import config_hash
from engine.errors import ResourceError, StudyError
from engine.homes import claim
from engine.ledger.chain.base import NodeUnreachable
from engine.result import Result
from engine.settings import dump_yaml
from sweeps.commands import ask
from sweeps.folder import (
    STUDY_FILE,
    WRITTEN,
    Seen,
    read_groups,
    read_study,
    repeat_folder,
    trial_folder,
    write_progress,
)
from sweeps.lock import identity
from sweeps.means import MEANS, Limits, Means
from sweeps.queue import Queue, open_studies
from sweeps.rows import rows_of
from sweeps.sizes import housed
from sweeps.space import conditions, resolve
from sweeps.start import resume_study, start_study
from sweeps.storage import driver_storage
from sweeps.trial import Order, Reply, TrialRunner
from sweeps.tuned import total_trials


def results_of(folder: Path, trial: int) -> list[Result]:
    """The results of a trial's repeats."""
    return [Result.read(path.parent) for path in sorted(trial_folder(folder, trial).glob("seed-*/result.json"))]


# --- A study that runs through ----------------------------------------------------------------------------------------


def test_every_trial_is_complete(done: Path, said: Heard):
    trials = trials_of(done)
    assert [t.state for t in trials] == ["COMPLETE"] * 4
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert [t.condition for t in trials] == ["hospitals=2", "hospitals=3"] * 2
    assert len({t.keys["federation.learning_rate"] for t in trials}) == 4
    assert {number: end[0] for number, end in said.ends.items()} == dict.fromkeys(range(4), "COMPLETE")
    assert [tuple(end[1].values()) for _, end in sorted(said.ends.items())] == [t.values for t in trials]
    assert all(rounds == sorted(rounds) and rounds[-1] <= ROUNDS for rounds in said.rounds.values())


def test_each_trial_ran_what_it_was_asked(done: Path):
    study = read_study(done)
    by_label = {c.label: c for c in conditions(study)}
    for trial in trials_of(done):
        home = repeat_folder(trial_folder(done, trial.number), 0)
        result = Result.read(home)
        wanted = housed(resolve(study, by_label[trial.condition], trial.frozen.params, 0), cpus=1)
        assert as_run(wanted, result.config.execution.oracle) == result.config
        assert result.config_hash == config_hash(wanted)
        assert len(result.cohort.hospitals) == wanted.cohort.hospitals
        assert trial.values == (result.validation.personal.macro_f1,)
        assert audit(home).findings == []
    assert yaml.safe_load((done / STUDY_FILE).read_text())["search"] == TUNED["search"]


def test_a_finished_study_has_nothing_left_to_do(done: Path, ray2):
    before = outcome(done)
    said = Heard()
    resume_study(done, said)
    assert (said.notes, said.starts) == ([], [])
    assert outcome(done) == before


def test_a_changed_study_is_refused(done: Path):
    kept = (done / STUDY_FILE).read_text()
    for keys, name in (({"seed": 1}, "seed"), ({"repeats": 2}, "repeats"), ({"sampler": "tpe"}, "sampler")):
        with pytest.raises(StudyError) as error:
            start_study(study_of(TUNED, **keys), done)
        assert str(error.value).startswith(f"{done / STUDY_FILE}: {name} is ")
        assert "but the study was begun with" in str(error.value)
    assert (done / STUDY_FILE).read_text() == kept


# --- Baselines, grids, repeats, failures ------------------------------------------------------------------------------


@pytest.mark.long
def test_a_grid_on_ray_itself(done: Path, ray2, tmp_path: Path):
    settled()
    a_grid_with_a_failure({**BASE, "tracking": store_of(done, "grid on Ray")}, done, tmp_path, MEANS)


def test_a_grid_with_baselines_repeats_and_a_failure(done: Path, tmp_path: Path):
    a_grid_with_a_failure({**ALONE, "tracking": store_of(done, "grid")}, done, tmp_path, simulated())


def a_grid_with_a_failure(base: dict[str, Any], done: Path, tmp_path: Path, means: Means) -> None:
    """Two drivers died after they had taken a baseline out of the queue, and before it had a configuration."""
    values = {
        **base,
        "baselines": [{"federation.learning_rate": 1e30}, {"federation.algorithm": "local"}],
        "search": {"federation.algorithm": {"choice": ["fedavg", "perfedavg"]}},
        "sampler": "grid",
        "repeats": 2,
        "concurrency": 1,
    }
    study = study_of(values)
    claim(tmp_path, "study", WRITTEN)
    with driver_storage(study, tmp_path, print) as storage:
        ((opened, _),) = open_studies(study, tmp_path, storage)
        for keys in values["baselines"]:
            opened.enqueue_trial({}, user_attrs={"baseline": keys})
            opened.ask()
    start_study(study, tmp_path, quiet=True, means=means)
    trials = trials_of(tmp_path)
    wanted = [*values["baselines"], {"federation.algorithm": "fedavg"}, {"federation.algorithm": "perfedavg"}]
    assert [t.keys for t in trials] == wanted
    assert [t.state for t in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    rows = rows_of(tmp_path)
    assert rows[-1].trial == 0  # what failed comes last, with its reason
    assert rows[-1].error.startswith("HospitalError: hospital 0, round 1, train")
    failed = trials[0]
    assert failed.reason == rows[-1].error
    assert (failed.failure.hospital, failed.failure.round, failed.failure.stage) == (0, 1, "train")
    assert "in _do_train" in failed.failure.traceback  # where it happened, in another process
    assert "\x1b" not in (trial_folder(tmp_path, 0) / "error.txt").read_text()
    assert [row.baseline for row in sorted(rows, key=lambda r: r.trial)] == [True, True, False, False]
    for trial in (t for t in trials if t.state == "COMPLETE"):
        results = results_of(tmp_path, trial.number)
        assert [r.config.seed for r in results] == [0, 1]
        assert results[0].model_hash != results[1].model_hash
        own = [r.validation.personal.macro_f1 for r in results]
        assert trial.values == (pytest.approx(statistics.fmean(own)),)
        (outcome,) = [row.outcome for row in rows if row.trial == trial.number]
        assert outcome is not None
        assert outcome.repeats == 2
        both = [r.final.personal.accuracy for r in results]
        accuracy = outcome.scores["final/personal/accuracy"]
        assert (accuracy.mean, accuracy.sd) == pytest.approx((statistics.fmean(both), statistics.stdev(both)))
        told = trial.spread["validation/personal/macro_f1"]
        half = 12.706205 * statistics.stdev(own) / 2**0.5  # Student's t, one degree of freedom
        (value,) = trial.values
        assert [told.mean, told.low, told.high, told.n] == pytest.approx([value, value - half, value + half, 2])
    client, runs = runs_of(done, base["tracking"]["experiment"])
    by_number = {run.data.tags.get("number"): run for run in runs}
    assert len(runs) == 5
    assert by_number["0"].info.status == "FAILED"
    tags = by_number["0"].data.tags
    assert "hospital 0, round 1, train" in tags["error"]
    assert [tags[f"error.{key}"] for key in ("hospital", "round", "stage")] == ["0", "1", "train"]
    assert "error.txt" in [a.path for a in client.list_artifacts(by_number["0"].info.run_id)]
    (first,) = [row.outcome for row in rows if row.trial == 2]
    assert first is not None
    shown = by_number["2"].data.metrics
    for path in ("final/personal/macro_f1", "final/global/rare_recall", "validation/personal/macro_f1"):
        assert shown[path] == pytest.approx(first.mean(path))  # the same number as in `compare`, under the same name
    assert shown["sd/final/personal/macro_f1"] == pytest.approx(first.scores["final/personal/macro_f1"].sd)
    alone = by_number["1"].data
    assert alone.tags["method"] == "local-only"
    assert not [name for name in alone.metrics if "/global/" in name or name.startswith("val/")]
    assert by_number[None].data.metrics["sweep/n_complete"] == 3.0


def test_joint_studies_draw_the_condition_too(tmp_path: Path):
    values = {**TUNED, **ALONE, "joint": True, "trials": 2}
    study = study_of(values, baselines=[{"federation.algorithm": "local"}])
    start_study(study, tmp_path, Heard(), means=simulated())
    (group,) = read_groups(study, tmp_path)
    assert group.condition is None
    trials = trials_of(tmp_path)
    assert [t.state for t in trials] == ["COMPLETE"] * 2
    # the baseline comes first, once in each condition
    assert [t.frozen.params["condition"] for t in trials] == ["hospitals=2", "hospitals=3"]
    assert [t.condition for t in trials] == ["hospitals=2", "hospitals=3"]
    assert [t.configs[0]["cohort"]["hospitals"] for t in trials] == [2, 3]
    assert [t.algorithm for t in trials] == ["local"] * 2


@pytest.mark.parametrize(("trials", "ended"), [(6, 3), (2, 2)])
def test_a_study_whose_trials_all_fail_ends_with_the_first_reason(tmp_path: Path, trials: int, ended: int):
    for name in "abcd":  # what is wrong shows only when they are read
        ecg.write(tmp_path / "damaged", name)
        (tmp_path / "damaged" / f"{name}.atr").write_bytes(bytes(2))
    broken = {**BASE["data"], "source": "folder", "folder": str(tmp_path / "damaged")}
    study = study_of({**TUNED, **ALONE}, data=broken, trials=trials, ledger={"backend": "embedded"}, concurrency=1)
    said = Heard()
    with pytest.raises(StudyError) as error:
        start_study(study, tmp_path / "study", said, means=simulated())
    assert str(error.value).startswith(f"the first {ended} trials all failed; trial 0: DataError: ")
    assert str(tmp_path / "damaged") in str(error.value)
    assert "\n" not in str(error.value)
    assert [t.state for t in trials_of(tmp_path / "study")] == ["FAIL"] * ended
    assert [(end[0], end[2].startswith("DataError: ")) for end in said.ends.values()] == [("FAIL", True)] * ended
    kept = (trial_folder(tmp_path / "study", 0) / "error.txt").read_text()
    assert kept.startswith("DataError: ")
    assert 'experiment.py", line ' in kept  # with its traceback


def test_more_trials_at_a_time_than_there_are_cpus_are_refused(ray2, tmp_path: Path):
    with pytest.raises(ResourceError) as error:
        start_study(study_of(TUNED, concurrency=100), tmp_path)
    assert "concurrency 100" in str(error.value)
    assert "the cluster has 2 CPU" in str(error.value)
    assert "\n" not in str(error.value)


# --- Pruning, constraints, samplers, losses ---------------------------------------------------------------------------


def test_seeds_are_added_until_a_configuration_is_worse(tmp_path: Path):
    """Wilcoxon: a trial is compared with the best one, seed by seed; what is worse for certain gets no more seeds."""
    study = study_of(
        ALONE,
        federation={"rounds": 2, "local_epochs": 2},
        search={"federation.learning_rate": {"uniform": [1e-6, 0.5]}},
        design=[{"federation.learning_rate": 0.1}, {"federation.learning_rate": 1e-6}],
        repeats=6,
        pruner={"method": "wilcoxon", "p_threshold": 0.2},
        constraints={"timing/gradient_evaluations": "<= 10", "validation/personal/accuracy": ">= 0"},
        concurrency=1,
    )
    assert total_trials(study) == 2
    heard = Heard()
    start_study(study, tmp_path, heard, means=simulated())
    good, bad = trials_of(tmp_path)
    assert [good.state, bad.state] == ["COMPLETE", "PRUNED"]
    assert [t.keys["federation.learning_rate"] for t in (good, bad)] == [0.1, 1e-6]
    rungs = [good.rungs[repeat].values for repeat in range(1, 6)]
    finals = results_of(tmp_path, 0)
    assert rungs == [(r.validation.personal.macro_f1,) for r in finals[:5]]
    # the sign of three differences out of three has p = 1/8 < 0.2, of two 1/4
    assert bad.pruned == 3
    assert len(list(trial_folder(tmp_path, 1).glob("seed-*/result.json"))) == 3
    assert heard.ends[1][0] == "PRUNED"
    assert heard.ends[1][2] == bad.reason == "pruned at repeat 3"
    assert "pruning saved 25% of all rounds" in heard.notes  # 3 of 12 repeats
    evaluations = statistics.fmean(r.timing.gradient_evaluations for r in finals)
    accuracy = statistics.fmean(r.validation.personal.accuracy or 0 for r in finals)
    assert good.constraints == {
        "timing/gradient_evaluations": pytest.approx(evaluations - 10),
        "validation/personal/accuracy": pytest.approx(-accuracy),
    }
    (row,) = [row for row in rows_of(tmp_path) if row.trial == 0]
    assert row.violated == ["timing/gradient_evaluations"]


def test_a_driver_that_died_after_it_decided_abides_by_it(tmp_path: Path):
    """The decision is in the database, and the trial is still RUNNING there: it is pruned, and not run again."""
    study = study_of(
        BASE,
        search={"federation.learning_rate": {"uniform": [1e-6, 0.5]}},
        design=[{"federation.learning_rate": 0.1}, {"federation.learning_rate": 1e-6}],
        pruner={"method": "successive_halving", "first": 2, "factor": 2},
    )
    (tmp_path / STUDY_FILE).write_text(dump_yaml(study))
    identity(tmp_path)
    with driver_storage(study, tmp_path, print) as storage:
        queue = Queue(study, open_studies(study, tmp_path, storage))
        first, second = queue.ask(), queue.ask()
        assert first is not None
        assert second is not None
        first.end("FAIL")
        second.report(2, 0.125)
        second.note("rung/2", {"values": [0.125], "kept": False, "memory": {}})
    heard = Heard()
    resume_study(tmp_path, heard, means=simulated())
    ended = trials_of(tmp_path)[1]
    assert (ended.state, ended.pruned, ended.reason) == ("PRUNED", 2, "pruned at round 2")
    assert ended.frozen.value == ended.frozen.intermediate_values[2] == 0.125
    assert heard.ends == {1: ("PRUNED", {"validation/personal/macro_f1": 0.125}, "pruned at round 2")}
    assert heard.starts == []


LOSSES = [
    (MemoryError(), 3, "FAIL"),
    (ValueError("no"), 1, "FAIL"),
    (MemoryError(), 2, "COMPLETE"),
    (Dies(), 3, "FAIL"),
]


def failing(log: Path, error: Exception, fails: int) -> type[TrialRunner]:
    """A runner that fails by itself, `fails` times; every attempt leaves a letter in the file `log`."""

    class Failing(TrialRunner):
        def begin(self, order: Order, tracker: Any) -> Reply:
            with log.open("a") as file:
                file.write("x")
            if len(log.read_text()) <= fails:
                raise error
            return super().begin(order, tracker)

    return Failing


@pytest.mark.parametrize(("error", "attempts", "state"), LOSSES)
def test_lost_memory_is_retried_and_mistakes_are_not(tmp_path: Path, error: Exception, attempts: int, state: str):
    """A trial is given up when it was lost three times."""
    study = study_of(ALONE, trials=1, search={"federation.batch_size": {"choice": [16]}}, federation={"rounds": 1})
    means = simulated(failing(tmp_path / "log", error, attempts if state == "FAIL" else attempts - 1))
    heard = Heard()
    if state == "FAIL":
        with pytest.raises(StudyError):
            start_study(study, tmp_path / "study", heard, means=means)
    else:
        start_study(study, tmp_path / "study", heard, means=means)
    assert len((tmp_path / "log").read_text()) == attempts
    (trial,) = trials_of(tmp_path / "study")
    assert trial.state == state
    if isinstance(error, MemoryError | Dies) and state == "FAIL":
        assert trial.reason.startswith("lost 3 times: ")
    elif state == "FAIL":
        assert trial.reason == "ValueError: no"
    assert sum("going on from its checkpoint" in note for note in heard.notes) == attempts - 1


def test_a_trial_whose_node_is_away_stays_under_way_and_no_other_begins(tmp_path: Path):
    study = study_of(
        ALONE,
        trials=3,
        concurrency=1,
        search={"federation.batch_size": {"choice": [8, 16, 32]}},
        federation={"rounds": 1},
    )
    error = NodeUnreachable("no Ethereum node answers at http://node (eth_call: HTTP 502; asked for 20 s)")
    heard = Heard()
    with pytest.raises(StudyError, match=r"trial 0: no Ethereum node answers .*`pulseledger resume .*` goes on"):
        start_study(study, tmp_path / "study", heard, means=simulated(failing(tmp_path / "log", error, 1)))
    assert [trial.state for trial in trials_of(tmp_path / "study")] == ["RUNNING"]
    resume_study(tmp_path / "study", Heard(), means=simulated())
    assert [trial.state for trial in trials_of(tmp_path / "study")] == ["COMPLETE"] * 3


def test_lost_memory_is_retried_on_ray_itself(ray2, tmp_path: Path):
    settled()
    study = study_of(BASE, trials=1, search={"federation.batch_size": {"choice": [16]}}, federation={"rounds": 1})
    heard = Heard()
    start_study(study, tmp_path / "study", heard, means=Means(runner=failing(tmp_path / "log", MemoryError(), 1)))
    assert len((tmp_path / "log").read_text()) == 2
    assert [trial.state for trial in trials_of(tmp_path / "study")] == ["COMPLETE"]
    assert sum("going on from its checkpoint" in note for note in heard.notes) == 1


class Fragmented(SimulatedRay):
    """Three CPUs are free in sum, but only two groups of a CPU and a bit find room on their nodes."""

    def __init__(self, clock: JumpingClock) -> None:
        super().__init__(clock, cpus=3.0)

    def ready(self) -> bool:
        self.clock.sleep(1.0)
        return self.groups <= 2


RATES = {"search": {"federation.learning_rate": {"uniform": [0.01, 0.1]}}, "federation": {"rounds": 1}}


def test_a_trial_without_room_waits_for_others_which_are_concluded(tmp_path: Path):
    study, clock = study_of(ALONE, trials=4, concurrency=3, **RATES), JumpingClock()
    start_study(study, tmp_path / "study", Heard(), means=simulated(clock=clock, cluster=Fragmented))
    assert [trial.state for trial in trials_of(tmp_path / "study")] == ["COMPLETE"] * 4
    assert clock.now() < 30


def test_a_stop_is_heard_while_a_trial_waits_for_room(tmp_path: Path):
    folder, clock = tmp_path / "study", JumpingClock()

    class Stopped(Fragmented):
        def ready(self) -> bool:
            if self.groups == 3:
                ask(folder, "stop")
            return super().ready()

    study = study_of(ALONE, trials=4, concurrency=3, **RATES)
    with pytest.raises(KeyboardInterrupt, match="every trial is at a checkpoint"):
        start_study(study, folder, Heard(), means=simulated(clock=clock, cluster=Stopped))
    assert clock.now() < 30
    assert [trial.state for trial in trials_of(folder)][2:] == ["RUNNING"]
    resume_study(folder, Heard(), means=simulated(cluster=Fragmented))
    assert [trial.state for trial in trials_of(folder)] == ["COMPLETE"] * 4


class Stuck(TrialRunner):
    """Never gets anywhere: it starts, cuts data or opens a ledger."""

    def begin(self, order: Order, tracker: Any) -> Reply:
        raise Hangs


class InRound(TrialRunner):
    """Its third round, after two of ten seconds, takes for ever."""

    clock: JumpingClock
    done = 0

    def begin(self, order: Order, tracker: Any) -> Reply:
        if self.done < 2 and self.clock.now() >= 10 * (self.done + 1):
            self.done += 1
            write_progress(order.folder, Seen(self.done, "", {}))
        raise Hangs


@pytest.mark.parametrize(
    ("runner", "limits", "within"), [(Stuck, {}, 5), (InRound, {}, 30), (InRound, {"stop": 8.0}, 20)]
)
def test_a_stop_waits_for_no_trial_without_end(
    tmp_path: Path, runner: type[TrialRunner], limits: dict[str, float], within: int
):
    """One that has made no round has little to lose; one whose rounds are long has twice the longest."""
    folder, clock, heard = tmp_path / "study", JumpingClock(), Heard()
    InRound.clock, asked = clock, []

    class Asking(SimulatedRay):
        def wait(self, calls: Any, num_returns: int, timeout: float) -> Any:
            if clock.now() > 25 and not asked:
                asked.append(clock.now())
                ask(folder, "stop")
            return super().wait(calls, num_returns, timeout)

    study = study_of(ALONE, trials=2, concurrency=1, **RATES)
    with pytest.raises(KeyboardInterrupt, match="trial 0 reached no checkpoint in time and goes on from the last"):
        start_study(study, folder, heard, means=simulated(runner, Limits(**limits), clock, Asking))
    assert within < clock.now() - asked[0] < within + 3
    assert f"trial 0: no checkpoint within {within} s; its runner is ended" in heard.notes
    assert [trial.state for trial in trials_of(folder)] == ["RUNNING"]
    resume_study(folder, Heard(), means=simulated())
    assert [trial.state for trial in trials_of(folder)] == ["COMPLETE"] * 2


def test_a_trial_that_does_not_move_is_ended(tmp_path: Path):
    study = study_of(ALONE, trials=1, execution={"pool": "inprocess", "cpus": 2, "deadline": 0.1})
    clock, heard = JumpingClock(), Heard()
    with pytest.raises(StudyError):
        start_study(study, tmp_path, heard, means=simulated(Stuck, Limits(start=5.0, losses=0), clock))
    assert heard.notes[0] == "trial 0: no round in 5.3 s; its runner is ended"  # 5 s and three times the deadline
    assert heard.ends[0][0] == "FAIL"
    assert heard.ends[0][2].startswith("lost 1 times: ")
    assert 5.3 < clock.now() < 7


def test_work_before_the_first_round_counts_as_moving(tmp_path: Path):
    """As long as a generator of synthetic beats says that it is being trained, its trial is not taken for stuck."""

    class Slow(TrialRunner):
        steps = 0

        def advance(self) -> Reply:
            assert self.progress is not None
            Slow.steps += 1
            if Slow.steps < 40:
                self.progress.note(f"timegan: step {Slow.steps}")
                raise Hangs
            return super().advance()

    study = study_of(ALONE, trials=1, execution={"pool": "inprocess", "cpus": 2, "deadline": 0.1})
    clock, heard = JumpingClock(), Heard()
    start_study(study, tmp_path, heard, means=simulated(Slow, Limits(start=1.0), clock))  # 1.3 s in all
    assert [state for state, _, _ in heard.ends.values()] == ["COMPLETE"]
    assert clock.now() > 15
    assert not any("no round" in note for note in heard.notes)


# --- A driver that is killed ------------------------------------------------------------------------------------------


def test_a_killed_driver_loses_nothing_and_repeats_nothing(done: Path, tmp_path: Path):
    """The same study as `done`, killed when its first trial has ended and others are under way."""
    folder, file = tmp_path / "killed", tmp_path / "study.yaml"
    # hospitals in the runners' own processes: the same bits, and fewer processes to wait for
    values = {**TUNED, "tracking": store_of(done, "killed"), "execution": {"cpus": 2, "pool": "inprocess"}}
    file.write_text(yaml.safe_dump(values))
    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
        kept = (folder / STUDY_FILE).read_text()
        with pytest.raises(StudyError) as error:
            start_study(study_of(values, trials=9), folder)
        assert str(error.value).startswith(
            f"{folder}: is being driven by process {process.pid} on {socket.gethostname()};"
        )
        assert (folder / STUDY_FILE).read_text() == kept  # a refused driver changes nothing
        until(lambda: list(folder.glob("trials/*/seed-0/result.json")), process)
        os.kill(process.pid, signal.SIGKILL)
    assert len(list(folder.glob("trials/*/seed-0/result.json"))) < 4
    before = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/seed-0/result.json")}
    said = Heard()
    resume_study(folder, said, means=simulated())
    assert any("of an earlier driver" in line for line in said.notes)
    assert outcome(folder) == outcome(done)
    assert [row[3] for row in outcome(folder)] == ["COMPLETE"] * 4
    everything = [trial.state.name for group in read_groups(read_study(folder), folder) for trial in group.trials]
    assert len(everything) in (4, 5)  # one may have been asked for without a configuration yet
    assert sum(state != "COMPLETE" for state in everything) == len(everything) - 4
    for path, time_written in before.items():
        assert path.stat().st_mtime_ns == time_written  # what was finished was not run again
    assert all(audit(path.parent).findings == [] for path in folder.glob("trials/*/seed-0/ledger"))
    client, runs = runs_of(done, "killed")
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            curve = client.get_metric_history(run.info.run_id, "val/macro_f1")
            assert sorted(point.step for point in curve) == list(range(1, ROUNDS + 1))
            assert len(client.get_metric_history(run.info.run_id, "final/personal/macro_f1")) == 1


@pytest.mark.long
def test_more_trials_are_the_same_study(done: Path, ray2, tmp_path: Path):
    settled()
    folder = Path(shutil.copytree(done, tmp_path / "more"))
    before = outcome(folder)
    start_study(study_of(TUNED, trials=5), folder, quiet=True)
    after = outcome(folder)
    assert after[:4] == before
    assert [row[0] for row in after] == [0, 1, 2, 3, 4]
    assert after[4][3] == "COMPLETE"
