"""How long somebody may take to say what he wants: connections that send nothing, or a byte now and then, are closed.

uvicorn waits without end for the head of a request, so that a few idle connections would keep everybody out.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # seconds for the head of a request, and between two of them
EVERY = 1.0  # seconds between two looks


class Impatient(H11Protocol):
    """A connection that is closed while it has nothing to do; what is being answered, or streamed, goes on."""

    head = HEAD

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._look = self.loop.call_later(min(EVERY, self.head), self._grow_impatient)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _grow_impatient(self) -> None:
        now = self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle_since = now
        elif now - self._idle_since >= self.head:
            self.transport.close()
            return
        self._look = self.loop.call_later(min(EVERY, self.head), self._grow_impatient)
