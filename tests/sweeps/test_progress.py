"""What a user sees while a study runs: plain lines without a terminal, a live view on one."""

import io
import os
import pty
import re
import select
import subprocess
import sys
from typing import Any

import pytest
from reference import ROOT
from results import whole
from rich.console import Console

from engine.clock import JumpingClock
from engine.config import RunConfig
from engine.result import RoundSummary
from sweeps import progress
from sweeps.progress import RoundProgress, StudyProgress

SCORE = "validation/personal/macro_f1"


def test_without_a_terminal_each_ended_trial_is_one_line_on_stderr(capsys):
    with StudyProgress(4, already=1) as shown:
        shown.started(1, "learning_rate=0.1", "hospitals=2", 8)
        shown.advanced(1, 3, {"validation/global/accuracy": 0.5})
        shown.ended(1, "learning_rate=0.1", "hospitals=2", "COMPLETE", {SCORE: 0.25}, "", 12.4)
        shown.ended(2, "learning_rate=9", "hospitals=3", "FAIL", {}, "hospital 0, round 1\nTraceback", 1)
        shown.ended(3, "mu=1", "hospitals=3", "PRUNED", {SCORE: 0.125}, "below the best third at round 4", 2)
        shown.note("going on")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "trial 1 (2/4)  [hospitals=2] learning_rate=0.1  validation macro-F1 0.250  (12 s)",
        "trial 2 (3/4)  [hospitals=3] learning_rate=9  FAILED: hospital 0, round 1  (1 s)",
        "trial 3 (4/4)  [hospitals=3] mu=1  PRUNED: below the best third at round 4  validation macro-F1 0.125  (2 s)",
        "going on",
    ]


def test_a_trial_shows_what_it_does_before_its_first_round():
    shown = StudyProgress(1)
    shown.started(0, "", "all", 2)
    for note, seen in (("timegan: step 5", "timegan: step 5"), ("", "validation accuracy % global 50.00")):
        shown.advanced(0, 1, {"validation/global/accuracy": 0.5}, note)
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(shown.view())
        assert seen in console.export_text()


def test_stdout_is_left_to_the_result(capsys):
    with StudyProgress(1):
        print("(raylet) A worker died")  # as Ray does
    print("{}")
    assert capsys.readouterr() == ("{}\n", "(raylet) A worker died\n")


def test_quiet_is_quiet(capsys):
    with StudyProgress(1, quiet=True) as shown:
        shown.started(0, "", "all", 2)
        shown.ended(0, "", "all", "FAIL", {}, "boom", 1)
        shown.note("something")
    assert capsys.readouterr() == ("", "")


def test_the_remaining_time_counts_rounds():
    clock = JumpingClock()
    shown = StudyProgress(total=5, already=1, clock=clock)
    with shown:
        assert shown.remaining_seconds() is None
        shown.started(1, "", "all", 10)
        shown.ended(1, "", "all", "COMPLETE", {SCORE: 1.0}, "", 5)
        shown.started(2, "", "all", 10)
        shown.advanced(2, 5, {})
        clock.sleep(30)
        # 1.5 of the 4 trials left took 30 s, so 2.5 take 50
        assert shown.remaining_seconds() == pytest.approx(50)
        shown.extended(8)  # three more
        assert shown.remaining_seconds() == pytest.approx(110)


def test_the_best_goes_by_the_direction_of_the_first_objective():
    for directions, winner in (({}, 2), ({SCORE: "minimize"}, 1)):
        shown = StudyProgress(3, quiet=True, directions=directions)
        for trial, value in ((0, float("nan")), (1, 0.25), (2, 0.5)):
            shown.ended(trial, "", "all", "COMPLETE", {SCORE: value}, "", 1)
        shown.ended(3, "", "all", "PRUNED", {SCORE: 9.0 if winner == 2 else -9.0}, "", 1)
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(shown.view())
        assert re.search(rf"all +{winner} +validation macro-F1 ", console.export_text())


def test_a_score_says_which_beats_it_is_of():
    scores = {
        SCORE: 0.5,
        "validation/global/macro_f1": 0.25,
        "final/personal/recall/S": 0.125,
        "ledger/gas_per_round": 7e4,
    }
    text = "validation macro-F1 0.500, validation macro-F1 global 0.250, test recall S 0.125, gas a round 70,000"
    assert progress.scores_as_text(scores) == text


class Record:
    """As far as a run's progress looks at one."""

    round = 2
    summary = RoundSummary.model_validate(whole(RoundSummary))


def test_a_run_without_a_global_model_shows_no_score_of_one(capsys):
    for algorithm in ("fedavg", "local"):
        config = RunConfig.model_validate({"federation": {"algorithm": algorithm, "rounds": 4}})
        RoundProgress(config).round_finished(Record)  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "round 2/4  loss 1.5000  validation: accuracy 150.00 %, macro-F1 1.500 (global model)  (1.5 s)",
        "round 2/4  loss 1.5000  (1.5 s)",
    ]


LIVE = """
import sys, time
from sweeps.progress import RoundProgress, StudyProgress
with StudyProgress(3) as shown:
    shown.started(0, "learning_rate=0.1", "[bold]hospitals=2", 8)
    shown.advanced(0, 3, {"validation/personal/macro_f1": 0.5})
    shown.ended(1, "mu=1", "hospitals=3", "COMPLETE", {"validation/personal/macro_f1": 0.75}, "", 5)
    shown.ended(2, "mu=2", "hospitals=3", "FAIL", {}, "hospital 1, round 2, train: boom", 5)
    print("(raylet) A worker died")
    time.sleep(1.2)
print("the result")
"""


def on_a_terminal(code: str) -> tuple[str, str]:
    """Runs Python code whose stderr is a terminal of 160 columns; returns stdout and what the terminal got."""
    main, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": "160", "LINES": "40", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process: Any = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=other, text=True, cwd=ROOT, env=environment
    )
    os.close(other)
    seen = b""
    while select.select([main], [], [], 30)[0]:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_on_a_terminal_there_is_a_live_view():
    out, seen = on_a_terminal(LIVE)
    assert out == "the result\n"
    assert "(raylet) A worker died" in seen
    assert "[bold]hospitals=2" in seen  # a condition is text, no markup
    assert "3/8" in seen
    assert "validation macro-F1 0.500" in seen
    assert re.search(r"best so far +trial +objectives", seen)
    assert re.search(r"hospitals=3 +1 +validation macro-F1 0\.750", seen)
    assert "failed: trial 2: hospital 1, round 2, train: boom" in seen
    assert "2/3 trials, 1 complete, 0 pruned, 1 failed" in seen
    assert "to go" in seen
