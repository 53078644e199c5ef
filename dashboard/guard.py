"""What every request must pass before any page is asked, and what every answer says to the browser.

    Host        one of ours: a name that an attacker has bound to 127.0.0.1 is none (DNS rebinding)
    Origin      of whatever changes something: ours, and said
    Sec-Fetch   of another site's or port's page: nothing but a link that somebody followed, so that no page makes this one work
    body        no longer than its page takes, and sent in time
    headers     nothing is fetched from elsewhere, no script or style stands in a page, nobody frames one

OWASP: "Cross-Site Request Forgery Prevention", "Content Security Policy"; W3C: "Fetch Metadata Request Headers"; as of 2025.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = "/audit/upload"
LARGEST = {UPLOAD: 1 << 28}  # bytes of a body, by path
FORM = 1 << 20  # of any other
SLOWEST = {UPLOAD: 300.0}  # seconds in which a body must have come, by path
FORM_SECONDS = 30.0  # of any other
SAFE = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers say "null" for the Origin of a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Stands before the pages."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """
        Args:
            origins: by which the pages are reached, such as http://127.0.0.1:8080.
        """
        self._app, self._origins = app, frozenset(origins)
        self._hosts = frozenset(origin.partition("://")[2] for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = (400, "no web sockets here") if scope["type"] != "http" else self._refused(scope)
        if refused is not None:
            status, why = refused
            await PlainTextResponse(f"{why}\n", status)(scope, receive, answer)
            return
        await self._app(
            scope, _bounded(receive, largest(scope["path"]), SLOWEST.get(scope["path"], FORM_SECONDS)), answer
        )

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        said = headers.getlist("host")
        if len(said) != 1 or said[0] not in self._hosts:
            return 421, "this address is not one of the dashboard's"
        if scope["method"] not in SAFE:
            if headers.get("origin", "") not in self._origins:
                return 403, "this did not come from a page of the dashboard"
            if headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "this did not come from a page of the dashboard"
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed:
            return 403, "this did not come from a page of the dashboard"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > largest(scope["path"]):
            return 413, "this is more than the page takes"
        return None


def largest(path: str) -> int:
    """Bytes that a body may have."""
    return LARGEST.get(path, FORM)


def _bounded(receive: Receive, most: int, seconds: float) -> Receive:
    """As `receive`, for bodies that do not say how long they are, or do not come."""
    taken, whole, end = 0, False, time.monotonic() + seconds

    async def bounded() -> Any:
        nonlocal taken, whole
        if whole:
            return await receive()  # that the visitor has gone
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except TimeoutError:
            raise HTTPException(408, "this took too long to send") from None
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if taken > most:
            raise HTTPException(413, "this is more than the page takes")
        return message

    return bounded
