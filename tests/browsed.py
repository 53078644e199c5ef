"""A dashboard without a network, and somebody who has come in."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import finished
from starlette.testclient import TestClient

from dashboard.app import build
from dashboard.desk import Desk
from dashboard.doorman import ROLES, Doorman, Role
from dashboard.places import Places
from dashboard.work import Work
from engine.audit.report import Report
from engine.audit.run import compare
from engine.clock import REAL, Clock
from engine.errors import PulseLedgerError
from sweeps.audit import audit_folder
from sweeps.folder import is_study

ORIGIN = "http://127.0.0.1:8080"


def judged(path: Path, *words: str) -> Mapping[str, Any]:
    """As the dashboard's own judge, in this process; contracts of one run are executed once."""
    try:
        if words[:1] == ("--against",):
            report = compare(path, Path(words[1]))
        else:
            report = audit_folder(path) if is_study(path) else finished.audit(path)
    except PulseLedgerError as error:
        report = Report(unreadable=str(error))
    return report.to_dict()


def desk_on(*folders: Path, key: bytes | None = None, clock: Clock = REAL, patience: float = 60.0) -> Desk:
    """Everything behind the pages of some folders."""
    uploads = Path(tempfile.mkdtemp(dir=folders[0].parent, prefix="uploads"))
    work = Work(patience=patience)
    return Desk(Places(folders), Doorman(ROLES, clock), judged, uploads, key, clock=clock, work=work)


class Visitor:
    """A browser at a dashboard.

    Attributes:
        token: of its forms; "" before it has come in.
    """

    def __init__(self, desk: Desk, role: Role | None = None) -> None:
        """
        Args:
            role: it comes in as; None stays outside.
        """
        self.desk, self.token = desk, ""
        self._client = TestClient(build(desk, [ORIGIN]), base_url=ORIGIN, follow_redirects=False)
        if role is not None:
            came = self.get("/login", params={"key": desk.doorman.link(role)})
            assert came.status_code == 200
            session = desk.doorman.session(self._client.cookies[desk.cookie])
            assert session is not None
            self.token = session.token

    def get(self, path: str, **more: Any) -> Any:
        """Asks for a page."""
        return self._client.get(path, **more)

    def post(self, path: str, data: Mapping[str, Any] = {}, headers: Mapping[str, str] = {}, **more: Any) -> Any:
        """Sends a form of its own session, from a page of the dashboard unless `headers` say otherwise."""
        return self._client.post(
            path, data={"token": self.token, **data}, headers={"Origin": ORIGIN, **headers}, **more
        )

    def ask(self, method: str, path: str, headers: Mapping[str, str] = {}, **more: Any) -> Any:
        """Sends whatever is wanted."""
        return self._client.request(method, path, headers=dict(headers), **more)


def visitors(desk: Desk) -> Sequence[tuple[Role | None, Visitor]]:
    """One of each role, and one outside."""
    return [(role, Visitor(desk, role)) for role in (None, *ROLES)]
