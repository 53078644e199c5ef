"""The owner's pages: studies, their trials, and what is asked of a study's driver."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import FastAPI, Form
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dashboard import live, pictures, reading, tracked
from dashboard.desk import At, Desk, Owner, OwnerChanges
from dashboard.places import Place
from dashboard.reading import Page
from engine.errors import ConfigError
from engine.ledger.format import BUNDLE, CONFIG
from engine.result import RESULT
from sweeps.commands import Verb, ask, wait
from sweeps.rows import Row
from sweeps.table import columns_of, ending

DRAWING = 60.0  # seconds that a picture, which the page does not wait for, may take
AGAIN = 15_000  # milliseconds until a page that found no room for being live asks again
PATIENCE = 2.0  # seconds that the page waits for a driver's answer; it shows a later one, too
DOWNLOADS = {"bundle": f"ledger/{BUNDLE}", "config": CONFIG, "result": RESULT}


def add(app: FastAPI) -> None:
    """Adds the pages."""
    app.add_api_route("/studies/{id}", study)
    app.add_api_route("/studies/{id}/live", going_on)
    app.add_api_route("/studies/{id}/pictures/{name}", picture)
    app.add_api_route("/studies/{id}/trials/{number}", trial)
    app.add_api_route("/studies/{id}/ask", ask_driver, methods=["POST"])
    app.add_api_route("/runs/{id}", run)
    app.add_api_route("/runs/{id}/files/{name}", download)


def _study(desk: Desk, id: str) -> Place:
    place = desk.place(id)
    if place.kind != "study":
        raise HTTPException(404, "There is no such study here.")
    return place


def study(desk: At, session: Owner, id: str, page: int = 1) -> Response:
    """A study: its answers, what goes on, its trials."""
    place = _study(desk, id)
    found, rows = reading.answered(desk, place), reading.rows(desk, place)
    heads, lines = reading.costs(found)
    shown = Page.of(rows, page)
    now = live.look(desk, place)
    return desk.page(
        "study.html",
        session,
        place=place,
        answers=found,
        grid=reading.grid(found),
        costs=(heads, lines),
        tables=_tables(shown.items),
        page=shown,
        live=now,
        drawn=pictures.there(found),
    )


def _tables(rows: Any) -> list[tuple[str, list[str], list[list[Any]], list[int], list[tuple[int, str]]]]:
    """Of each condition: label, heads, cells, columns of words, and what is said of trials without a result."""
    found = []
    for label in dict.fromkeys(row.condition for row in rows):
        group: list[Row] = [row for row in rows if row.condition == label]
        columns = columns_of(group, [row.outcome for row in group if row.outcome is not None])
        cells = [[column.cells[i] for column in columns] for i in range(len(columns[0].cells))]
        words = [i for i, column in enumerate(columns) if column.words]
        told = [(row.trial, ending(row)) for row in group if row.outcome is None]
        found.append((label, [column.heading for column in columns], cells, words, told))
    return found


def going_on(desk: At, session: Owner, id: str) -> Response:
    """The part of a study's page that changes while it runs."""
    place = _study(desk, id)
    template = desk.templates.get_template("live.html")

    def events() -> Iterator[str]:
        if not desk.streams.acquire(blocking=False):
            yield f"retry: {AGAIN}\n\n"  # the browser asks again by itself
            return
        try:
            yield from live.stream(desk, place, lambda now: template.render(live=now, place=place))
        finally:
            desk.streams.release()

    return StreamingResponse(events(), media_type="text/event-stream")


def picture(desk: At, session: Owner, id: str, name: str) -> Response:
    """A picture of a study's report."""
    place = _study(desk, id)
    work = ("picture", name, place.path)
    drawn = desk.work.ask(work, reading.stamp(place.path), lambda: pictures.draw(place.path, name), DRAWING)
    return Response(drawn, media_type="image/png")


def trial(desk: At, session: Owner, id: str, number: int, page: int = 1) -> Response:
    """One trial of a study."""
    place = _study(desk, id)
    row = next((row for row in reading.rows(desk, place) if row.trial == number), None)
    if row is None:
        raise HTTPException(404, f"The study has no trial {number}.")
    return _trial(desk, session, place, row, desk.places.runs(place, number), page)


def run(desk: At, session: Owner, id: str, page: int = 1) -> Response:
    """A run by itself."""
    place = desk.place(id)
    if place.kind != "run":
        raise HTTPException(404, "There is no such run here.")
    row = reading.rows(desk, place)[0] if (place.path / RESULT).exists() else None
    return _trial(desk, session, place, row, [place], page)


def _trial(desk: Desk, session: Owner, place: Place, row: Row | None, runs: list[Place], page: int) -> Response:
    histories = reading.histories(desk, runs)
    trained = all(reading.trains_global(one) for one in runs)
    curves = [
        reading.curve(f"Validation {title} of the global model by round, a line for each seed", series)
        for title, series in (
            ("macro-F1", [[r.validation.macro_f1 for r in rounds] for rounds in histories]),
            ("accuracy", [[r.validation.accuracy for r in rounds] for rounds in histories]),
        )
        if trained and any(value is not None for one in series for value in one)
    ]
    outcome = row.outcome if row is not None else None
    hospitals = Page.of(sorted(outcome.seeds[0].items()) if outcome else [], page)
    own = {model: outcome.own(model) if outcome else [] for model in ("personal", "global", "majority")}
    files = {one.id: [name for name, file in DOWNLOADS.items() if (one.path / file).is_file()] for one in runs}
    return desk.page(
        "trial.html",
        session,
        place=place,
        row=row,
        runs=runs,
        files=files,
        curves=curves,
        rounds=[rounds[-1] if rounds else None for rounds in histories],
        lost=[text for rounds in histories for one in rounds for text in one.lost][:20],
        hospitals=hospitals,
        own=lambda model, hospital: _mean([seed[hospital] for seed in own[model] if hospital in seed]),
        results=[reading.result(desk, one) for one in runs],
        tracked=tracked.where(place, None if row is None or place.kind == "run" else row.trial),
    )


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else "–"


def download(desk: At, session: Owner, id: str, name: str) -> Response:
    """A file of a run."""
    place = desk.place(id)
    if place.kind != "run" or name not in DOWNLOADS or not (place.path / DOWNLOADS[name]).is_file():
        raise HTTPException(404, "There is no such file.")
    path = place.path / DOWNLOADS[name]
    return FileResponse(path, media_type="application/octet-stream", filename=f"{place.id}-{path.name}")


def ask_driver(
    desk: At,
    session: OwnerChanges,
    id: str,
    verb: Annotated[Verb, Form()],
    value: Annotated[str, Form(max_length=9)] = "",
) -> Response:
    """Leaves a command for the study's driver; the page shows its answer."""
    place = _study(desk, id)
    if (value and not value.isascii()) or not (value or "0").isdigit():
        raise ConfigError(f"{verb}: {value} is no number.")
    command = ask(place.path, verb, int(value) if value else None)
    wait(place.path, command, PATIENCE, desk.clock)
    return RedirectResponse(f"/studies/{id}#asked", 303)
