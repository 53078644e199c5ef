"""A study's own ledger: what is registered and recorded, killed at any step, and what an audit of the study finds."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from eth_abi import encode
from eth_utils import keccak
from reference import TINY, settled

from engine.errors import LedgerError
from engine.ledger import studies
from engine.ledger.config import LedgerConfig
from engine.ledger.studies import StudyLedger
from engine.ledger.study_audit import StudyReport, audit_records
from engine.settings import set_key
from sweeps import registration
from sweeps.__main__ import main
from sweeps.audit import audit_study
from sweeps.folder import trial_folder
from sweeps.queue import open_studies
from sweeps.space import StudyConfig, load_study
from sweeps.start import resume_study, start_study
from sweeps.storage import driver_storage

DESIGN = {"study": {"name": "s", "seed": 3}, "code": {"commit": "abc"}}
TRIALS = [
    ("COMPLETE", {"values": [0.5], "results": []}),
    ("PRUNED", {"reason": "pruned at round 2"}),
    ("FAILED", {"reason": "x"}),
]


def opened(folder: Path, identity: str = "s/1") -> StudyLedger:
    return StudyLedger(folder, identity, LedgerConfig())


def fill(ledger: StudyLedger, trials: int = 3) -> None:
    ledger.register(DESIGN, 3)
    for trial in range(trials):
        ledger.record(trial, "BEGUN", {"trial": trial})
    for trial in range(trials):
        ledger.record(trial, *TRIALS[trial])


def digest(value: Any) -> bytes:
    """SHA-256 of JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def heads(
    domain: Any, content: dict[str, Any], records: list[tuple[int, int, Any]], trials: int, study: bytes
) -> list[bytes]:
    """The chain of heads written out as in StudyLedger.sol."""
    values = [domain.chain_id, domain.contract, study, digest(content), trials]
    found = [keccak(encode(["uint256", "address", "bytes32", "bytes32", "uint32"], values))]
    for sequence, (trial, stage, what) in enumerate(records, 1):
        words = [found[-1], sequence, trial, stage, digest(what)]
        found.append(keccak(encode(["bytes32", "uint64", "uint32", "uint8", "bytes32"], words)))
    return found


# --- The ledger -------------------------------------------------------------------------------------------------------


def test_heads_are_the_written_out_ones(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger)
    summary = ledger.summary()
    content = {"design": DESIGN, "trials": 3, "generation": 0, "first": None, "begun": 0}
    records = [(t, 1, {"trial": t}) for t in range(3)] + [(t, 2 + t, TRIALS[t][1]) for t in range(3)]
    expected = heads(ledger._domain, content, records, 3, digest({"study": "s/1"}))
    assert summary["head"] == "0x" + expected[-1].hex()
    assert (summary["records"], summary["generations"], summary["backend"]) == (6, 1, "embedded")
    ledger.close()
    with sqlite3.connect(tmp_path / studies.FILE) as connection:
        assert [row[0] for row in connection.execute("SELECT head FROM records ORDER BY seq")] == expected[1:]
    again = opened(tmp_path)
    assert again.summary() | {"seconds": 0} == summary | {"seconds": 0}
    again.close()


def test_the_same_again_changes_nothing_and_something_else_is_refused(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger)
    head = ledger.summary()["head"]
    fill(ledger)
    assert ledger.summary()["head"] == head
    assert ledger.recorded() == {(t, end) for t in range(3) for end in (False, True)}
    with pytest.raises(LedgerError, match=r"trial 0 is recorded as COMPLETE .* now it is FAILED"):
        ledger.record(0, "FAILED", TRIALS[0][1])
    with pytest.raises(LedgerError, match="trial 1 is recorded as BEGUN"):
        ledger.record(1, "BEGUN", {"trial": 2})
    with pytest.raises(LedgerError, match="trial 7 cannot end as COMPLETE: no beginning"):
        ledger.record(7, "COMPLETE", {})
    with pytest.raises(LedgerError, match=r"TrialOutOfRange|refuses"):
        ledger.record(3, "BEGUN", {"trial": 3})
    ledger.close()


def test_an_amendment_names_the_first_registration_and_leaves_begun_trials_where_they_are(tmp_path: Path):
    ledger = opened(tmp_path)
    ledger.register(DESIGN, 1)
    ledger.record(0, "BEGUN", {"trial": 0})
    ledger.register(DESIGN, 3)
    ledger.register(DESIGN, 2)  # fewer are no amendment
    ledger.record(1, "BEGUN", {"trial": 1})
    ledger.record(0, "FAILED", {"reason": "x"})
    ledger.close()
    first, second = digest({"study": "s/1"}), digest({"first": "0x" + digest({"study": "s/1"}).hex(), "generation": 1})
    with sqlite3.connect(tmp_path / studies.FILE) as connection:
        designs = connection.execute("SELECT study, content, trials FROM designs ORDER BY generation").fetchall()
        records = connection.execute("SELECT study, sequence, trial, stage FROM records ORDER BY seq").fetchall()
    assert [(study, trials) for study, _, trials in designs] == [(first, 1), (second, 3)]
    assert json.loads(designs[1][1])["first"] == "0x" + first.hex()
    assert json.loads(designs[1][1])["begun"] == 1
    assert records == [(first, 1, 0, 1), (second, 1, 1, 1), (first, 2, 0, 4)]
    report = StudyReport()
    audit_records(tmp_path, report)
    assert report.findings == []
    assert report.notes == ["amended: trials 1 to 3"]


def test_a_ledger_of_another_study_is_refused(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger, 0)
    with pytest.raises(LedgerError, match="is writing the journal"):
        opened(tmp_path)
    ledger.close()
    with pytest.raises(LedgerError, match="belongs to another study than t/1"):
        opened(tmp_path, "t/1")


def _killed(folder: str, step: int, before: bool) -> None:
    """Fills a ledger and dies at a step: a write into the journal, or a transaction that goes to the chain."""
    from engine.ledger.chain import EmbeddedChain

    left = [step]

    def dies(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0] and before:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*args, **kwargs)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return wrapped

    for owner, name in (
        (studies._Journal, "create"),
        (studies._Journal, "add_transaction"),
        (studies._Journal, "set_receipt"),
        (EmbeddedChain, "send"),
    ):
        setattr(owner, name, dies(getattr(owner, name)))
    fill(opened(Path(folder)))
    os._exit(0)


def test_killed_at_any_step_the_head_is_the_same(tmp_path: Path):
    """8 transactions of three steps each, and the making of the journal: 25 steps, before and after each."""
    straight = opened(tmp_path / "straight")
    fill(straight)
    head, rows = straight.summary()["head"], straight._journal.records()
    straight.close()
    context = multiprocessing.get_context("fork")
    died = 0
    for step in range(1, 25, 3):
        for before in (True, False):
            folder = tmp_path / f"{step}-{before}"
            process = context.Process(target=_killed, args=(str(folder), step, before))
            process.start()
            process.join(60)
            died += process.exitcode == -signal.SIGKILL
            ledger = opened(folder)
            fill(ledger)
            assert ledger.summary()["head"] == head
            assert ledger._journal.records() == rows
            ledger.close()
    assert died == 16


# --- The audit of a ledger alone --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    ledger = opened(folder)
    fill(ledger)
    ledger.register({**DESIGN, "code": {"commit": "def"}}, 4)
    ledger.record(3, "BEGUN", {"trial": 3})
    ledger.close()
    with sqlite3.connect(folder / studies.FILE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def change(folder: Path, statement: str, *arguments: Any) -> None:
    """Change the journal, in tables that have lost their constraints."""
    path = folder / studies.FILE
    with sqlite3.connect(path) as connection:
        rows = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in studies.TABLES
        }
    connection.close()
    path.unlink()
    with sqlite3.connect(path) as connection:
        for table, columns in studies.TABLES.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows[table])
        assert connection.execute(statement, arguments).rowcount > 0
    connection.close()


def found_in(folder: Path) -> StudyReport:
    report = StudyReport()
    audit_records(folder, report)
    json.dumps(report.to_dict())
    assert all("\n" not in line for line in report.lines())
    return report


COLUMNS = [(table, column) for table, columns in studies.TABLES.items() if table != "meta" for column in columns]


def test_a_clean_ledger_is_clean(original: Path):
    report = found_in(original)
    assert report.findings == []
    assert report.counts == {"registrations": 2, "records": 7, "transactions": 10, "re-executed": 10}
    assert report.notes == ["amended: trials 3 to 4, code.commit"]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_change_of_any_column_is_found(original: Path, tmp_path: Path, table: str, column: str, monkeypatch):
    monkeypatch.setattr("engine.ledger.study_audit._StudyAudit.check_chain", lambda self: None)
    for value in (None, b"\xff" * 32, "x", -1, 2, 2**62, 1.5, "[" * 10_000, '{"trial": 9}'):
        folder = Path(shutil.copytree(original, tmp_path / "copy", dirs_exist_ok=True))
        where = "generation = 1" if table == "designs" else "seq = 5"
        with sqlite3.connect(folder / studies.FILE) as connection:
            if connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()[0] == value:
                continue
        change(folder, f"UPDATE {table} SET {column} = ? WHERE {where}", value)
        assert not found_in(folder).clean, value


@pytest.mark.parametrize("table", ["designs", "records", "transactions"])
def test_a_missing_row_is_found(original: Path, tmp_path: Path, table: str):
    folder = Path(shutil.copytree(original, tmp_path / "copy"))
    change(folder, f"DELETE FROM {table} WHERE rowid = 3 OR rowid = 1")
    assert not found_in(folder).clean


@pytest.mark.parametrize("key", ["format", "domain", "backend"])
def test_damaged_meta_is_named(original: Path, tmp_path: Path, key: str):
    folder = Path(shutil.copytree(original, tmp_path / "copy"))
    change(folder, f"UPDATE meta SET value = 'x' WHERE key = '{key}'")
    assert [f.field for f in found_in(folder).findings] == [key]


# --- A whole study ----------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    **{
        key: value
        for key, value in TINY.items()
        if key not in ("execution.pool", "cohort.hospitals", "tracking.backend")
    },
    "name": "registered",
    "federation.rounds": 4,
    "execution.cpus": 2,
    "execution.hospitals_per_actor": 3,
    "cohort.hospitals": 2,
}


def study_of(trials: int = 4, **keys: Any) -> StudyConfig:
    values: dict[str, Any] = {
        # the first fails, the second is complete, of those that follow one is pruned
        "baselines": [{"federation.learning_rate": 1e30}],
        "search": {"federation.learning_rate": {"log_uniform": [1e-5, 0.1]}},
        "design": [
            {"federation.learning_rate": 0.05},
            {"federation.learning_rate": 0.04},
            {"federation.learning_rate": 1e-5},
        ],
        "pruner": {"method": "rungs", "first": 2, "factor": 2, "n_startup_trials": 0},
        "sampler": "random",
        "trials": trials,
        "concurrency": 1,
        "tracking": {"backend": "none"},
        **keys,
    }
    for key, value in KEYS.items():
        set_key(values, key, value)
    return load_study(values, "test")


@pytest.fixture(scope="module")
def done(ray2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settled()
    folder = tmp_path_factory.mktemp("study") / "registered"
    start_study(study_of(tracking={"backend": "mlflow"}), folder, quiet=True)
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy to change; the runs of its trials are audited elsewhere."""
    monkeypatch.setattr("sweeps.audit.audit", lambda run: StudyReport())
    return Path(shutil.copytree(done, tmp_path / "registered"))


def places(folder: Path) -> set[tuple]:
    return {(f.trial, f.record, f.field) for f in audit_study(folder).findings}


def database(folder: Path, statement: str, *arguments: Any) -> None:
    connection = sqlite3.connect(folder / "optuna.db")
    assert connection.execute(statement, arguments).rowcount > 0
    connection.commit()
    connection.close()


def test_a_study_is_clean_and_its_failed_and_pruned_trials_are_listed(done: Path, capsys):
    report = audit_study(done)
    assert report.findings == []
    states = [row["state"] for row in report.trials]
    assert states == ["FAILED", "COMPLETE", "COMPLETE", "PRUNED"]
    assert report.trials[0]["reason"].startswith("HospitalError: hospital 0, round 1, train")
    assert report.trials[3]["reason"] == "pruned at round 2"
    assert report.counts["records"] == 8
    assert len(report.runs) == 4
    assert report.clean
    assert main(["audit", str(done)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("trial 3: PRUNED: pruned at round 2") for line in lines)
    assert lines[-1] == "clean"


def test_nothing_is_recorded_twice_and_more_trials_are_an_amendment(done: Path, tmp_path: Path, ray2):
    folder = Path(shutil.copytree(done, tmp_path / "registered"))
    before = audit_study(folder).head
    resume_study(folder, quiet=True)
    assert audit_study(folder).head == before
    start_study(study_of(trials=5, tracking={"backend": "mlflow"}), folder, quiet=True)
    report = audit_study(folder)
    assert report.findings == []
    assert report.notes == ["amended: trials 4 to 5"]
    assert report.counts["records"] == 10
    assert report.head is not None
    assert report.head.split()[0] == before


def test_what_a_killed_driver_did_not_record_is_recorded_at_the_resume(done: Path, tmp_path: Path, ray2):
    """A driver that was killed between telling Optuna and writing the record: the last one is missing."""
    folder = Path(shutil.copytree(done, tmp_path / "registered"))
    head = audit_study(folder).head
    with sqlite3.connect(folder / "ledger" / studies.FILE) as connection:
        connection.execute("DELETE FROM records WHERE seq = 8")
        connection.execute("DELETE FROM transactions WHERE seq = 10")
    connection.close()
    assert (3, "ended", "stage") in places(folder)
    resume_study(folder, quiet=True)
    report = audit_study(folder)
    assert (report.findings, report.head) == ([], head)


def test_changes_after_the_fact_are_named(done: Path, copy: Path):
    original = (copy / "optuna.db").read_bytes()
    database(copy, "UPDATE trial_values SET value = 0.99 WHERE trial_id = 2")
    name = "validation/personal/macro_f1"
    assert {(1, "ended", "values.0"), (1, "database", name)} <= places(copy)
    (copy / "optuna.db").write_bytes(original)

    database(copy, "UPDATE trials SET state = 'FAIL' WHERE trial_id = 2")
    assert (1, "database", "state") in places(copy)
    (copy / "optuna.db").write_bytes(original)

    database(copy, "DELETE FROM trials WHERE trial_id = 4")
    assert (3, "database", "trial") in places(copy)  # dropped
    (copy / "optuna.db").write_bytes(original)

    with driver_storage(study_of(), copy, print) as storage:
        (opened_, _), *_ = open_studies(study_of(), copy, storage)
        added = optuna.Trial(opened_, opened_.ask()._trial_id)
        attributes = opened_.get_trials()[1].user_attrs | {"trial": 4}
        for key, value in attributes.items():
            added.set_user_attr(key, value)
    assert (4, "database", "trial") in places(copy)  # added
    (copy / "optuna.db").write_bytes(original)

    statement = "UPDATE trial_user_attributes SET value_json = replace(value_json, '0.04', '0.03') WHERE trial_id = 3"
    database(copy, f"{statement} AND key IN ('keys', 'config')")
    found = places(copy)
    assert {(2, "begun", "keys.federation.learning_rate"), (2, "folder", "config_hash")} <= found
    (copy / "optuna.db").unlink()
    assert (None, "database", "file") in places(copy)
    assert not (copy / "optuna.db").exists()


def test_swapped_changed_and_surplus_folders_are_named(copy: Path):
    one, two = trial_folder(copy, 1), trial_folder(copy, 2)
    one.rename(copy / "aside")
    two.rename(one)
    (copy / "aside").rename(two)
    found = places(copy)
    assert {(number, "ended", "results.0.model_hash") for number in (1, 2)} <= found
    assert {(number, "folder", "config_hash") for number in (1, 2)} <= found
    shutil.copytree(one, trial_folder(copy, 9))
    assert (9, "folder", "0009") in places(copy)
    shutil.rmtree(one)
    assert (1, "folder", "result.json") in places(copy)


def test_a_changed_result_study_file_or_missing_ledger_is_named(copy: Path):
    path = trial_folder(copy, 1) / "seed-0" / "result.json"
    text = path.read_text()
    result = json.loads(text)
    result["final"]["personal"]["accuracy"] = 0.999
    path.write_text(json.dumps(result))
    assert places(copy) == {(1, "ended", "results.0.digest")}
    result = json.loads(text)
    result["timing"]["total_seconds"] += 1  # times are not anchored
    path.write_text(json.dumps(result))
    assert places(copy) == set()
    study = copy / "study.yaml"
    study.write_text(study.read_text().replace("learning_rate: 0.05", "learning_rate: 0.06"))
    assert places(copy) == {(None, "design", "design.0.federation.learning_rate")}
    shutil.rmtree(copy / "ledger")
    assert (None, "study", "ledger") in places(copy)


def test_without_a_ledger_nothing_is_registered(ray2, tmp_path: Path):
    settled()
    start_study(study_of(trials=2, ledger={"backend": "none"}), tmp_path / "s", quiet=True)
    assert not (tmp_path / "s" / "ledger").exists()
    report = audit_study(tmp_path / "s")
    assert (report.findings, report.notes) == ([], ["ledger.backend is none: nothing was registered"])


def test_times_are_left_out_and_all_else_is_not():
    result = {
        "timing": {"a": 1},
        "ledger": {"seconds": 2, "overhead_share": 3, "head": "h"},
        "rounds": [{"train_seconds": 1, "loss": 2}],
    }
    assert registration._timeless(result) == {"ledger": {"head": "h"}, "rounds": [{"loss": 2}]}


# --- From MLflow ------------------------------------------------------------------------------------------------------


def test_an_audit_starts_from_an_mlflow_run(done: Path, copy: Path, capsys, monkeypatch):
    import mlflow

    monkeypatch.undo()
    store = f"sqlite:///{copy / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("pulseledger").experiment_id])
    by_number = {run.data.tags.get("number"): run.info.run_id for run in runs}
    assert main(["audit", "--mlflow", by_number["1"], str(copy), "--json"]) == 0
    ((home, report),) = json.loads(capsys.readouterr().out).items()
    assert home == str(trial_folder(copy, 1) / "seed-0")
    assert report["clean"]
    assert main(["audit", "--mlflow", by_number[None], "--store", store, "--json"]) == 0
    ((home, report),) = json.loads(capsys.readouterr().out).items()
    assert (home, len(report["runs"])) == (str(copy), 4)
    assert {"ledger.head", "ledger.contract", "ledger.chain_id"} <= client.get_run(by_number[None]).data.tags.keys()
    for name in ("ledger.head", "ledger.contract", "ledger.chain_id", "ledger.bundle", "model_hash"):
        kept = client.get_run(by_number["1"]).data.tags[name]
        client.set_tag(by_number["1"], name, "0x99")
        assert main(["audit", "--mlflow", by_number["1"], str(copy), "--json"]) == 1
        ((_, report),) = json.loads(capsys.readouterr().out).items()
        assert [(f["record"], f["field"], f["found"]) for f in report["findings"]] == [("mlflow", name, "0x99")]
        client.set_tag(by_number["1"], name, kept)
    client.set_tag(by_number[None], "ledger.head", "0x99")
    assert main(["audit", "--mlflow", by_number[None], str(copy)]) == 1
    assert "finding: mlflow.ledger.head: MLflow's tag" in capsys.readouterr().out
    assert main(["audit", "--mlflow", "0" * 32, str(copy)]) == 2
    assert main(["audit", "--mlflow", by_number["1"], str(copy / "trials")]) == 2
