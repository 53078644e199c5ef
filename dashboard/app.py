"""The dashboard as an application: its doors, its rooms, and what is said where something is wrong."""

from collections.abc import Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from dashboard import auditor, owner, reviewer
from dashboard.desk import Anybody, AnybodyChanges, At, Changing, Desk, Only, desk_of, visitor
from dashboard.doorman import Expired, TooOften
from dashboard.guard import SAFE, Guard
from dashboard.render import STATIC
from dashboard.work import Busy
from engine.errors import PulseLedgerError
from sweeps.verbs.border import unforeseen

OPEN = ("/login", "/static/{name}")  # what nobody must have come in for
FILES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


def build(desk: Desk, origins: Collection[str]) -> ASGIApp:
    """The application, behind its guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.add_api_route("/login", login)
    app.add_api_route("/logout", logout, methods=["POST"])
    app.add_api_route("/static/{name}", static)
    app.add_api_route("/", home)
    for room in (owner, auditor, reviewer):
        room.add(app)
    _require_guarded(app)
    app.add_exception_handler(HTTPException, refused)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, unclear)  # type: ignore[arg-type]
    app.add_exception_handler(Busy, busy)  # type: ignore[arg-type]
    app.add_exception_handler(PulseLedgerError, wrong)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, lost)
    return Guard(app, origins)


def guards(route: APIRoute) -> list[Only]:
    """Who may ask for a page, by what it is declared with."""
    return [part.call for part in route.dependant.dependencies if isinstance(part.call, Only)]


def _require_guarded(app: FastAPI) -> None:
    """No page without its roles, and none that changes something without its form: a mistake in here ends the start."""
    for route in app.routes:
        assert isinstance(route, APIRoute), route
        found = guards(route)
        assert route.path in OPEN or len(found) == 1, route.path
        assert set(route.methods or ()) <= set(SAFE) or all(isinstance(one, Changing) for one in found), route.path


# --- Doors ------------------------------------------------------------------------------------------------------------


def login(request: Request, desk: At, key: str = "") -> Response:
    """Lets in by a link, and out of the address at once. A page leads on, as the cookie does not go with a redirection that
    began on another site."""
    try:
        session = desk.doorman.enter(key)
    except TooOften:
        return desk.page("message.html", None, 429, title="Wait a minute", text="Too many wrong links were tried.")
    except Expired as error:
        desk.said(error.role)
        text = "This link is too old. The terminal shows another one now."
        return desk.page("message.html", None, 401, title="Not let in", text=text)
    if session is None:
        text = "This link is none, or was used. The terminal shows a new one each time that somebody has come in."
        return desk.page("message.html", None, 401, title="Not let in", text=text)
    if (before := visitor(request)) is not None:
        desk.doorman.leave(before)  # whoever comes in anew is somebody else
    answer = desk.page("message.html", session, title="Welcome", text="Go on to the start.", onward="/")
    answer.headers["Referrer-Policy"] = (
        "no-referrer"  # the link is used, and stays out of the next page's referrer all the same
    )
    answer.set_cookie(desk.cookie, session.id, httponly=True, samesite="strict", secure=desk.secure, path="/")
    desk.said(session.role)
    return answer


def logout(desk: At, session: AnybodyChanges) -> Response:
    """Ends the session."""
    desk.doorman.leave(session)
    answer = desk.page("message.html", None, title="You are out", text="The terminal has a link to come in again.")
    answer.delete_cookie(desk.cookie, path="/")
    return answer


def static(name: str) -> Response:
    """Style and script."""
    if name not in FILES:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(STATIC / name, media_type=FILES[name])


def home(desk: At, session: Anybody) -> Response:
    """What there is for this role."""
    if session.role == "reviewer":
        return RedirectResponse("/requests", 303)
    places = desk.places.all()
    if session.role == "auditor":
        return RedirectResponse("/audit", 303)
    return desk.page("home.html", session, places=places)


# --- What is said where something is wrong ----------------------------------------------------------------------------


def refused(request: Request, error: HTTPException) -> Response:
    """A page that is not there, or not for this visitor."""
    title = {
        401: "Come in first",
        403: "Not allowed",
        404: "Not here",
        405: "Not like this",
        408: "Too slow",
        413: "Too large",
    }
    return _told(request, title.get(error.status_code, "Not possible"), str(error.detail), error.status_code)


def unclear(request: Request, error: RequestValidationError) -> Response:
    """Words in an address or a form that are none."""
    first = error.errors()[0]
    return _told(request, "Not understood", f"{first['loc'][-1]}: {first['msg']}.", 400)


def busy(request: Request, error: Busy) -> Response:
    """Work that goes on: the page asks again by itself."""
    return desk_of(request).page("busy.html", visitor(request), 202 if request.method in SAFE else 503)


def wrong(request: Request, error: PulseLedgerError) -> Response:
    """What the commands say in a sentence."""
    return _told(request, "Not possible", str(error), 422)


def lost(request: Request, error: Exception) -> Response:
    """What nobody foresaw."""
    return _told(request, "Something failed", unforeseen(error), 500)


def _told(request: Request, title: str, text: str, status: int) -> Response:
    return desk_of(request).page("message.html", visitor(request), status, title=title, text=text)
