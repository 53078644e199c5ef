"""What all pages share: places, sessions, work under way, the reviewer's key; and who may ask for which page."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Form, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment
from starlette.exceptions import HTTPException

from dashboard.doorman import Doorman, Role, Session
from dashboard.places import NotThere, Place, Places
from dashboard.render import environment
from dashboard.work import Work
from engine.clock import REAL, Clock

Judge = Callable[..., Mapping[str, Any]]  # path, words of the command -> the report of `audit --json`
STREAMS = 8  # pages that are live at a time; each takes a thread
AREAS: tuple[tuple[str, str, tuple[Role, ...]], ...] = (  # address, what it is called, who may go there
    ("/", "Studies and runs", ("owner",)),
    ("/audit", "Audit", ("owner", "auditor")),
    ("/requests", "Requests", ("reviewer",)),
)


@dataclass
class Desk:
    """
    Attributes:
        judge: audits a path.
        uploads: folder of this user's own for bundles that are brought.
        key: of the reviewer; None is the simulated one.
        cookie: its name, which has the port in it: browsers share cookies between ports.
        secure: whether the cookie goes over TLS alone.
        said: told in the terminal.
        streams: room for pages that are live.
    """

    places: Places
    doorman: Doorman
    judge: Judge
    uploads: Path
    key: bytes | None = None
    cookie: str = "pulseledger"
    secure: bool = False
    said: Callable[[Role], None] = lambda role: None
    clock: Clock = REAL
    work: Work = field(default_factory=Work)
    templates: Environment = field(default_factory=environment)
    streams: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(STREAMS))

    def page(self, name: str, session: Session | None, status: int = 200, **values: Any) -> Response:
        """A page of a template."""
        areas = [(href, title) for href, title, who in AREAS if session is not None and session.role in who]
        text = self.templates.get_template(name).render(session=session, areas=areas, **values)
        return HTMLResponse(text, status)

    def place(self, id: str) -> Place:
        """
        Raises:
            HTTPException: 404, there is none.
            DataError: it leads elsewhere.
        """
        try:
            return self.places.get(id)
        except NotThere:
            raise HTTPException(404, "There is no such study, run or bundle here.") from None


def desk_of(request: Request) -> Desk:
    """Of this dashboard."""
    desk: Desk = request.app.state.desk
    return desk


At = Annotated[Desk, Depends(desk_of)]


def visitor(request: Request) -> Session | None:
    """Who asks, if he came in."""
    desk = desk_of(request)
    return desk.doorman.session(request.cookies.get(desk.cookie, ""))


class Only:
    """Lets certain roles read a page."""

    def __init__(self, *roles: Role) -> None:
        self.roles = roles

    def __call__(self, request: Request) -> Session:
        session = visitor(request)
        if session is None:
            raise HTTPException(401, "Open the link that the terminal shows; each lets in once.")
        if session.role not in self.roles:
            raise HTTPException(403, f"This page is not for the {session.role}.")
        return session


class Changing(Only):
    """Lets certain roles change something, from a form of their own session."""

    def __call__(self, request: Request, token: Annotated[str, Form()] = "") -> Session:  # type: ignore[override]
        session = super().__call__(request)
        if not session.sent(token):
            raise HTTPException(403, "This form is not of this session; load its page again.")
        return session


Anybody = Annotated[Session, Depends(Only("owner", "reviewer", "auditor"))]
Owner = Annotated[Session, Depends(Only("owner"))]
Auditor = Annotated[Session, Depends(Only("owner", "auditor"))]
Reviewer = Annotated[Session, Depends(Only("reviewer"))]
OwnerChanges = Annotated[Session, Depends(Changing("owner"))]
AuditorChanges = Annotated[Session, Depends(Changing("owner", "auditor"))]
ReviewerChanges = Annotated[Session, Depends(Changing("reviewer"))]
AnybodyChanges = Annotated[Session, Depends(Changing("owner", "reviewer", "auditor"))]
