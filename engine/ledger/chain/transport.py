"""One answer over HTTP, whatever a server does: within a time, of a size, from the server that was asked.

What a library limits is the wait for the next byte. Here the host has to be found, and every byte has to be there in time, of the headers, too; a packed
answer is unpacked to the same size at most; and no redirection is followed, which could take credentials along.
"""

import io
import json
import socket
import zlib
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidJSONError, Timeout
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from engine.clock import Clock
from engine.encoding import require_shallow
from engine.ledger.chain.resolving import Resolver

LONGEST = 16 * 2**20  # bytes of an answer
_CONNECT, _READ, _LEAST = 5.0, 15.0, 0.5  # seconds for one try, and what it has at least when time is nearly up
_PACKED = ("gzip", "x-gzip", "deflate")


class Unfit(OSError):
    """An answer that is not taken; the message says why, without anything of it."""


class Status(Exception):
    """An answer with a status of HTTP that is no success."""

    def __init__(self, response: Response, body: bytes) -> None:
        super().__init__(response.status_code)
        self.code, self.reason, self.body = response.status_code, str(response.reason or "")[:60], body
        self.location = response.headers.get("Location", "")
        after = response.headers.get("Retry-After", "")
        self.after = float(after) if after.isascii() and after.isdigit() else 0.0


class Bounded(HTTPAdapter):
    """Reads answers of at most `LONGEST` bytes, and not longer than until a moment, however slowly they come.

    Attributes:
        until: the moment, by the clock.
        asked: id of the last question in JSON-RPC.
    """

    until: float
    clock: Clock
    asked: Any = None

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        super().__init__()

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        self.poolmanager.pool_classes_by_scheme = _pools(self._left, self._resolver)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named)
        if proxy.lower().startswith("http"):
            manager.pool_classes_by_scheme = _pools(self._left, self._resolver)
        return manager

    def send(self, request: PreparedRequest, *args: Any, **named: Any) -> Response:
        self.asked = json.loads(request.body or "{}").get("id")
        left = max(self.until - self.clock.now(), _LEAST)
        self.until = self.clock.now() + left
        named |= {"stream": True, "timeout": (min(_CONNECT, left), min(_READ, left))}
        response = super().send(request, **named)
        try:
            body = self._body(response)
        finally:
            response.close()
        try:
            require_shallow(body.decode("utf-8", "replace"))
        except ValueError as error:
            raise InvalidJSONError(str(error)) from None
        if not response.ok or response.is_redirect:
            raise Status(response, body)
        response.raw = io.BytesIO(body)
        return response

    def _body(self, response: Response) -> bytes:
        body = bytearray()
        try:
            while part := response.raw.read1(65536, decode_content=False):
                body += part
                if len(body) > LONGEST:
                    raise Unfit(f"an answer of more than {LONGEST} bytes")
        except (ReadTimeoutError, TimeoutError):
            raise Timeout from None
        return _unpacked(bytes(body), response.headers.get("Content-Encoding", ""))

    def _left(self) -> float:
        """Seconds for the next byte."""
        left = self.until - self.clock.now()
        if left <= 0:
            raise TimeoutError
        return min(left, _READ)


def _unpacked(body: bytes, encoding: str) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _PACKED:
        raise Unfit("an answer in an encoding that nobody asked for")
    try:
        plain = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, LONGEST + 1)
    except zlib.error:
        raise Unfit("an answer that cannot be unpacked") from None
    if len(plain) > LONGEST:
        raise Unfit(f"an answer of more than {LONGEST} bytes")
    return plain


class _Reader(io.RawIOBase):
    """A socket's bytes, each within the time that is left."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, left: Callable[[], float]) -> None:
        self._raw, self._sock, self._left = raw, sock, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _pools(left: Callable[[], float], resolver: Resolver) -> dict[str, Any]:
    """Pools of connections whose hosts are found, and whose answers are read, in the time that is left."""

    class Answer(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
            super().__init__(sock, *args, **named)
            self.fp: Any = io.BufferedReader(_Reader(self.fp.detach(), sock, left))

    class Found:
        """A connection whose host is looked up within its time; it has to be one of urllib3's, too."""

        def _new_conn(self: Any) -> socket.socket:
            name, problem = self._dns_host, HTTPError("no address")
            try:
                places = resolver.addresses(name, self.port, self.timeout)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            except TimeoutError:
                raise Unfit("the host is not looked up in time") from None
            for self._dns_host, _ in places:
                try:
                    return super()._new_conn()  # type: ignore[misc, no-any-return]
                except HTTPError as error:
                    problem = error
                finally:
                    self._dns_host = name
            raise problem

    class Plain(Found, HTTPConnection):
        response_class = Answer

    class Secured(Found, HTTPSConnection):
        response_class = Answer

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecuredPool(HTTPSConnectionPool):
        ConnectionCls = Secured

    return {"http": PlainPool, "https": SecuredPool}
