"""What the audit finds in rounds with peer scores."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.experiment import run
from engine.ledger.audit import audit

ROUNDS = 4


def federation_of(tiny_config: Callable[..., RunConfig], **keys: Any) -> RunConfig:
    return tiny_config(
        **{
            "ledger.backend": "embedded",
            "cohort.hospitals": 4,
            "data.simulated.patients": 8,
            "federation.rounds": ROUNDS,
        }
        | {"federation.local_epochs": 3, "ledger.reputation": "peers", **keys}
    )


@pytest.fixture(scope="module")
def honest(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    run(federation_of(tiny_config), folder)
    return folder


def test_a_run_with_peer_scores_is_clean(honest: Path):
    report = audit(honest)
    assert (report.findings, report.notes) == ([], [])
    assert report.counts["peer scores"] == ROUNDS * 4 * 3
    assert report.counts["verdicts"] == ROUNDS
    alone = audit(honest / "ledger" / "bundle.plb")
    assert (alone.findings, alone.head) == ([], report.head)


def test_a_changed_score_verdict_or_reputation_is_named(honest: Path, tmp_path: Path):
    folder = Path(shutil.copytree(honest, tmp_path / "run"))
    path = folder / "ledger" / "journal.sqlite"
    original = path.read_bytes()

    def places() -> set[tuple[Any, ...]]:
        return {(f.round, f.record, f.field) for f in audit(folder).findings}

    for statement, expected in (
        # too small a change for another verdict is found, too
        ("UPDATE peers SET total = total + 1 WHERE round = 2 AND slot = 1 AND judge = 0", (2, "round", "scores_root")),
        ("UPDATE peers SET correct = 0 WHERE round = 2 AND slot = 1", (2, "scores", "verdicts")),
        ("UPDATE scores SET verdicts = replace(verdicts, '15', '7') WHERE round = 3", (3, "scores", "verdicts")),
        ("DELETE FROM peers WHERE round = 2", (2, "round", "scores_root")),
    ):
        with sqlite3.connect(path) as connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()
        assert expected in places(), statement
        path.write_bytes(original)
    result = json.loads((folder / "result.json").read_text())
    result["ledger"]["hospitals"][1]["reputation"] += 1
    (folder / "result.json").write_text(json.dumps(result))
    assert places() == {(None, "result", "ledger.hospitals")}
