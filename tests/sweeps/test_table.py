"""The table of a study on a terminal, and the same as JSON and CSV."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from sweeps.__main__ import main
from sweeps.rows import rows_of
from sweeps.table import as_csv, as_json, print_table

F1 = "validation/personal/macro_f1"


def printed(folder: Path) -> str:
    console = Console(width=170, record=True, file=io.StringIO())
    print_table(rows_of(folder), console)
    return console.export_text()


def test_compare_and_audit_speak_json_and_csv(done: Path, capsys):
    assert main(["compare", str(done), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [row.document() for row in rows_of(done)]
    assert main(["compare", str(done), "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "federation.learning_rate" in lines[0].split(",")
    assert main(["compare", str(done)]) == 0
    table = capsys.readouterr().out
    assert "hospitals=2" in table
    assert "local majority" in table
    assert main(["audit", str(done), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[str(done)]
    assert report["verdict"] == "clean"
    assert len(report["runs"]) == 4
    assert [row["state"] for row in report["trials"]] == ["COMPLETE"] * 4


def test_below_the_table_stands_how_each_trial_ended(marked: Path):
    text = printed(marked)
    assert "trial 10 pruned at round 2, after round 2 of 2\n" in text
    assert "trial 11 failed after round 2 of 2: HospitalError: hospital 1, round 2, train: ValueError: boom\n" in text
    assert "trial 12 breaks ledger/overhead_share by 0.25\n" in text
    for baseline in ("local majority", "all N", "global majority", "baseline"):
        assert baseline in text
    assert "± is the standard deviation over the repeats" in text
    assert "local-only" in text  # as a reader calls it


def test_json_and_csv_hold_all_of_it(marked: Path, tmp_path: Path):
    rows = rows_of(marked)
    assert json.loads(as_json(rows)) == [row.document() for row in rows]
    (tmp_path / "rows.csv").write_text(as_csv(rows))
    table = pd.read_csv(tmp_path / "rows.csv").set_index("trial")
    assert len(table) == len(rows)
    assert table.loc[12, "constraint/ledger/overhead_share"] == 0.25
    assert table.loc[10, "mu"] == 10.0
    assert table.loc[0, f"spread/{F1}/n"] == 2
    assert table.loc[0, f"spread/{F1}/mean"] == pytest.approx(table.loc[0, f"objective/{F1}"])
    assert table.loc[11, "stage"] == "train"
    (first,) = (row.outcome for row in rows if row.trial == 0)
    assert first is not None
    assert json.loads(table.loc[0, "personal_accuracy_interval"]) == list(first.personal.scores["accuracy"].interval)


def test_local_only_shows_no_global_model(marked: Path):
    for line in printed(marked).splitlines():
        cells = line.split()
        if "local-only" in cells:
            assert cells.count("-") >= 2


def test_no_cell_is_a_formula_and_no_text_moves_the_cursor(marked: Path):
    words = "=HYPERLINK(1)\x1b[2J\u202e"
    rows = [
        replace(row, condition=words, error=words, reason="+1\r\n", keys={"@x": "-1", "y": -0.5})
        for row in rows_of(marked)
    ]
    table = pd.read_csv(io.StringIO(as_csv(rows)))
    assert set(table["condition"]) == {f"'{words}"}
    assert {"'@x", "y"} <= set(table.columns)
    assert set(table["y"]) == {-0.5}
    for column in table.columns:
        for cell in [column, *table[column]]:
            assert not (isinstance(cell, str) and cell.lstrip(" ").startswith(tuple("=+-@\t\r\n"))), cell
    console = Console(width=170, record=True, file=io.StringIO())
    print_table(rows, console)
    text = console.export_text()
    assert "=HYPERLINK(1)\\x1b[2J\\u202e" in text
    assert not any(letter in text for letter in "\x1b\r\u202e")
