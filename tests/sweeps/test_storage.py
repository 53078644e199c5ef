"""Studies whose trials are in PostgreSQL and whose runs are on an MLflow server: real ones, which also go away."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import studies
import yaml
from mlflow import MlflowClient
from optuna.study import StudyDirection
from optuna.trial import TrialState
from reference import ROOT, Heard, settled
from servers import Postgres, mlflow_server, postgres
from simulated_ray import simulated
from studies import ALONE, BASE

from engine.clock import JumpingClock
from engine.errors import ConfigError, NotTrusted, PulseLedgerError, StudyError
from engine.homes import claim
from sweeps.__main__ import main
from sweeps.commands import ask, commands
from sweeps.folder import STUDY_FILE, WRITTEN, read_groups, read_study
from sweeps.queue import Queue, open_studies
from sweeps.space import StudyConfig
from sweeps.start import resume_study, start_study
from sweeps.storage import Away, Patient, connecting, driver_storage, reading_storage
from sweeps.trust import trusting

ROUNDS = 12
VALUES: dict[str, Any] = {
    **BASE,
    "name": "database",
    "cohort": {"hospitals": 3},
    "federation": {"rounds": ROUNDS, "local_epochs": 2},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "baselines": [{"federation.algorithm": "local"}],
    "sampler": "random",
    "trials": 3,
    "concurrency": 1,
}


def study_of(**keys: Any) -> StudyConfig:
    return studies.study_of(VALUES, **keys)


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="pulseledger-postgres-"))  # not pytest's, which no other user may enter
    try:
        with postgres(folder) as running, pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", running.PASSWORD)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest) -> str:
    """An empty database of this test's own."""
    name = re.sub(
        r"\W", "_", f"d{len(server.sql('postgres', 'SELECT 1 FROM pg_database'))}_{request.node.name}".lower()
    )[:60]
    server.create(name)
    return server.url(name)


def outcome(folder: Path) -> list[Any]:
    found = [trial for group in read_groups(read_study(folder), folder) for trial in group.trials]
    return [(t.number, t.params, t.state, t.values, t.user_attrs["keys"]) for t in found]


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"storage": "postgresql+psycopg://me:hush@there/db"}, "PGPASSWORD"),
        ({"storage": "postgresql+psycopg://me@there/db?password=hush"}, "PGPASSWORD"),
        ({"storage": "mysql://me:hush@there/db"}, "postgresql+psycopg://"),
        ({"storage": "postgresql+psycopg://me@there/db?sslpassword=hush"}, "PGPASSWORD"),
        ({"tracking": {"uri": "http://me:hush@there:5000"}}, "MLFLOW_TRACKING_PASSWORD"),
        ({"tracking": {"uri": "https://hush@there"}}, "MLFLOW_TRACKING_PASSWORD"),
        ({"tracking": {"uri": "https://there/?token=hush"}}, "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_password_is_refused_and_not_repeated(keys: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as error:
        study_of(**keys)
    assert words in str(error.value)
    assert "hush" not in str(error.value)


def test_a_server_that_is_not_there_ends_in_one_sentence(tmp_path: Path):
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install pulseledger[postgres])")
    with pytest.raises(StudyError) as error:
        start_study(study_of(storage="postgresql+psycopg://me@127.0.0.1:1/db"), tmp_path, quiet=True)
    assert str(error.value).startswith("postgresql+psycopg://me@127.0.0.1:1/db: cannot be used (connection failed")
    assert "\n" not in str(error.value)
    assert not (tmp_path / STUDY_FILE).exists()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"N" * 100])
def test_what_listens_and_is_no_postgresql_ends_in_one_sentence(tmp_path: Path, said: bytes):
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install pulseledger[postgres])")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as connection:
                        connection.recv(100)
                        connection.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        where = f"postgresql+psycopg://me@127.0.0.1:{listening.getsockname()[1]}/db"
        with pytest.raises(StudyError, match="cannot be used") as error:
            start_study(study_of(storage=where), tmp_path, quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / STUDY_FILE).exists()


def test_a_wrong_password_is_not_echoed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPASSWORD", "wrong-and-hushed")
    with pytest.raises(StudyError) as error:
        start_study(study_of(storage=url), tmp_path, quiet=True)
    assert "password authentication failed" in str(error.value)
    assert "wrong-and-hushed" not in str(error.value)


def test_trials_do_not_change_the_kind_of_their_storage(url: str, tmp_path: Path):
    claim(tmp_path, "study", WRITTEN)
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(VALUES))
    with pytest.raises(StudyError, match="another kind of storage"):
        start_study(study_of(storage=url), tmp_path, quiet=True)


# Holds the lock of a study in the database argv[1] for the folder argv[2].
HOLD = """
import sys, time
from pathlib import Path
from sweeps.checks import load_study
from sweeps.storage import driver_storage
with driver_storage(load_study({"name": "database", "storage": sys.argv[1]}, "test"), Path(sys.argv[2]), print):
    print("held", flush=True)
    time.sleep(99)
"""


# --- One driver -------------------------------------------------------------------------------------------------------


def test_a_second_driver_is_told_of_the_first_from_any_folder(url: str, tmp_path: Path):
    """The first is another process; it is killed, and the lock is free again."""
    study = study_of(storage=url)
    words = [sys.executable, "-c", HOLD, url, str(tmp_path)]
    first = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StudyError) as error:
            start_study(study, tmp_path / "another", quiet=True)
        assert f"is being driven by process {first.pid} on {socket.gethostname()[:20]}" in str(error.value)
        assert not (tmp_path / "another" / STUDY_FILE).exists()
        other = study_of(storage=url, name="another study in the same database")
        with driver_storage(other, tmp_path, quiet) as storage:
            assert open_studies(other, tmp_path, storage)
    finally:
        first.kill()
        first.communicate()
    end = time.monotonic() + 30  # the server has to notice
    while True:
        try:
            with driver_storage(study, tmp_path, quiet):
                return
        except StudyError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_name_belongs_to_the_folder_where_it_was_begun(url: str, tmp_path: Path):
    study = study_of(storage=url)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with driver_storage(study, tmp_path / "a", quiet) as held:
        Queue(study, open_studies(study, tmp_path / "a", held)).ask()
    with driver_storage(study, tmp_path / "b", quiet) as held, pytest.raises(StudyError, match="another folder"):
        open_studies(study, tmp_path / "b", held)
    (tmp_path / "a").rename(tmp_path / "moved")
    (group,) = read_groups(study, tmp_path / "moved")
    (trial,) = group.trials
    assert trial.user_attrs["baseline"] == study.baselines[0]
    for other in ("b", "c"):  # one that was opened, and one where nothing was begun
        (tmp_path / other).mkdir(exist_ok=True)
        with pytest.raises(StudyError, match="another folder"):
            read_groups(study, tmp_path / other)


# --- A database that goes away ----------------------------------------------------------------------------------------


def test_calls_wait_for_the_server_and_take_the_lock_again(server: Postgres, url: str, tmp_path: Path):
    study, said = study_of(storage=url), []
    with driver_storage(study, tmp_path, said.append) as held:
        ((opened, _),) = open_studies(study, tmp_path, held)
        opened.tell(opened.ask(), 1.0)
        server.stop()
        back = threading.Timer(1.5, server.start)
        back.start()
        trial = opened.ask()
        back.join()
        trial.suggest_float("x", 0, 1)
        # its connection alone is ended, as a firewall does
        server.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + url.rpartition("/")[2] + "'",
        )
        opened.tell(trial, 2.0)
        assert [t.values for t in opened.get_trials()] == [[1.0], [2.0]]
        with pytest.raises(StudyError, match=f"process {os.getpid()} on"), driver_storage(study, tmp_path, quiet):
            pass
    assert [text.split(" is ")[1][:4] for text in said] == ["away", "back", "away", "back"]


def test_a_driver_whose_lock_went_to_another_stops(server: Postgres, url: str, tmp_path: Path):
    study = study_of(storage=url)
    with driver_storage(study, tmp_path, quiet) as held:
        ((opened, _),) = open_studies(study, tmp_path, held)
        server.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + url.rpartition("/")[2] + "'",
        )
        with driver_storage(study, tmp_path, quiet), pytest.raises(StudyError, match="is being driven by process"):
            opened.ask()


def test_a_server_that_stays_away_stops_the_driver_and_loses_nothing(server: Postgres, url: str, tmp_path: Path):
    study = study_of(storage=url)
    with driver_storage(study, tmp_path, quiet, away_seconds=0.5) as held:
        ((opened, _),) = open_studies(study, tmp_path, held)
        trial = opened.ask()
        server.stop("fast")
        try:
            with pytest.raises(StudyError) as error:
                opened.tell(trial, 1.0)
        finally:
            server.start()
        assert "has been away for 0.5 s" in str(error.value)
        assert "nothing is lost, resume" in str(error.value)
    assert [trial.state for trial in read_groups(study, tmp_path)[0].trials] == [TrialState.RUNNING]


def test_a_reader_can_change_nothing(url: str, tmp_path: Path):
    study = study_of(storage=url)
    with pytest.raises(NotTrusted, match=r"storage is .* was not opened"), reading_storage(study, tmp_path):
        pass  # a folder may name any server
    with trusting([url]), reading_storage(study, tmp_path) as nothing:
        assert nothing is None  # no driver has been here, and none of Optuna's tables is made
    with driver_storage(study, tmp_path, quiet) as held:
        ((opened, _),) = open_studies(study, tmp_path, held)
        with reading_storage(study, tmp_path) as reading:
            assert reading is not None
            number = reading.get_study_id_from_name(study.name + " | all")
            with pytest.raises(optuna.exceptions.StorageInternalError) as error:
                reading.set_study_user_attr(number, "mine", True)
            assert "read-only transaction" in str(error.value.__cause__)
        assert "mine" not in opened.user_attrs


@pytest.mark.long
def test_a_role_that_may_only_read_compares_and_reports(
    server: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """The address names no user, so that everybody comes as himself."""
    database = url.rpartition("/")[2]
    address = url.replace("pulseledger@", "")
    monkeypatch.setenv("PGUSER", "pulseledger")
    study = study_of(storage=address, execution=ALONE["execution"], federation={"rounds": 2}, trials=2)
    start_study(study, tmp_path, Heard(), means=simulated())
    role = f"reader_{database}"
    server.sql(
        database,
        f"CREATE ROLE {role} LOGIN PASSWORD 'r€ad/only'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    monkeypatch.setenv("PGUSER", role)
    monkeypatch.setenv("PGPASSWORD", "r€ad/only")
    for words in (["compare"], ["report"]):
        assert main([*words, str(tmp_path), "--trust", address]) == 0, capsys.readouterr().err
    with pytest.raises(StudyError, match=r"cannot be used \(.*permission denied.*\)\.$") as error:
        resume_study(tmp_path, Heard(), means=simulated())
    assert "\n" not in str(error.value)


def test_parameters_of_the_address_come_before_ours(server: Postgres, url: str, tmp_path: Path):
    """A schema of one's own for each study in a shared database."""
    database = url.rpartition("/")[2]
    server.sql(database, "CREATE SCHEMA lab")
    address = f"{url}?options=-c%20search_path%3Dlab&keepalives_idle=7"
    assert connecting(address, True)["options"].endswith("-c search_path=lab -c default_transaction_read_only=on")
    assert "keepalives_idle" not in connecting(address)
    study = study_of(storage=address)
    with driver_storage(study, tmp_path, quiet) as held:
        assert Queue(study, open_studies(study, tmp_path, held)).ask() is not None
    where = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('studies', 'alembic_version')"
    assert server.sql(database, where) == [("lab",)]
    (group,) = read_groups(study, tmp_path)
    assert len(group.trials) == 1


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('a1'); CREATE TABLE runs (a int)",
         "its table alembic_version is another program's; Optuna wants a database of its own"),
        ("CREATE TABLE studies (a int)", "its table studies is another program's"),
    ],
)  # fmt: skip
def test_foreign_tables_are_told_and_nothing_is_made_between_them(
    server: Postgres, url: str, tmp_path: Path, tables: str, words: str
):
    database = url.rpartition("/")[2]
    server.sql(database, tables)
    before = server.sql(database, "SELECT tablename FROM pg_tables ORDER BY 1")
    with pytest.raises(StudyError, match=words) as error:
        start_study(study_of(storage=url), tmp_path, Heard(), means=simulated())
    assert "\n" not in str(error.value)
    assert server.sql(database, "SELECT tablename FROM pg_tables ORDER BY 1") == before
    if "alembic" in tables:
        with trusting([url]), pytest.raises(StudyError, match=words):
            read_groups(study_of(storage=url), tmp_path)


def test_tables_of_another_release_of_optuna_are_told(server: Postgres, url: str, tmp_path: Path):
    study = study_of(storage=url)
    with driver_storage(study, tmp_path, quiet) as held:
        open_studies(study, tmp_path, held)
    for version in ("v9.9.0.a", "v2.6.0.a"):
        server.sql(url.rpartition("/")[2], f"UPDATE alembic_version SET version_num = '{version}'")
        for use in (lambda: driver_storage(study, tmp_path, quiet), lambda: reading_storage(study, tmp_path)):
            with (
                pytest.raises(StudyError, match=r"cannot be used \(The runtime optuna version .*\)\.$") as error,
                use(),
            ):
                pass
            assert "\n" not in str(error.value)


def test_results_that_are_gone_are_told_and_made_again(url: str, tmp_path: Path, capsys):
    """And a copy of the folder is told that the database goes on without it."""
    study = study_of(storage=url, execution=ALONE["execution"], federation={"rounds": 2}, trials=2)
    folder, copy = tmp_path / "a", tmp_path / "copy"
    start_study(study, folder, Heard(), means=simulated())
    shutil.copytree(folder, copy)
    before = outcome(folder)
    shutil.rmtree(folder / "trials/0000")
    assert main(["compare", str(folder)]) == 0
    assert "trial 0" in "".join(capsys.readouterr())
    assert main(["report", str(folder)]) == 0
    heard = Heard()
    resume_study(folder, heard, means=simulated())
    assert "trial 0: its results are gone, it is run again" in heard.notes
    assert outcome(folder) == before
    resume_study(folder, Heard(), means=simulated(), trials=3)
    assert main(["compare", str(copy)]) in (0, 2)
    assert "trial 2" in "".join(capsys.readouterr())


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "ftp://x/y"])
def test_an_address_of_mlflow_is_looked_at_whatever_the_database_is(url: str, tmp_path: Path, address: str):
    study = study_of(storage=url, tracking={"backend": "mlflow", "uri": address})
    for _ in range(2):
        with pytest.raises(PulseLedgerError, match=r"^tracking\.uri: no MLflow store at"):
            start_study(study, tmp_path / "x", Heard(), means=simulated())


class _LosesAnswers:
    """Carries out each call and then says, the first time, that the database is away."""

    def __init__(self) -> None:
        self.storage = optuna.storages.InMemoryStorage()
        self.lost: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            answer = getattr(self.storage, name)(*args, **options)
            if name not in self.lost:
                self.lost.add(name)
                raise Away("its answer was lost")
            return answer

        return call


def test_a_call_whose_answer_was_lost_is_not_carried_out_twice():
    loses = _LosesAnswers()
    patient: Any = Patient(loses, quiet, JumpingClock())  # type: ignore[arg-type, abstract]
    study = optuna.create_study(storage=patient, study_name="lost", load_if_exists=True)
    study.enqueue_trial({"x": 0.25}, user_attrs={"baseline": {}})
    loses.lost.clear()
    trial = study.ask()
    assert trial.suggest_float("x", 0, 1) == 0.25
    trial.set_user_attr("config", [1])
    study.tell(trial, 3.0)
    loses.lost.clear()
    study.tell(study.ask(), state=TrialState.FAIL)
    assert [(t.state, t.values) for t in study.get_trials()] == [(TrialState.COMPLETE, [3.0]), (TrialState.FAIL, None)]
    assert {"create_new_trial", "set_trial_state_values", "set_trial_param", "set_trial_user_attr"} <= loses.lost | {
        "set_trial_param",
        "set_trial_user_attr",
    }


# --- A whole study ----------------------------------------------------------------------------------------------------


def test_commands_reach_a_driver_whose_trials_are_in_the_database(url: str, tmp_path: Path):
    """They are in the study's folder, wherever the trials are."""
    study = study_of(storage=url, execution=ALONE["execution"], federation={"rounds": 2}, trials=2)

    class Asks(Heard):
        def ended(self, trial: int, *rest: Any) -> None:
            super().ended(trial, *rest)
            if trial == 0:
                ask(tmp_path, "trials", 3)
                ask(tmp_path, "prune", 0)
            if trial == 1:
                ask(tmp_path, "stop")

    with pytest.raises(KeyboardInterrupt):
        start_study(study, tmp_path, Asks(), means=simulated())
    assert [row[2].name for row in outcome(tmp_path)] == ["COMPLETE"] * 2
    assert [(c.verb, c.state) for c in commands(tmp_path)] == [
        ("trials", "done"),
        ("prune", "refused"),
        ("stop", "done"),
    ]
    resume_study(tmp_path, Heard(), means=simulated())
    assert [row[2].name for row in outcome(tmp_path)] == ["COMPLETE"] * 3


def test_a_server_that_freezes_is_one_that_is_away(server: Postgres, url: str, tmp_path: Path):
    """A statement gets no answer and no end of the connection: the process is stopped, or its disk hangs."""
    heard: list[str] = []
    study = study_of(storage=f"{url}?connect_timeout=2")
    with driver_storage(study, tmp_path, heard.append, away_seconds=1.0, answer_seconds=0.5) as storage:
        number = storage.create_new_study([StudyDirection.MAXIMIZE], "it")
        words = r"the database has been away for 1 s .*nothing is lost"
        with server.frozen(), pytest.raises(StudyError, match=words) as told:
            storage.get_all_trials(number)
        assert "has not answered for 0.5 s" in heard[0]
        assert storage.get_all_trials(number) == []
    assert "\n" not in str(told.value)


@pytest.mark.long
def test_a_study_survives_both_servers_going_away(server: Postgres, url: str, ray2, tmp_path: Path, capfd):
    """The same numbers as on SQLite, one MLflow run for each trial with each step once, and no password anywhere.

    First the database goes, then it and the server of MLflow, which is on it, too, at the same moment.
    """
    settled()
    start_study(study_of(), tmp_path / "sqlite", quiet=True)
    server.create("mlflow_store")
    store = server.url("mlflow_store")  # its password is in PGPASSWORD, too
    folder = tmp_path / "postgres"
    with mlflow_server(store, tmp_path) as tracking:
        values = study_of(storage=url, tracking={"backend": "mlflow", "uri": tracking.url})
        stopped: list[str] = []

        def interrupt() -> None:
            def until(pattern: str) -> None:
                end = time.monotonic() + 120
                while not list(folder.glob(pattern)) and time.monotonic() < end:
                    time.sleep(0.05)

            until("trials/0000/seed-0/checkpoint.safetensors")
            server.stop()
            time.sleep(3)
            server.start()
            stopped.append("database")
            until("trials/0001/seed-0/checkpoint.safetensors")
            server.stop()
            tracking.stop()
            time.sleep(3)
            server.start()
            tracking.start()
            stopped.append("both")

        outage = threading.Thread(target=interrupt)
        outage.start()
        start_study(values, folder)
        outage.join()
        assert stopped == ["database", "both"]
        resume_study(folder, quiet=True)
        assert outcome(folder) == outcome(tmp_path / "sqlite")
        assert [row[2] for row in outcome(folder)] == [TrialState.COMPLETE] * 3
        assert main(["compare", str(folder)]) == 0
        client = MlflowClient(tracking.url)
        runs = client.search_runs([client.get_experiment_by_name("pulseledger").experiment_id])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = sorted((r for r in runs if r is not parent), key=lambda r: r.data.tags["number"])
        assert [run.data.tags["number"] for run in children] == ["0", "1", "2"]
        assert {run.info.status for run in runs} == {"FINISHED"}
        for run in children:
            rounds = 1 if run.data.params["federation.algorithm"] == "none" else ROUNDS
            curve = client.get_metric_history(
                run.info.run_id, "train/loss"
            )  # local training has no global model to score
            assert sorted(point.step for point in curve) == list(range(1, rounds + 1))
            assert len(client.get_metric_history(run.info.run_id, "final/personal/macro_f1")) == 1
        assert parent.data.tags["optuna.storage"] == url
        tags = [str(run.data.tags) + str(run.data.params) for run in runs]
    said = capfd.readouterr()
    assert "the study's database is away" in said.err
    tables = [text for database in (url.rpartition("/")[2], "mlflow_store") for text in server.rows(database)]
    assert any("database" in text for text in tables)
    assert not any(server.PASSWORD in text for text in [*tables, *tags, *said])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    secrets = [server.PASSWORD.encode(), urllib.parse.quote(server.PASSWORD).encode()]
    assert not [path for path in files for secret in secrets if secret in path.read_bytes()]
