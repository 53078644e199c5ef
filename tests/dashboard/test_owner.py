"""The owner's pages: a study and its trials, how it goes on, and what is asked of its driver."""

import json
import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsed import Visitor, desk_on

from dashboard import live, reading
from dashboard.places import Place
from engine.clock import JumpingClock
from sweeps.answer import answers
from sweeps.commands import CommandTable, ask, commands
from sweeps.folder import Seen, trial_folder, write_progress
from sweeps.lock import OWNER
from sweeps.rows import rows_of


@pytest.fixture
def owner(small: Path) -> Visitor:
    return Visitor(desk_on(small), "owner")


def text_of(page: Any) -> str:
    """What a reader sees, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))


def place_of(owner: Visitor, id: str = "small") -> Place:
    return owner.desk.places.get(id)


def test_a_study_says_what_compare_says(owner: Visitor, small: Path) -> None:
    found = answers(rows_of(small / "small"))
    page = owner.get("/studies/small")
    assert page.status_code == 200
    assert [re.search(r"hospitals=\d", answer.sentence) is not None for answer in found] == [True, True]
    for answer in found:
        assert f"<p>{answer.sentence}</p>".replace("'", "&#39;") in page.text
        assert len(answer.sentence) < 600 or answer.sentence[600:].split(";")[0].replace("'", "&#39;") in page.text
    assert "Macro-F1 by condition and method" in page.text
    assert "HospitalError: &lt;b&gt;boom&lt;/b&gt;" in page.text


def test_the_grid_holds_each_method_against_being_alone(small: Path) -> None:
    found = answers(rows_of(small / "small"))
    made = reading.grid(found)
    assert set(made.methods) == {"local-only", "FedAvg + fine-tuning"}
    for answer, row in zip(found, made.rows, strict=True):
        by_title = {s.title: s for s in answer.standings}
        own = {h: s for seed in by_title["FedAvg + fine-tuning"].outcome.own("personal") for h, s in seed.items()}
        lone = {h: s for seed in by_title["local-only"].outcome.own("personal") for h, s in seed.items()}
        less = sum(own[h] - lone[h] for h in own) / len(own)
        cell = row[1 + made.methods.index("FedAvg + fine-tuning")]
        assert cell.startswith(f"{by_title['FedAvg + fine-tuning'].mean:.3f} ({less:+.3f} [")
        assert row[1 + made.methods.index("local-only")] == f"{by_title['local-only'].mean:.3f}"


def test_a_trial_has_its_curves_hospitals_and_files(owner: Visitor, small: Path) -> None:
    row = next(row for row in rows_of(small / "small") if row.state == "COMPLETE" and row.method != "local-only")
    page = owner.get(f"/studies/small/trials/{row.trial}")
    assert page.status_code == 200
    assert page.text.count("<polyline") == 2
    said = text_of(page)
    assert f"Number in Optuna {row.optuna}" in said
    assert row.outcome is not None
    for hospital, score in row.outcome.own("personal")[0].items():
        assert re.search(rf"<tr><td>{hospital}</td>.*\n?<td class=\"number\">{score:.3f}</td>", page.text)
    files = re.findall(r'href="(/runs/[^"]+)"', page.text)
    assert {Path(file).name for file in files} == {"config", "result"}
    for file in files:
        answer = owner.get(file)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment")
    assert owner.get("/studies/small/trials/99").status_code == 404


def test_a_page_of_a_thousand_trials_and_a_thousand_hospitals_is_quick_and_small(owner: Visitor, small: Path) -> None:
    """The rows are given, as if they had been read."""
    place = place_of(owner)
    row = next(row for row in rows_of(place.path) if row.outcome is not None and not row.outcome.method.alone)
    assert row.outcome is not None
    seed = row.outcome.seeds[0]
    many = {h: seed[h % len(seed)] for h in range(1000)}
    outcome = replace(row.outcome, seeds=(many,))
    rows = [replace(row, trial=n, condition=f"condition {n % 10}", outcome=outcome) for n in range(1000)]
    owner.desk.work.ask(("rows", place.path), reading.stamp(place.path), lambda: rows)
    for path in (
        "/studies/small",
        "/studies/small?page=7",
        "/studies/small/trials/999",
        "/studies/small/trials/999?page=10",
    ):
        owner.get(path)  # what is computed once is computed
        began = time.process_time()
        page = owner.get(path)
        assert page.status_code == 200
        assert time.process_time() - began < 1.0, path
        assert len(page.content) < 1_000_000, path


def test_what_takes_long_is_said_to_be_under_way_and_done_once(small: Path) -> None:
    began: list[int] = []
    desk = desk_on(small, patience=0.0)

    def slow(path: Path, *words: str) -> Any:
        began.append(0)
        time.sleep(0.05)
        return {**desk_on(small).judge(small / "none"), "verdict": "clean", "exit_code": 0, "unreadable": ""}

    desk.judge = slow
    visitor = Visitor(desk, "auditor")
    first = visitor.get("/audit/small")
    assert first.status_code == 202
    assert '<meta http-equiv="refresh" content="1">' in first.text
    while (page := visitor.get("/audit/small")).status_code == 202:
        time.sleep(0.01)
    assert "Verdict: clean" in page.text
    assert len(began) == 1


# --- Under way --------------------------------------------------------------------------------------------------------


def test_a_study_under_way_is_shown_as_its_folder_has_it(owner: Visitor, small: Path) -> None:
    place = place_of(owner)
    running = next(row.trial for row in rows_of(place.path) if row.state == "RUNNING")
    write_progress(trial_folder(place.path, running), Seen(1, "", {"validation/personal/macro_f1": 0.5}))
    now = live.look(owner.desk, place)
    assert (now.ended, now.wanted, now.queued, len(now.running)) == (6, 8, 0, 2)
    assert not now.driven
    assert now.driver == "nobody has driven it"
    assert "validation macro-F1 0.500" in text_of(owner.get("/studies/small"))
    (place.path / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    now = live.look(owner.desk, place)
    assert now.driven
    assert now.driver == f"process {os.getpid()} on this machine drives it"
    assert now.remaining.startswith("about ")
    (place.path / OWNER).write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    assert not live.look(owner.desk, place).driven
    (place.path / OWNER).write_text("[]")
    assert live.look(owner.desk, place).driver == "nobody has driven it"
    (place.path / OWNER).unlink()


def test_the_stream_tells_what_has_changed_and_when_it_is_over(small: Path) -> None:
    desk = desk_on(small, clock=JumpingClock())
    place = desk.places.get("small")
    running = [row.trial for row in rows_of(place.path) if row.state == "RUNNING"]
    told = live.stream(desk, place, lambda now: " ".join(str(one.seen.round) for one in now.running))
    assert next(told) == 'data: "1 0"\n\n'.replace(
        "1 0", " ".join(str(live.read_progress(trial_folder(place.path, n)).round) for n in running)
    )
    assert next(told).startswith(":")
    write_progress(trial_folder(place.path, running[0]), Seen(2, "", {}))
    assert next(told).startswith('data: "2 ')
    desk.clock.sleep(live.LONGEST)
    assert sum(1 for _ in told) <= 2  # the browser begins another one


def test_what_is_asked_of_the_driver_waits_for_it_and_is_shown(small: Path) -> None:
    owner = Visitor(desk_on(small, clock=JumpingClock()), "owner")
    path = owner.desk.places.get("small").path
    for form in (
        {"verb": "prune"},
        {"verb": "trials", "value": "0"},
        {"verb": "stop", "value": "1"},
        {"verb": "x"},
        {"verb": "prune", "value": "-1"},
    ):
        assert owner.post("/studies/small/ask", form).status_code in (400, 422), form
    assert commands(path) == []
    done = owner.post("/studies/small/ask", {"verb": "prune", "value": "3"})
    assert done.status_code == 303
    (command,) = commands(path)
    assert (command.verb, command.value, command.state) == ("prune", 3, "asked")
    CommandTable(path).answer(command, "done", "trial 3 is <pruned>")
    assert "trial 3 is &lt;pruned&gt;" in owner.get("/studies/small").text
    assert ask(path, "stop").state == "asked"
