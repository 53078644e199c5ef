"""Previews of synthetic beats: before the grant, as they were signed, and never trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import OFFLINE, audit, change, finish, names, row_of, set_value
from simulators import Run

from engine.audit import outcomes, previews


def said(folder: Path) -> set[str]:
    return {found.message for found in audit(folder, [previews.check]).findings}


def one(folder: Path, ending: str) -> Path:
    """A file of the first of two previews."""
    return sorted((folder / "synthetic").glob(f"preview-*{ending}"))[0]


def test_a_run_with_previews_has_nothing_to_name(original: Path):
    report = audit(original)
    assert report.findings == []
    assert report.counts["previews"] == 2


def test_a_grant_before_its_preview_is_named(folder: Path):
    change(folder, "DELETE FROM synthetic WHERE kind = 'preview'")
    report = audit(folder, [previews.check])
    found = [
        f for f in report.findings if f.message == "the request was granted before the preview that its policy wants"
    ]
    assert [f.hospital for f in found] == [0, 0]


def test_a_preview_after_its_grant_is_named(folder: Path):
    change(folder, "INSERT INTO synthetic SELECT * FROM synthetic WHERE kind = 'preview'")
    change(folder, "DELETE FROM synthetic WHERE kind = 'preview' AND rowid < (SELECT max(rowid) - 1 FROM synthetic)")
    assert "the request was granted before the preview that its policy wants" in said(folder)


def test_a_preview_without_a_beat_is_none(folder: Path):
    row, values = row_of(folder, "synthetic", "kind = 'preview'")
    set_value(folder, "synthetic", row, "record", json.dumps({**json.loads(values["record"]), "generated": 0}))
    assert "the request was granted before the preview that its policy wants" in said(folder)
    # and its hospital has not signed that
    assert ("synthetic", "signature") in names(audit(folder, OFFLINE))


def test_a_preview_larger_than_its_policy_wants_is_named(folder: Path):
    row, values = row_of(folder, "synthetic", "kind = 'preview'")
    set_value(folder, "synthetic", row, "record", json.dumps({**json.loads(values["record"]), "generated": 31}))
    assert "a preview has more beats than the policy wants" in said(folder)


def beats(folder: Path, **changes: Any) -> None:
    path = one(folder, ".npz")
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **{**kept, **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: beats(f, x=np.zeros((5, 5), np.float32)), "the beats of the preview in the folder are not those"),
        (lambda f: beats(f, y=np.zeros(4, np.int8)), "the beats of the preview in the folder are not those"),
        (lambda f: one(f, ".npz").write_bytes(b"no"), "the beats of the preview in the folder are not those"),
        (lambda f: one(f, ".png").write_bytes(b"another"), "is not the one that the hospital signed"),
        (lambda f: one(f, ".json").write_text("{"), "the report on the preview in the folder is not the one"),
        (lambda f: one(f, ".json").write_text("[" * 5000), "the report on the preview in the folder is not the one"),
    ],
)
def test_a_preview_whose_hash_differs_is_named(folder: Path, damage: Callable[[Path], Any], message: str):
    damage(folder)
    (found,) = said(folder)
    assert message in found


def test_a_beat_of_a_preview_that_was_trained_on_is_named(tmp_path: Path):
    """The hospital signs it so, and the contract sees two digests that differ: five beats here, seven there."""
    folder = finish(Run(tmp_path), full=True, trained=True)
    assert said(folder) == {"5 beats of previews were trained on"}


def test_the_batch_of_the_preview_reported_for_training_is_named(folder: Path):
    _, reported = row_of(folder, "synthetic", "kind = 'report'")
    row, shown = row_of(folder, "synthetic", f"kind = 'preview' AND id = X'{reported['id'].hex()}'")
    same = {**json.loads(shown["record"]), "batch": json.loads(reported["record"])["batch"]}
    set_value(folder, "synthetic", row, "record", json.dumps(same))
    assert "the batch that was reported for training is the preview" in said(folder)


def test_what_is_not_there_is_unchecked(folder: Path):
    for path in (folder / "synthetic").glob("preview-*"):
        path.unlink()
    report = audit(folder, [previews.check])
    assert report.findings == []
    assert report.unchecked == ["4 files of previews of synthetic beats are not in the folder"]
    bundle = audit(folder / "ledger" / "bundle.plb", [previews.check])
    assert bundle.unchecked == ["a bundle has no previews of synthetic beats"]


def test_what_the_result_says_of_previews_is_checked(folder: Path):
    path = folder / "result.json"
    kept = json.loads(path.read_text())
    shown = kept["synthesis"][1]["preview"]
    each = [{**shown, name: value + 1 if isinstance(value, int) else f"{value}0"} for name, value in shown.items()]
    for value in (None, {}, *each):
        rows = [{**row, "preview": value} if row["preview"] else row for row in kept["synthesis"]]
        path.write_text(json.dumps({**kept, "synthesis": rows}))
        assert names(audit(folder, [outcomes.check])) == {("result", "synthesis")}
