"""What `compare` prints: answers and tables on terminals of any width, and the same as JSON and CSV."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from outcomes import condition, outcome, row
from rich.console import Console
from studies import ALONE, write_study

from sweeps.__main__ import main
from sweeps.answer import answers
from sweeps.rows import Row, Spread, rows_of
from sweeps.table import Column, Printer, as_csv, as_json, fitting, print_studies, print_table, width_of
from sweeps.verbs.parser import FAILED
from sweeps.verbs.running import show_study

F1 = "validation/personal/macro_f1"


def printed(rows: list[Row], width: int = 170, wide: bool = False) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(rows, console, wide)
    return console.export_text()


def test_compare_and_audit_speak_json_and_csv(ended: Path, capsys):
    assert main(["compare", str(ended), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [str(ended)]
    assert document[str(ended)]["rows"] == [row.document() for row in rows_of(ended)]
    assert [a["condition"] for a in document[str(ended)]["answers"]] == ["hospitals=2", "hospitals=3"]
    assert main(["compare", str(ended), "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "federation.learning_rate" in lines[0].split(",")
    assert main(["compare", str(ended)]) == 0
    table = capsys.readouterr().out
    assert table.startswith("hospitals=2: ")
    assert "local majority" in table
    assert main(["audit", str(ended), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[str(ended)]
    assert report["verdict"] == "clean"
    assert len(report["runs"]) == 4
    assert [row["state"] for row in report["trials"]] == ["COMPLETE"] * 4


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_the_answer_stands_before_the_table(marked: Path):
    rows = rows_of(marked)
    text = " ".join(printed(rows).split())
    places = [text.index(answer.sentence) for answer in answers(rows)]
    assert places == sorted(places)
    assert places[-1] < text.index("trial method")


def test_below_the_table_stands_how_each_trial_ended(marked: Path):
    text = printed(rows_of(marked))
    assert "trial 10 pruned at round 2, after round 2 of 2\n" in text
    assert "trial 11 failed after round 2 of 2: HospitalError: hospital 1, round 2, train: ValueError: boom\n" in text
    assert "trial 12 breaks ledger/overhead_share by 0.25\n" in text
    for baseline in ("local majority", "all N", "global majority", "baseline"):
        assert baseline in text
    assert "± is the standard deviation over the repeats" in text
    assert "best first by validation macro-F1\n" in text
    assert "local-only" in text  # as a reader calls it


def test_an_epsilon_stands_in_the_table_and_below_it_what_it_does_not_say():
    private = outcome("fedavg", {0: 0.7, 1: 0.6}, common=0.6, privacy="epsilon is of one beat; Secrets are simulated")
    spent = {"privacy/epsilon": Spread(7.99), "privacy/delta": Spread(1e-7), "privacy/alone": Spread(31.5)}
    private = replace(private, scores={**private.scores, **spent})
    rows = [*condition(private), *condition(outcome("fedavg", {0: 0.8, 1: 0.8}, common=0.8))]
    text = printed(rows)
    assert "7.99" in text
    head, first, second = [line for line in printed(rows, wide=True).splitlines() if re.match(r" *(trial|0) ", line)]
    assert re.search(r"epsilon +delta +alone", head)
    assert re.search(r" 7.99 +1e-07 +31.50 ", first)
    assert re.search(r" - +- +- ", second)
    assert "privacy: epsilon is of one beat; Secrets are simulated" in text
    assert "epsilon" not in printed(condition(outcome("fedavg", {0: 0.8, 1: 0.8}, common=0.8)), wide=True)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 132, 170])
def test_no_number_is_cut_at_any_width(marked: Path, width: int):
    """Every cell that is shown is there as a whole; trials, methods, the sorting score and the test score always are."""
    rows = rows_of(marked)
    text = printed(rows, width)
    assert "…" not in text
    for shown in rows:
        if shown.outcome is not None:
            assert f" {shown.objectives[F1]:.3f}" in text
            assert f" {shown.outcome.mean('final/personal/macro_f1'):.3f} ±" in text
    for word in ("local-only", "fine-tuning", "validation", "macro-F1"):
        assert word in text
    if width >= 80:  # and then the terminal has nothing to wrap in a table
        tables = [line for line in text.splitlines() if re.match(r" *(\d+  |trial  )", line) and "trial  1" not in line]
        assert tables
        assert max(map(len, tables)) <= width
        assert "gradients" in text
    assert ("more columns: --wide" in text) == (width < 170) or width == 170


def test_wide_shows_every_column(marked: Path):
    text = printed(rows_of(marked), 80, wide=True)
    for heading in ("Optuna", "hurt", "gas", "models", "accuracy", "settings"):
        assert heading in text
    assert "more columns" not in text


def test_columns_are_chosen_by_rank_and_keep_their_order():
    columns = [
        Column("a", ("1",)),
        Column("bb", ("22",), 2),
        Column("words", ("one two",), words=True),
        Column("c", ("3",), 1),
    ]
    assert width_of(columns) == 1 + 2 + 7 + 1 + 3 * 2  # words that fit are not folded
    assert [column.heading for column in fitting(columns, 17)] == ["a", "bb", "words", "c"]
    assert [column.heading for column in fitting(columns, 16)] == ["a", "words", "c"]
    assert [column.heading for column in fitting(columns, 5)] == ["a", "words"]
    long = Column("words", ("a very long name of a method",), words=True)
    assert (long.least, long.most) == (16, 28)
    assert Column("x", ("federation.learning_rate=0.05 b=1",), words=True).least == len("federation.learning_rate=0.05")


def test_local_only_shows_no_global_model(marked: Path):
    rows = rows_of(marked)
    for shown in rows:
        if shown.outcome is not None and shown.outcome.method.alone:
            plain = shown.document()
            assert not [path for path in plain["scores"] if "/global/" in path or path.endswith("hurt_share")]
            assert {hospital["global"] for hospital in plain["hospitals"]} == {None}
    for line in printed(rows, wide=True).splitlines():
        cells = line.split()
        if "local-only" in cells[:4]:
            assert cells.count("-") >= 2


def test_a_score_to_choose_by_and_a_test_score_never_share_a_name(marked: Path):
    heads = printed(rows_of(marked), wide=True)
    columns = re.findall(r"(validation|test)\s", heads)
    assert {"validation", "test"} <= set(columns)
    text = printed(condition(outcome("local", {0: 0.5}, {0: 0.6})))
    assert "macro-F1 is the mean over the classes N, S, V, F\n" in text


def test_the_untrained_model_of_local_only_has_no_objective_either():
    found = row(0, outcome("local", {0: 0.5}))
    found.objectives.clear()
    found.objectives["validation/global/macro_f1"] = 0.123
    assert "0.123" not in printed([found])


# --- Documents --------------------------------------------------------------------------------------------------------


def test_json_and_csv_hold_all_of_it(marked: Path, tmp_path: Path):
    rows = rows_of(marked)
    document = json.loads(as_json({"study": rows}))
    assert document == {
        "study": {"answers": [a.document() for a in answers(rows)], "rows": [row.document() for row in rows]}
    }
    (tmp_path / "rows.csv").write_text(as_csv({"study": rows}))
    table = pd.read_csv(tmp_path / "rows.csv").set_index("trial")
    assert len(table) == len(rows)
    assert set(table["study"]) == {"study"}
    assert table.loc[12, "constraint/ledger/overhead_share"] == 0.25
    assert table.loc[10, "mu"] == 10.0
    assert table.loc[0, f"spread/{F1}/n"] == 2
    assert table.loc[0, f"spread/{F1}/mean"] == pytest.approx(table.loc[0, f"objective/{F1}"])
    assert table.loc[11, "stage"] == "train"
    assert table.loc[0, "method"] == "local-only"
    (first,) = (row.outcome for row in rows if row.trial == 0)
    assert first is not None
    accuracy = first.scores["final/personal/accuracy"]
    found = table.loc[0, [f"final/personal/accuracy{part}" for part in ("", "/sd", "/low", "/high")]]
    assert accuracy.interval is not None
    assert list(found) == pytest.approx([accuracy.mean, accuracy.sd, *accuracy.interval])


def test_no_cell_is_a_formula_and_no_text_moves_the_cursor(marked: Path):
    words = "=HYPERLINK(1)\x1b[2J\u202e"
    rows = [
        replace(row, condition=words, error=words, reason="+1\r\n", keys={"@x": "-1", "y": -0.5})
        for row in rows_of(marked)
    ]
    table = pd.read_csv(io.StringIO(as_csv({"=a": rows})))
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


# --- Several studies --------------------------------------------------------------------------------------------------


def test_several_studies_stand_side_by_side_by_condition_and_method():
    def study(score: float) -> list[Row]:
        found = outcome("fedavg", {0: score, 1: score}, {0: score, 1: score})
        scores = {**found.scores, "final/personal/macro_f1": Spread(score, 0.0)}
        return [
            *condition(outcome("fedavg", *found.own("personal"), scores=scores), label="hospitals=2"),
            *condition(outcome("local", {0: 0.1}), label=f"hospitals={score}"),
        ]

    console = Console(width=80, record=True, file=io.StringIO())
    print_studies({"/a/one": study(0.5), "/b/two": study(0.75)}, console)
    text = console.export_text()
    assert "hospitals=2, FedAvg: two is +0.250 [+0.250, +0.250] over one, where all 2" in text
    table = text[text.rindex("hospitals=2\n") :] if "hospitals=2\n" in text else text[text.index("best trial") - 3000 :]
    lines = [line.split()[:4] for line in table.splitlines() if line.split()[:1] == ["FedAvg"]]
    assert lines == [["FedAvg", "one", "0", "0.500"], ["FedAvg", "two", "0", "0.750"]]


def test_compare_takes_several_folders(seen, marked: Path, capsys):
    assert main(["compare", str(seen.folder), str(marked)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "where the only hospital" not in text
    assert f"{marked} is 0.000 [0.000, 0.000] over {seen.folder}" in text  # a copy, with the same folder name
    assert main(["compare", str(seen.folder), str(marked), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [str(seen.folder), str(marked)]


def test_a_report_of_the_command_carries_the_audit_s_verdict(ended: Path, tmp_path: Path, capsys):
    assert main(["report", str(ended), "--out", str(tmp_path / "report")]) == 0
    assert "pictures beside it" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<td>audit</td><td>clean</td>" in page


def test_a_reader_who_has_gone_is_left_to_the_caller():
    """Rich would exit with 1, which is what failed trials and findings end with."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Printer(file=Gone()).print("x")


def test_a_study_whose_trials_failed_ends_with_an_exit_code_of_its_own(tmp_path: Path, capsys):
    points = [
        {"federation.learning_rate": rate, "state": "FAIL", "error": "DataError: no such record."}
        for rate in (0.05, 0.1)
    ]
    study = write_study(
        tmp_path, {**ALONE, "search": {"federation.learning_rate": {"choice": [0.05, 0.1]}}, "trials": 2}, points
    )
    assert show_study(study, tmp_path) == FAILED == 1
    shown = capsys.readouterr()
    assert "trial 1 failed after round 0 of 8" in shown.out
    assert shown.err == "pulseledger: 2 of 2 trials failed: 0, 1.\n"
