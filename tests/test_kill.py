"""Processes that are killed with SIGKILL while a study runs: nothing is lost, nothing is done twice, no bit changes."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState
from processes import actors, driver, until
from raylets import ENVIRONMENT, raylets
from reference import Heard, numbers, settled
from simulated_ray import simulated
from studies import ALONE, BASE

from engine.audit.run import audit
from engine.result import RESULT, Result
from sweeps.checks import load_study
from sweeps.folder import is_study, read_groups, read_progress, read_study, repeat_folder, trial_folder
from sweeps.rows import rows_of
from sweeps.start import resume_study, start_study
from sweeps.stored import begun

ROUNDS = 12
STUDY: dict[str, Any] = {
    **BASE,
    "name": "killed",
    "federation": {"rounds": ROUNDS, "local_epochs": 8},
    "ledger": {"backend": "embedded"},
    "conditions": {"cohort.hospitals": [2, 3]},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.learning_rate": {"log_uniform": [0.003, 0.1]}},
    "design": [{"federation.learning_rate": 0.05}, {"federation.learning_rate": 0.003}],
    "objectives": {"validation/personal/macro_f1": "maximize", "validation/personal/balanced_accuracy": "maximize"},
    "sampler": "random",
    "trials": 8,
}
# decisions depend on who was there first, so trials come one after another
PRUNED = {"pruner": {"method": "rungs", "first": 2, "factor": 2, "n_startup_trials": 1}, "concurrency": 1}
FEW = {**PRUNED, "conditions": {"cohort.hospitals": [3]}, "trials": 4}


def values_of(store: Path, experiment: str, **keys: Any) -> dict[str, Any]:
    uri = f"sqlite:///{store / 'mlflow.db'}"
    return {**STUDY, **keys, "tracking": {"backend": "mlflow", "uri": uri, "experiment": experiment}}


def victims(process: subprocess.Popen[str], kind: str) -> list[psutil.Process]:
    match kind:
        case "tracker":  # the driver starts it before any trial
            return actors(process.pid, "background")[:1]
        case "ledger":
            return actors(process.pid, "background")[1:]
        case "raylet":
            own = psutil.Process(process.pid).children(recursive=True)
            return [child for child in own if child.name() == "raylet"]
        case _:
            return actors(process.pid, kind)


def goes_on(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Waits for something to become true, or for the end of a driver that may have been quicker."""
    until(lambda: process.poll() is not None or condition())


def rounds_done(folder: Path) -> int:
    """Rounds of all trials so far, as far as they can be seen."""
    return sum(read_progress(trial).round for trial in folder.glob("trials/*"))


def strike(process: subprocess.Popen[str], kind: str, draw: random.Random) -> bool:
    """Kills one process of a kind; False when there was none before the study ended."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = victims(process, kind)
        return bool(found)

    goes_on(there, process)
    if not found or process.poll() is not None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        draw.choice(found).kill()
    return True


def facts(folder: Path) -> list[Any]:
    """What may not depend on interruptions, trial by trial."""
    rows = []
    study = read_study(folder)
    for group in read_groups(study, folder):
        # one that never got a configuration was put back into the queue
        assert all(t.state.is_finished() for t in group.trials if "config" not in t.user_attrs)
        for trial in begun(group.trials):
            home = repeat_folder(trial_folder(folder, trial.number), 0)
            rows.append(
                (
                    trial.number,
                    trial.condition,
                    trial.keys,
                    trial.state,
                    trial.values,
                    trial.pruned,
                    {step: (rung.values, rung.kept) for step, rung in trial.rungs.items()},
                    numbers(Result.read(home), home) if (home / RESULT).exists() else None,
                    audit(home).head,
                )
            )
            assert audit(home).findings == []
    return sorted(rows, key=lambda row: row[0])


def in_mlflow(store: Path, experiment: str, folder: Path) -> None:
    """Exactly one run for each trial, ended as the trial did, each round once; and the parent."""
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    mine = {run.data.tags["number"]: run for run in runs if run is not parent}
    rows = rows_of(folder)
    assert len(runs) == len(rows) + 1
    for row in rows:
        run = mine[str(row.trial)]
        assert run.info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}[row.state]
        assert run.data.tags["state"] == row.state
        points = client.get_metric_history(run.info.run_id, "train/loss")
        steps = sorted(point.step for point in points)
        last = ROUNDS if row.state == "COMPLETE" else max(steps)
        assert steps == list(range(1, last + 1)), (row.trial, steps)
        if row.state == "COMPLETE":
            assert len(client.get_metric_history(run.info.run_id, "final/personal/macro_f1")) == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory) -> list[Any]:
    return calm(store, "undisturbed", tmp_path_factory.mktemp("undisturbed") / "study", PRUNED)


def calm(store: Path, experiment: str, folder: Path, keys: dict[str, Any]) -> list[Any]:
    """The facts of a study without Ray and without any process that could be killed."""
    values = {**values_of(store, experiment, **keys), "execution": ALONE["execution"]}
    start_study(load_study(values, "test"), folder, Heard(), means=simulated())
    in_mlflow(store, experiment, folder)
    found = facts(folder)
    assert {row[3] for row in found} == {"COMPLETE", "PRUNED"}
    return found


@pytest.mark.long
def test_whatever_is_killed_the_study_is_the_same(ray2, store: Path, tmp_path: Path):
    """A hospital, the tracker, a ledger and a runner are killed, then Ctrl-C stops the driver at a checkpoint."""
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values_of(store, "killed", **FEW), sort_keys=False))
    draw = random.Random(1)
    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        for i, kind in enumerate(("hospital", "tracker", "ledger", "runner")):
            goes_on(lambda i=i: rounds_done(folder) > 4 * i, process)  # type: ignore[misc]
            assert strike(process, kind, draw), kind
        goes_on(lambda: rounds_done(folder) > 4 * 4, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    text = (tmp_path / "study.log").read_text()
    assert f"`pulseledger resume {folder}` goes on" in text
    assert "Traceback" not in text
    states = [trial.state for group in read_groups(read_study(folder), folder) for trial in group.trials]
    assert states.count(TrialState.RUNNING) <= 1  # it waits at its checkpoint
    assert states.count(TrialState.FAIL) == 0
    settled()
    resume_study(folder, quiet=True)
    assert facts(folder) == calm(store, "calm", tmp_path / "calm", FEW)
    in_mlflow(store, "killed", folder)
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    for run in client.search_runs([client.get_experiment_by_name("killed").experiment_id]):
        client.delete_run(run.info.run_id)
    resume_study(folder, Heard(), means=simulated())  # nothing is left to train, everything is left to tell
    in_mlflow(store, "killed", folder)


# --- Many times -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_second_signal_leaves_at_once(undisturbed: list[Any], ray2, store: Path, tmp_path: Path):
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values_of(store, "stopped", **PRUNED), sort_keys=False))
    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        goes_on(lambda: rounds_done(folder) > 10, process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    settled()
    resume_study(folder, quiet=True)
    assert facts(folder) == undisturbed
    in_mlflow(store, "stopped", folder)


def in_trial(name: str) -> Callable[[Path], bool]:
    return lambda folder: any(folder.glob(f"trials/0000/{name}"))


# From the driver's first file, before there is a Ray, to the last round's end.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the folder is taken": lambda folder: (folder / ".driver.json").exists(),
    "Ray starts": is_study,
    "a trial starts": in_trial(""),
    "data are cut": in_trial("seed-0/config.yaml"),
    "a ledger opens": in_trial("seed-0/ledger/*.sqlite"),
    "a round is under way": lambda folder: rounds_done(folder) > 2,
    "a trial closes": lambda folder: rounds_done(folder) >= ROUNDS,
}
SIGNALS = {"term": [signal.SIGTERM], "int twice": [signal.SIGINT, signal.SIGINT]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict[str, Any], list[Any]]:
    """A study of two trials, and its facts."""
    values = {**STUDY, **FEW, "trials": 2, "tracking": {"backend": "none"}}
    folder = tmp_path_factory.mktemp("alone") / "study"
    start_study(load_study({**values, "execution": ALONE["execution"]}, "test"), folder, Heard(), means=simulated())
    return values, facts(folder)


@pytest.mark.long
@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_signals_end_a_driver_at_any_moment_with_a_sentence(
    alone: tuple[dict[str, Any], list[Any]], tmp_path: Path, moment: str, signals: str
):
    """Within 30 s, which a trial has that is not in a long round; and what is left goes on to the same numbers."""
    values, wanted = alone
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        until(lambda: MOMENTS[moment](folder), process)
        for number in SIGNALS[signals]:
            process.send_signal(number)
            time.sleep(0.05)
        began = time.monotonic()
        # 130 to a shell, also where the second comes as the process has said its sentence and is all but gone
        assert process.wait(60) in (130, -signal.SIGINT)
    text = (tmp_path / "study.log").read_text()
    print(f"{moment}, {signals}: {time.monotonic() - began:.1f} s\n{text}")
    assert time.monotonic() - began < 40
    assert "Traceback" not in text
    if is_study(folder):
        assert f"`pulseledger resume {folder}` goes on" in text
        resume_study(folder, Heard(), means=simulated())
    else:
        assert "pulseledger: stopped before the study had begun; the same command begins it.\n" in text
        start_study(load_study(values, "test"), folder, Heard(), means=simulated())
    assert facts(folder) == wanted


@pytest.mark.long
@pytest.mark.parametrize("seed", range(int(os.environ.get("PULSELEDGER_KILLS", "12"))))
def test_random_processes_killed_at_random_times(undisturbed: list[Any], ray2, store: Path, tmp_path: Path, seed: int):
    """At most two losses in one driver's life, as a trial is given up after three; and the driver, several times."""
    draw = random.Random(seed)
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values_of(store, f"random-{seed}", **PRUNED), sort_keys=False))
    words = ["sweep", str(file), "--out", str(folder)]
    killed = []
    for _ in range(draw.randint(1, 3)):
        with driver(folder, *words) as process:
            goes_on(lambda: (folder / ".driver.json").exists(), process)
            for kind in draw.choices(["hospital", "runner", "ledger", "tracker"], k=draw.randint(0, 2)):
                if strike(process, kind, draw):
                    killed.append(kind)
                time.sleep(draw.uniform(0, 2))
            time.sleep(draw.choice([0, draw.uniform(0, 4), draw.uniform(4, 12)]))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed.append("driver")
        if folder.joinpath("study.yaml").exists():
            words = ["resume", str(folder)]
    print(f"seed {seed}: killed {', '.join(killed)}")
    settled()
    if folder.joinpath("study.yaml").exists():
        resume_study(folder, quiet=True)
    else:
        start_study(load_study(values_of(store, f"random-{seed}", **PRUNED), "test"), folder, quiet=True)
    assert facts(folder) == undisturbed
    in_mlflow(store, f"random-{seed}", folder)


@pytest.mark.long
def test_the_only_raylet_killed_ends_in_one_sentence_and_is_resumed(
    undisturbed: list[Any], ray2, store: Path, tmp_path: Path
):
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values_of(store, "raylet", **PRUNED), sort_keys=False))
    with driver(folder, "sweep", str(file), "--out", str(folder)) as process:
        goes_on(lambda: rounds_done(folder) > 10, process)
        (raylet,) = victims(process, "raylet")
        raylet.kill()
        assert process.wait(120) == 2
    text = (tmp_path / "study.log").read_text()
    assert "pulseledger: Ray was lost (" in text
    assert f"`pulseledger resume {folder}` goes on." in text
    assert "Traceback" not in text
    settled()
    resume_study(folder, quiet=True)
    assert facts(folder) == undisturbed
    in_mlflow(store, "raylet", folder)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_raylets_killed_at_random_times(undisturbed: list[Any], store: Path, tmp_path: Path, seed: int):
    """Two nodes beside the head; one of them is killed and joins again, several times. The driver stays."""
    draw = random.Random(seed)
    folder, file = tmp_path / "study", tmp_path / "study.yaml"
    values = values_of(store, f"raylets-{seed}", **PRUNED)
    file.write_text(yaml.safe_dump({**values, "execution": {"hospitals_per_actor": 1}}, sort_keys=False))
    with raylets() as cluster:
        for name in "ab":
            cluster.add(name, 1)
        words = ["sweep", str(file), "--out", str(folder), "--address", cluster.address]
        with driver(folder, *words, **ENVIRONMENT) as process:
            for kill in range(3):
                goes_on(lambda kill=kill: rounds_done(folder) > 12 * kill, process)  # type: ignore[misc]
                time.sleep(draw.uniform(0, 2))
                name = draw.choice("ab")
                cluster.kill(name)
                time.sleep(draw.uniform(0, 4))
                cluster.add(name, 1)
            assert process.wait(240) == 0
    print((tmp_path / "study.log").read_text())
    assert facts(folder) == undisturbed
    in_mlflow(store, f"raylets-{seed}", folder)
