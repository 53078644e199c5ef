"""Readers only read: no reading command changes a byte of a study's folder, or needs what drives one."""

import argparse
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from reference import ROOT, command
from studies import ALONE, parked, runs_of, study_of

from engine.audit.report import Verdict
from engine.errors import StudyError
from engine.homes import claim
from engine.settings import dump_yaml
from sweeps import Study
from sweeps.__main__ import main
from sweeps.folder import STUDY_FILE, WRITTEN, Seen, read_groups, read_progress, read_study, read_trials, write_progress
from sweeps.queue import open_studies, wanted_first
from sweeps.records import require_same
from sweeps.rows import rows_of
from sweeps.storage import DATABASE, driver_storage, reading_storage
from sweeps.verbs import looking

READS: dict[str, tuple[str, ...]] = {  # of a study with a ledger
    "compare": ("compare", "{study}"),
    "compare as JSON": ("compare", "{study}", "--json"),
    "compare as CSV": ("compare", "{study}", "--csv"),
    "report": ("report", "{study}", "--out", "{out}"),
    "audit": ("audit", "{study}"),
    "plan": ("plan", "{study}/study.yaml"),
    "governance list": ("governance", "list", "{study}"),
    "governance show": ("governance", "show", "{study}", "abab"),
    "governance policy": ("governance", "policy", "{study}"),
    "what was asked": ("ask", "{study}", "list"),
}


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, with the SHA-256 of what is in it and the time of its last change."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder")
        + f" {path.stat().st_mtime_ns}"
        for path in sorted((folder, *folder.rglob("*")))
    }


@pytest.fixture(scope="module")
def study(ended: Path, tmp_path_factory) -> Path:
    """A finished study, one of whose runs waits for a reviewer, too."""
    folder = Path(shutil.copytree(ended, tmp_path_factory.mktemp("read") / "study"))
    parked(folder / "trials/0001/seed-0")
    return folder


def words(what: str, study: Path, out: Path) -> list[str]:
    return [word.format(study=study, out=out) for word in READS[what]]


@pytest.mark.parametrize("what", READS)
def test_no_reading_command_changes_a_byte(what: str, study: Path, tmp_path: Path, capsys):
    before = snapshot(study)
    assert main(words(what, study, tmp_path)) == 0
    assert snapshot(study) == before
    assert capsys.readouterr().err == ""


def test_the_python_interface_and_mlflow_change_no_byte_either(study: Path):
    """Of a copied study, too, whose MLflow store names places of the first one: what is served is a copy of it."""
    before = snapshot(study)
    opened = Study(study)
    assert [len(frame) for frame in (opened.results(), opened.rounds(), opened.hospitals())] == [4, 32, 10]
    assert opened.best()["state"] == "COMPLETE"
    assert snapshot(study) == before
    options = argparse.Namespace(folders=[study], store=None, port=0)
    served = list[str]()
    for _ in range(2):
        looking.ui(options, [], become=lambda path, words: served.extend(words))
        assert snapshot(study) == before
    client = MlflowClient(served[served.index("--backend-store-uri") + 1])
    assert client.get_experiment_by_name("pulseledger").artifact_location == (study / "artifacts").as_uri()
    assert isinstance(runs_of(study, "pulseledger")[0], MlflowClient)


def test_readers_import_neither_ray_nor_what_drives(study: Path, tmp_path: Path):
    lines = [words(what, study, tmp_path) for what in READS]
    code = (
        "import json, sys; from sweeps.__main__ import main; from sweeps import Study\n"
        "assert not any([main(words) for words in json.loads(sys.argv[1])])\n"
        "Study(sys.argv[2]).results()\n"
        "drive = {'ray', *(f'sweeps.{name}' for name in 'driver slots start queue mirror trial anchors means'.split())}\n"
        "print('-> ', *sorted(drive & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines), str(study)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "-> "


@pytest.fixture
def locked(study: Path, tmp_path: Path) -> Iterator[Path]:
    """The study on a disk that may only be read."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> bool:
        try:
            return subprocess.run(["mount", *options, str(place)], capture_output=True, timeout=20).returncode == 0
        except OSError:
            return False

    if not mount("-t", "tmpfs", "tmpfs"):
        pytest.skip("mounting a disk is not permitted here: run as root, in a container with CAP_SYS_ADMIN")
    try:
        shutil.copytree(study, place / "study")
        assert mount("-o", "remount,ro")
        yield place / "study"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


def test_a_study_that_may_only_be_read_is_read(locked: Path, study: Path, tmp_path: Path, capsys):
    with pytest.raises(OSError, match="Read-only"):
        (locked / "mine").touch()
    for what in READS:
        assert main(words(what, locked, tmp_path / "out")) == 0, what
    capsys.readouterr()
    assert rows_of(locked) == rows_of(study)


# --- A study that is being opened -------------------------------------------------------------------------------------

OPENED: dict[str, Any] = {
    **ALONE,
    "conditions": {"cohort.hospitals": [2, 3, 4, 5]},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.algorithm": {"choice": ["fedavg", "perfedavg"]}},
    "sampler": "grid",
}


def in_database(folder: Path) -> int:
    with sqlite3.connect(folder / DATABASE) as connection:
        return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])


def begin(folder: Path) -> None:
    """A study as drivers leave it that are killed before they ask for the trial that they have just enqueued."""
    study = study_of(OPENED)
    claim(folder, "study", WRITTEN)
    (folder / STUDY_FILE).write_text(dump_yaml(study))
    with driver_storage(study, folder, print) as storage:
        require_same(study, folder)
        for opened, condition in open_studies(study, folder, storage):
            if not opened.get_trials():
                params, attributes = wanted_first(study, condition)[0]
                opened.enqueue_trial(params, user_attrs=attributes)


def test_a_study_that_is_just_being_opened_stays_as_it_is(tmp_path: Path, capsys):
    """The trial of the last condition is not there yet: 3 of 4, and 3 they stay."""
    folder = tmp_path / "study"
    begin(folder)
    assert in_database(folder) == 4
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("DELETE FROM trials WHERE study_id = 4")
    assert in_database(folder) == 3
    before = snapshot(folder)
    for what in READS:
        # there are no requests, and without a ledger there is nothing that an audit could hold the study against
        wanted = 2 if "governance" in what else Verdict.NOT_VERIFIED.code if what == "audit" else 0
        assert main(words(what, folder, tmp_path / "out")) == wanted, what
    assert len(Study(folder).results()) == 0
    assert snapshot(folder) == before
    assert in_database(folder) == 3
    begin(folder)  # the next driver completes it
    assert in_database(folder) == 4
    assert [len(group.trials) for group in read_groups(read_study(folder), folder)] == [1] * 4
    capsys.readouterr()


@pytest.mark.parametrize("left", ["nothing", "an empty file", "tables without a version", "no study"])
def test_a_database_that_a_driver_has_not_finished_making_holds_no_trials(tmp_path: Path, left: str):
    study = study_of(OPENED)
    (tmp_path / STUDY_FILE).write_text(dump_yaml(study))
    if left != "nothing":
        (tmp_path / DATABASE).touch()
    if left in ("tables without a version", "no study"):
        optuna.storages.RDBStorage(f"sqlite:///{tmp_path / DATABASE}").engine.dispose()
    if left == "tables without a version":
        with sqlite3.connect(tmp_path / DATABASE) as connection:
            connection.execute("DELETE FROM alembic_version")
    before = snapshot(tmp_path)
    assert [group.trials for group in read_groups(study, tmp_path)] == [()] * 4
    assert rows_of(tmp_path) == []
    assert snapshot(tmp_path) == before


def test_a_database_of_another_release_of_optuna_is_one_sentence(tmp_path: Path, capsys):
    begin(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.4.0.a'")
    before = snapshot(tmp_path)
    assert main(["compare", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is no longer compatible with the table schema" in error
    assert snapshot(tmp_path) == before


def test_a_damaged_database_is_one_sentence(tmp_path: Path):
    study = study_of(OPENED)
    (tmp_path / DATABASE).write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    with pytest.raises(StudyError) as error:
        read_trials(study, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / DATABASE}: cannot be used (")
    assert "\n" not in str(error.value)


# Changes every trial, writes a part of that to the file, and is killed before it is committed.
TEAR = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")
connection.execute("UPDATE trials SET state = 'FAIL'")
connection.executemany("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, ?, ?)",
                       [(f"k{i}", "x" * 2000) for i in range(200)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_commit_that_a_kill_tore_is_read_as_it_was_before_and_left_to_the_driver(tmp_path: Path):
    begin(tmp_path)
    subprocess.run([sys.executable, "-c", TEAR, str(tmp_path / DATABASE)], timeout=60)
    journal = tmp_path / f"{DATABASE}-journal"
    assert journal.stat().st_size > 0
    before = snapshot(tmp_path)
    states = {trial.state for group in read_groups(read_study(tmp_path), tmp_path) for trial in group.trials}
    assert states == {TrialState.WAITING}
    assert snapshot(tmp_path) == before
    begin(tmp_path)  # a driver rolls it back
    assert not journal.exists()
    assert in_database(tmp_path) == 4


def test_a_reader_cannot_write_even_if_it_wants_to(tmp_path: Path):
    begin(tmp_path)
    with reading_storage(study_of(OPENED), tmp_path) as storage:
        assert storage is not None
        number = storage.get_study_id_from_name("tiny | hospitals=2")
        with pytest.raises(optuna.exceptions.StorageInternalError) as error:
            storage.set_study_user_attr(number, "mine", True)
        assert "attempt to write a readonly database" in str(error.value.__cause__)


def test_reading_goes_on_while_a_driver_writes(tmp_path: Path):
    begin(tmp_path)
    study = study_of(OPENED)
    with driver_storage(study, tmp_path, print) as storage:
        (opened, _), *_ = open_studies(study, tmp_path, storage)
        for number in range(3):
            asked = opened.ask()
            assert sum(t.state == TrialState.RUNNING for t in read_groups(study, tmp_path)[0].trials) == 1
            opened.tell(asked, 0.5)
            assert sum(t.state == TrialState.COMPLETE for t in read_groups(study, tmp_path)[0].trials) == number + 1


# --- Smaller things ---------------------------------------------------------------------------------------------------


def test_the_last_word_of_a_trial_is_read_or_there_is_none(tmp_path: Path):
    nothing = Seen(0, "", {})
    assert read_progress(tmp_path) == nothing
    seen = Seen(3, "timegan: step 5", {"accuracy": 0.5})
    write_progress(tmp_path, seen)
    assert read_progress(tmp_path) == seen
    for text in ("", "[]", '{"round": 1}', '{"rounds": 1}'):
        (tmp_path / "progress.json").write_text(text)
        assert read_progress(tmp_path) == nothing


def test_a_folder_without_a_study_says_so(tmp_path: Path):
    with pytest.raises(StudyError, match=r"holds no study \(study.yaml is missing\)"):
        read_study(tmp_path)
    assert command("compare", tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
