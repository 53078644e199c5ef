"""A bad line between two programs of this machine: each piece comes late, some much later, connections break, and for a while nothing goes through.

with BadLine(port, delay=0.03, seed=1) as line:
    connect(line.port)
    line.cut(5.0)

It forwards TCP and reads nothing of it. A packet that is lost shows itself, above TCP, as a piece that comes late; a line that is cut as silence.
"""

import contextlib
import random
import socket
import struct
import threading
import time

LOST_SECONDS = 0.2  # until TCP sends again what was lost


class BadLine:
    """A line to a port of this machine; both directions of each connection go through it.

    Attributes:
        port: where it begins.
        broken, pieces: connections that it has broken; pieces that it has passed on.
    """

    def __init__(self, to: int, delay: float = 0.04, loss: float = 0.02, breaks: float = 0.0, seed: int = 0) -> None:
        """
        Args:
            delay: seconds of a piece, a quarter more or less.
            loss, breaks: probability that a piece is lost, or breaks its connection.
        """
        self._to, self._delay, self._loss, self._breaks = to, delay, loss, breaks
        self._draw, self._lock, self._until = random.Random(seed), threading.Lock(), 0.0
        self.broken, self.pieces = 0, 0
        self._open: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Nothing goes through for so long; nobody is told."""
        self._until = time.monotonic() + seconds

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to), 5)
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(16_384):
                with self._lock:
                    wait = self._delay * self._draw.uniform(0.75, 1.25)
                    wait += LOST_SECONDS * (self._draw.random() < self._loss)
                    breaks = self._draw.random() < self._breaks
                time.sleep(wait)
                while time.monotonic() < self._until:
                    time.sleep(0.05)
                if breaks:
                    self.broken += 1
                    for end in (one, other):  # at once, as a reset
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                self.pieces += 1
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> "BadLine":
        return self

    def __exit__(self, *error: object) -> None:
        self._door.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.close()
