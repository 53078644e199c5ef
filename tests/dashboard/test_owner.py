"""The owner's pages: a study and its trials, how it goes on, and what is asked of its driver."""

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsed import Visitor, desk_on
from outcomes import condition, outcome

from dashboard import live, reading, tracked
from dashboard.places import Place
from engine.clock import JumpingClock
from engine.settings import load_yaml, yaml_text
from sweeps.answer import answers
from sweeps.commands import CommandTable, ask, commands
from sweeps.folder import Seen, read_study, trial_folder, write_progress
from sweeps.lock import OWNER
from sweeps.places import key_of
from sweeps.rows import Spread, rows_of


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


def test_what_was_spent_of_privacy_stands_among_the_costs() -> None:
    spent = {"privacy/epsilon": Spread(3.25), "privacy/delta": Spread(1e-7), "privacy/alone": Spread(9.5)}
    private, plain = outcome("fedavg", {0: 0.7}, common=0.6), outcome("local", {0: 0.8})
    private = replace(private, scores={**private.scores, **spent})
    heads, lines = reading.costs(answers([*condition(private), *condition(plain)]))
    places = [heads.index(name) for name in ("epsilon", "delta", "epsilon alone")]
    assert [[line[place] for place in places] for line in lines] == [["–"] * 3, ["3.25", "1e-07", "9.50"]]


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


def test_a_trial_without_a_global_model_has_no_curve_of_one(owner: Visitor, small: Path) -> None:
    """What the loop of local-only carries along was never trained."""
    row = next(row for row in rows_of(small / "small") if row.state == "COMPLETE" and row.method == "local-only")
    page = owner.get(f"/studies/small/trials/{row.trial}").text
    assert "<polyline" not in page
    assert "There is no global model" in page


def test_busy_cores_are_told_to_every_thread(small: Path) -> None:
    """psutil keeps what it saw last for each thread by itself, and tells a new one 0 %."""
    desk = desk_on(small)
    place, end, told = desk.places.get("small"), threading.Event(), list[str]()
    busy = threading.Thread(target=lambda: [None for _ in iter(end.is_set, True)])
    busy.start()
    asking = threading.Thread(target=lambda: told.append(live.look(desk, place).cores))
    asking.start()
    asking.join()
    end.set()
    busy.join()
    assert re.search(r"\b[1-9]\d* % busy", told[0])


@pytest.mark.parametrize(
    ("tracking", "href", "says"),
    [
        ({"backend": "none"}, "", "Not tracked in MLflow."),
        ({"uri": "https://mlflow.example/x", "experiment": "<b>"}, "https://mlflow.example/x", "experiment <b>"),
        ({"uri": "javascript:alert(1)"}, "", "an address that is not linked to"),
        ({"uri": "file:///etc"}, "", "an address that is not linked to"),
        ({"uri": "sqlite:////etc/passwd"}, "", "lies outside these folders"),
        ({}, "", "Opened by"),
    ],
)
def test_a_trial_links_to_mlflow_where_that_is_harmless(
    tmp_path: Path, tracking: dict[str, str], href: str, says: str
) -> None:
    run = tmp_path / "home/run"
    (run / "ledger").mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps({"name": "run", "tracking": tracking}))
    found = tracked.where(Visitor(desk_on(tmp_path / "home")).desk.places.get("run"), None)
    assert found.href == href
    assert says in found.says
    page = Visitor(desk_on(tmp_path / "home"), "owner").get("/runs/run").text
    assert ('rel="noreferrer"' in page) == bool(href)
    assert "<b>" not in page.split("<main")[1]


def test_a_trial_in_the_study_s_own_store_links_to_its_run(small: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(small, tmp_path / "home"))
    study = home / "small"
    values = load_yaml(study / "study.yaml")
    (study / "study.yaml").write_text(yaml_text({**values, "tracking": {"backend": "mlflow"}}))
    with contextlib.closing(sqlite3.connect(study / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        database.execute("CREATE TABLE runs (run_uuid TEXT, experiment_id INTEGER, lifecycle_stage TEXT)")
        database.execute("CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT)")
        key = key_of(read_study(study), study)
        database.execute("INSERT INTO runs VALUES ('0123456789abcdef', 7, 'active')")
        database.execute("INSERT INTO tags VALUES ('pulseledger.key', ?, '0123456789abcdef')", (f"{key}/1",))
    place = Visitor(desk_on(home)).desk.places.get("small")
    assert tracked.where(place, 1).href == "http://127.0.0.1:5000/#/experiments/7/runs/0123456789abcdef"
    assert tracked.where(place, 2).href == ""


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


def test_the_benchmark_makes_a_study_of_many_trials_that_pages_read(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import pages

    pages.many(small / "small", tmp_path / "home/many", 30)
    rows = rows_of(tmp_path / "home/many")
    assert len({row.trial for row in rows}) == len(rows) >= 30
    lines = list(pages.pages(tmp_path / "home", [("owner", "/studies/many"), ("owner", "/studies/many/trials/29")]))
    assert [one["status"] for one in lines] == [200, 200]
    assert all(one["bytes"] < 1_000_000 for one in lines)


def test_a_curve_of_thousands_of_rounds_is_drawn_whole_and_says_its_values(small: Path) -> None:
    """A value is cut at 600 characters, a line is none."""
    made = reading.curve("x", [[n / 10_000 for n in range(10_000)], [None, 0.5]])
    html = desk_on(small).templates.from_string('{% import "parts.html" as p %}{{ p.chart(c) }}').render(c=made)
    lines = re.findall(r'points="([^"]*)"', html)
    assert all(re.fullmatch(r"[\d., -]*", line) for line in lines)
    assert 1000 < lines[0].count(",") <= reading.DRAWN
    assert lines[0].endswith("10.1") or lines[0].endswith("10.0") or float(lines[0].split(",")[-1]) < 11
    assert "<title>seed 1, round 1: " not in html
    assert "<title>seed 0, round 1: 0.000</title>" in html
    assert html.count("<circle") <= 2 * reading.POINTS


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
