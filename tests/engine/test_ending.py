"""How a run ends: closed whole, pruned at a rung, with a hospital less, after an interruption at the end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Interrupted, stated
from safetensors.numpy import load_file, save_file

from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.encoding import json_hash
from engine.errors import HospitalError, LedgerError
from engine.experiment import Place, run, steps
from engine.ledger import archive
from engine.ledger.config import LedgerConfig
from engine.ledger.format import BEFORE, BUNDLE, GENESIS, RUN, tensor_name, vectors_name
from engine.ledger.run import reopened
from engine.ledger.store import read_only, table_rows
from engine.ledger.subjects.closing import bound
from engine.pools.local import InProcessPool
from engine.result import RESULT

LEDGER = {"ledger.backend": "embedded"}


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    with read_only(folder / "ledger" / RUN.file) as journal:
        return [dict(row) for row in table_rows(journal, table, RUN.tables[table])]


def test_a_finished_run_is_closed_over_what_hospitals_state(tiny_config, tmp_path: Path):
    result = run(tiny_config(**LEDGER), tmp_path)
    [closing] = rows(tmp_path, "closings")
    record = json.loads(closing["record"])
    assert (record["round"], record["state"]) == (2, 1)
    assert record["result"] == "0x" + json_hash(bound(result.document())).hex()
    assert record["data"] == "0x" + result.cohort.digest
    assert json.loads(closing["content"]) == {"missing": {}}
    said = [json.loads(content) for *_, content in stated(tmp_path)]
    assert [one["counts"]["test"] for one in said] == [
        [row.support.get(name, 0) for name in result.cohort.classes] for row in result.final.global_.per_hospital
    ]
    assert sum(one["gradients"]["rounds"] for one in said) == sum(r.gradient_evaluations for r in result.rounds)
    assert [[number for number, _ in one["curve"]] for one in said] == [[1, 2]] * 3
    with reopened(tmp_path / "ledger", LedgerConfig()) as ledger:
        assert ledger.rounds.state(ledger.domain.contract)["closing"] == ledger.closing.digest
        assert result.ledger.closing == "0x" + ledger.closing.digest.hex()
        with pytest.raises(LedgerError, match="was closed before, with another state"):
            ledger.closing.close(ledger.closing.results(), "pruned", {}, digests(record))
        # interrupted right after, and gone on with by a version that comes to the same, or to something else
        newer, sent = {**digests(record), "code": bytes(32)}, len(ledger.book.transactions)
        assert ledger.closing.close(ledger.closing.results(), "complete", {}, newer) == ledger.closing.record
        assert len(ledger.book.transactions) == sent
        told = "was closed before by another version of the program, with another result; only that version can go on"
        with pytest.raises(LedgerError, match=told):
            ledger.closing.close(ledger.closing.results(), "complete", {}, {**newer, "result": bytes(32)})


def digests(record: dict[str, Any]) -> dict[str, bytes]:
    names = ("result", "predictions", "config", "data", "code")
    return {name: bytes.fromhex(record[name][2:]) for name in names}


def test_a_run_that_was_stopped_before_its_result_was_written_ends_in_the_same_closing(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER)
    whole = run(config, tmp_path / "whole")
    run(config, tmp_path / "again")
    (tmp_path / "again" / RESULT).unlink()
    (tmp_path / "again" / "ledger" / BUNDLE).unlink()
    report = audit(tmp_path / "again")
    assert (report.findings, report.finished) == ([], False)
    again = run(config, tmp_path / "again")
    assert again.ledger.closing == whole.ledger.closing
    assert again.ledger.transactions == whole.ledger.transactions
    assert audit(tmp_path / "again").findings == []


class StopsAtTheEnd(InProcessPool):
    """Is interrupted when it is asked to test the final model."""

    def finish(self, *args: Any) -> Any:
        raise Interrupted


def test_hospitals_remember_what_they_measured_over_an_interruption(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER, **{"federation.rounds": 3, "federation.participation": 0.7})
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", Place(pool=StopsAtTheEnd))
    again = run(config, tmp_path / "stopped")
    assert stated(tmp_path / "stopped") == stated(tmp_path / "whole") != []
    assert again.ledger.closing == whole.ledger.closing


def at_rung(config: RunConfig, folder: Path, place: Place, rung: int = 1) -> Any:
    chunks = steps(config, folder, place, (rung,))
    so_far = next(chunks)
    chunks.close()
    return so_far


def test_a_pruned_run_is_closed_as_such_and_one_that_pauses_is_not(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER)
    so_far = at_rung(config, tmp_path / "pruned", Place(pruned=lambda: True))
    report = audit(tmp_path / "pruned")
    assert (report.findings, report.finished, report.head) == ([], True, so_far.ledger.head)
    assert not (tmp_path / "pruned" / RESULT).exists()
    [closing] = rows(tmp_path / "pruned", "closings")
    assert json.loads(closing["record"])["state"] == 2
    with pytest.raises(LedgerError, match="is closed, nothing can follow"):
        run(config, tmp_path / "pruned")
    at_rung(config, tmp_path / "paused", Place())
    report = audit(tmp_path / "paused")
    assert (report.findings, report.finished) == ([], False)
    assert run(config, tmp_path / "paused").ledger.closing == run(config, tmp_path / "whole").ledger.closing


class LosesOne(InProcessPool):
    """Hospital 1 is gone at the end."""

    def finish(self, round: int, params: Any, notice: Any, ids: Any) -> list[Any]:
        answers = super().finish(round, params, notice, ids)
        return [HospitalError(1, round, "finish", "gone") if a.hospital == 1 else a for a in answers]


def test_a_hospital_that_is_lost_at_the_end_is_signed_for(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER, **{"federation.min_hospitals": 2})
    result = run(config, tmp_path, Place(pool=LosesOne))
    assert result.lost == ("hospital 1, round 2, finish: gone",)
    assert result.ledger.cosigned == 2
    report = audit(tmp_path)
    assert (report.findings, report.finished) == ([], True)
    assert any("the learning curve was not recomputed" in note for note in report.unchecked)


def test_the_imaginary_hospital_of_pooled_data_signs_too(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER, **{"federation.algorithm": "centralised"})
    assert build_cohort(config.data, config.cohort).hospitals[-1].id == 2
    result = run(config, tmp_path)
    assert result.ledger.cosigned == 4
    report = audit(tmp_path)
    assert (report.findings, report.unchecked) == ([], [])


def test_a_journal_of_an_older_format_is_refused_in_one_sentence(tiny_config, tmp_path: Path):
    import sqlite3

    config = tiny_config(**LEDGER)
    at_rung(config, tmp_path, Place())
    connection = sqlite3.connect(tmp_path / "ledger" / RUN.file)
    connection.execute("UPDATE meta SET value = '3' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=r"has format 3, expected 8") as refused:
        run(config, tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(LedgerError, match=r"the journal has format 3, this version reads 8"):
        audit(tmp_path)


@pytest.mark.parametrize("server", ["none", "adam"])
@pytest.mark.parametrize("left", ["nothing", "another model", "another form"])
def test_hospitals_compute_the_last_round_again_whatever_the_process_before_left(
    tiny_config, tmp_path: Path, left: str, server: str
):
    config = tiny_config(**LEDGER, **{"federation.rounds": 3, "aggregation.server.method": server})
    at_rung(config, tmp_path, Place(), 2)
    before = tmp_path / "ledger" / BEFORE
    size = {"nothing": 0, "another model": len(load_file(before)[GENESIS]), "another form": 3}[left]
    save_file({GENESIS: np.ones(size, np.float32)}, before) if size else before.unlink()
    result = run(config, tmp_path)
    assert result.ledger.checked == 3
    assert audit(tmp_path).findings == []


def test_where_the_model_before_a_round_is_lost_for_good_the_run_does_not_go_on(tiny_config, tmp_path: Path):
    config = tiny_config(**LEDGER, **{"federation.rounds": 3})
    at_rung(config, tmp_path, Place(), 2)
    (tmp_path / "ledger" / BEFORE).unlink()
    vectors = load_file(tmp_path / "ledger" / vectors_name(1))
    archive.write_round(tmp_path / "ledger", 1, {slot: vectors[tensor_name(0)] for slot in range(3)})
    with pytest.raises(LedgerError, match=r"is not the model before round 2, which hospitals must compute again"):
        run(config, tmp_path)
