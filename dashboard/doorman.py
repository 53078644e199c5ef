"""Who may come in: links that open once, sessions, and how often somebody may guess."""

import hmac
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from engine.clock import REAL, Clock

Role = Literal["owner", "reviewer", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
WRONG, WITHIN = 10, 60.0  # wrong links within so many seconds, after which nobody comes in until they have passed
LONGEST = 12 * 3600.0  # seconds of a session
LINK = 12 * 3600.0  # seconds of a link that nobody has used
MOST = 64  # sessions at a time; the oldest one ends


class TooOften(Exception):
    """Too many wrong links were tried."""


class Expired(Exception):
    """A link was right once, and is too old."""

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self.role: Role = role


@dataclass(frozen=True)
class Session:
    """Somebody who came in.

    Attributes:
        id: the cookie.
        token: in every form; what another page cannot know.
        began: on the doorman's clock.
    """

    role: Role
    began: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def sent(self, token: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(token.encode(), self.token.encode())


class Doorman:
    """Gives out links and lets in whoever brings one; all of it is in memory and ends with the process."""

    def __init__(self, roles: Sequence[Role], clock: Clock = REAL) -> None:
        """
        Args:
            roles: that links are given out for.
        """
        self.roles, self._clock = tuple(roles), clock
        self._links: dict[str, tuple[Role, float]] = {}
        self._sessions: dict[str, Session] = {}
        self._wrong: deque[float] = deque(maxlen=WRONG)
        self._lock = threading.Lock()

    def link(self, role: Role) -> str:
        """A secret that lets in once."""
        if role not in self.roles:
            raise ValueError(f"{role} is none of {self.roles}")
        made = secrets.token_urlsafe(32)
        with self._lock:
            self._links[made] = role, self._clock.now()
        return made

    def enter(self, secret: str) -> Session | None:
        """The session that a link opens; None if it is none, or was used.

        Raises:
            TooOften: many were wrong just now; then a right one does not help either, and is not used up.
            Expired: it is too old, and gone.
        """
        now = self._clock.now()
        with self._lock:
            if len(self._wrong) == WRONG and now - self._wrong[0] < WITHIN:
                raise TooOften
            found = self._links.pop(secret, None)
            if found is None:
                self._wrong.append(now)
                return None
            role, made = found
            if now - made > LINK:
                raise Expired(role)
            while len(self._sessions) >= MOST:
                self._sessions.pop(next(iter(self._sessions)))
            session = Session(role, now)
            self._sessions[session.id] = session
            return session

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it has ended."""
        with self._lock:
            found = self._sessions.get(cookie)
            if found is not None and self._clock.now() - found.began > LONGEST:
                del self._sessions[cookie]
                return None
            return found

    def leave(self, session: Session) -> None:
        """Ends a session."""
        with self._lock:
            self._sessions.pop(session.id, None)
