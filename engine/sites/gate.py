"""Where sites come in: the coordinator's gRPC server. It knows who speaks, hands out orders in their order, and takes each answer once.

A site asks, the coordinator never connects to it. Two calls, both unary:

    Join  Hello -> Welcome    a new session of the hospital that the certificate names; an older one ends
    Work  Done -> Order       the answer to the last order, and then the next order, as soon as there is one

Orders of a session are numbered. An answer counts for the order that is out, a repeated one for nothing, any other is refused. A
site that has lost its session, its process or its network joins again and is given the orders of the round anew, from the first on:
its work is a function of its state before the round, so it comes to where it was.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from engine.clock import REAL, Clock
from engine.errors import HospitalError, HospitalLost, LedgerError, ResourceError
from engine.sites.authority import COORDINATOR, credentials, serial_of, slot_of, valid
from engine.sites.orders import NONCE, ORDERS, PROTOCOL, WIRE, Done, Hello, Order, Welcome
from engine.sites.wire import MOST_BYTES, WireError

SERVICE = "pulseledger.Sites"
POLL = 10.0  # seconds that a site's question waits for an order
MOST_NONCES = 10_000  # of a hospital, in one run of the coordinator
PARTING = 3.0  # seconds in which sites may hear that all is over
OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
)


@dataclass
class Item:
    """An order to one hospital; `answer` is what it gave, once `ready`. Given up: nobody waits any more."""

    method: str
    round: int
    body: bytes
    answer: Any = None
    ready: bool = False
    given_up: bool = False


@dataclass
class _Line:
    """Between the coordinator and one hospital.

    Attributes:
        todo: orders that the session is still to be given.
        out: the one that is out; `number` is that of the last that went out.
        taken: digest of the last answer that was taken.
        past: orders of the round under way that were answered, for a session to come.
        current: what the coordinator waits for.
    """

    session: bytes = b""
    replaced: set[bytes] = field(default_factory=set)
    nonces: set[bytes] = field(default_factory=set)
    todo: list[Item] = field(default_factory=list)
    out: Item | None = None
    number: int = 0
    taken: bytes = b""
    past: list[Item] = field(default_factory=list)
    round: int = 0
    current: Item | None = None
    told_last: bool = False


class Gate:
    """The server, and the lines to all hospitals."""

    def __init__(
        self, config: str, hospitals: int, folder: Path, listen: str, clock: Clock = REAL, poll: float = POLL
    ) -> None:
        """Args: config: of the run, JSON, for the sites; folder: with the certificates; listen: HOST:PORT, port 0 takes a free one.

        Raises:
            LedgerError: there is no certificate of the coordinator.
            ResourceError: nothing can listen there.
        """
        self._config, self._folder, self._clock, self._poll = config, folder, clock, poll
        self._lines = {hospital: _Line() for hospital in range(hospitals)}
        self._change = threading.Condition()
        self._over = self._stopped = False
        # how the hospital is built anew: (hospital, first round to come) -> the order
        self.build: Callable[[int, int], Item] | None = None
        own = credentials(folder, COORDINATOR)
        valid(folder)
        secure = grpc.ssl_server_credentials([(own.key, own.certificate)], own.authority, require_client_auth=True)
        workers = ThreadPoolExecutor(2 * hospitals + 4, thread_name_prefix="gate")
        self._server = grpc.server(workers, options=OPTIONS, maximum_concurrent_rpcs=4 * hospitals + 4)
        calls = {"Join": self._join, "Work": self._work}
        handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            self.port = self._server.add_secure_port(listen, secure)
        except (RuntimeError, ValueError):
            self.port = 0
        if not self.port:
            raise ResourceError(
                f"execution.listen: nothing can listen at {listen!r:.80}; is HOST:PORT free, and this machine's?"
            )
        self._server.start()

    def ask(self, items: Mapping[int, Item], seconds: float) -> dict[int, Any]:
        """Gives each hospital an order and waits; a hospital that has not answered in time is answered by a HospitalLost."""
        end = self._clock.now() + seconds
        with self._change:
            for hospital, item in items.items():
                line = self._lines[hospital]
                line.current = item
                if line.session:
                    line.todo.append(item)
            self._change.notify_all()
            while not all(item.ready for item in items.values()):
                left = end - self._clock.now()
                if left <= 0:
                    break
                self._change.wait(min(left, 1.0))
            for hospital, item in items.items():
                self._lines[hospital].current = None
                if not item.ready:
                    self._give_up(self._lines[hospital], hospital, item, seconds)
            self._change.notify_all()
        return {hospital: item.answer for hospital, item in items.items()}

    def _give_up(self, line: _Line, hospital: int, item: Item, seconds: float) -> None:
        """Nobody waits for it any more; the hospital begins anew with its state of before, as if it had not been asked."""
        why = "no answer" if line.session else "it has not joined"
        item.answer, item.given_up = HospitalLost(hospital, item.round, item.method, f"{why} in {seconds:g} s"), True
        line.session, line.todo, line.out, line.past = b"", [], None, []

    def joined(self) -> list[int]:
        """The hospitals that have a session."""
        with self._change:
            return [hospital for hospital, line in self._lines.items() if line.session]

    def close(self, over: bool) -> None:
        """Stops the server; where the run is over, sites are told so first, as far as they ask in time."""
        with self._change:
            if self._stopped:
                return
            self._stopped, self._over = True, over
            self._change.notify_all()
            end = self._clock.now() + PARTING
            while over and self._clock.now() < end:
                if all(line.told_last or not line.session for line in self._lines.values()):
                    break
                self._change.wait(0.1)
        self._server.stop(0.2).wait(2.0)

    # --- What sites call ----------------------------------------------------------------------------------------------

    def _join(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        hospital = self._who(context)
        hello = self._message(data, Hello, context)
        if hello.protocol != PROTOCOL or len(hello.nonce) != NONCE:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this coordinator speaks version {PROTOCOL}")
        with self._change:
            line = self._lines[hospital]
            if hello.nonce in line.nonces or len(line.nonces) >= MOST_NONCES:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "this greeting was used before")
            line.nonces.add(hello.nonce)
            if line.session:
                line.replaced.add(line.session)
            line.session, line.number, line.taken, line.out = secrets.token_bytes(NONCE), 0, b"", None
            built = [self.build(hospital, line.round)] if self.build is not None else []
            current = [line.current] if line.current is not None and not line.current.ready else []
            line.todo = [*built, *(Item(one.method, one.round, one.body) for one in line.past), *current]
            self._change.notify_all()
            return WIRE.pack(Welcome(line.session, hospital, self._config))

    def _work(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        hospital = self._who(context)
        done = self._message(data, Done, context)
        with self._change:
            line = self._lines[hospital]
            self._require_session(line, done.session, context)
            self._take(hospital, line, done, context)
            end = self._clock.now() + self._poll
            while line.out is None and not line.todo and not self._stopped:
                left = end - self._clock.now()
                if left <= 0:
                    return WIRE.pack(Order(line.number, "", b""))
                self._change.wait(left)
                self._require_session(line, done.session, context)
            if self._over:
                line.told_last = True
                self._change.notify_all()
                return WIRE.pack(Order(line.number, "", b"", True))
            if self._stopped:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator has stopped")
            if line.out is None:
                line.out = line.todo.pop(0)
                line.number += 1
            return WIRE.pack(Order(line.number, line.out.method, line.out.body))

    def _require_session(self, line: _Line, session: bytes, context: grpc.ServicerContext) -> None:
        if session in line.replaced:
            context.abort(grpc.StatusCode.ABORTED, "another process of this hospital has joined since")
        if not line.session or not secrets.compare_digest(session, line.session):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this session has ended; join again")

    def _take(self, hospital: int, line: _Line, done: Done, context: grpc.ServicerContext) -> None:
        """Takes an answer for the order that is out; what was taken already, or is only a question, changes nothing."""
        digest = hashlib.sha256(done.answer).digest()
        if done.number == line.number and line.out is not None and done.answer:
            item, line.out, line.taken = line.out, None, digest
            self._answered(hospital, line, item, done.answer)
            return
        waits = line.number - (
            line.out is not None
        )  # the order before is done; the one that is out may not have arrived
        if done.number != waits or (done.answer and digest != line.taken):
            context.abort(grpc.StatusCode.OUT_OF_RANGE, f"order {done.number} is not the one that is out")

    def _answered(self, hospital: int, line: _Line, item: Item, answer: bytes) -> None:
        try:
            kind = ORDERS[item.method][1]
            found = WIRE.unpack(answer, kind | HospitalError if kind is not None else HospitalError | None)
        except WireError as error:
            found = HospitalError(hospital, item.round, item.method, f"its answer {error}")
        if isinstance(found, HospitalError) and found.hospital != hospital:
            found = HospitalError(hospital, item.round, item.method, "its answer is about another hospital")
        item.answer, item.ready = found, True
        if item is line.current:
            if item.round > line.round:
                line.past, line.round = [], item.round
            if item.method not in ("share", "build"):
                line.past.append(item)
        self._change.notify_all()

    def _who(self, context: grpc.ServicerContext) -> int:
        """The hospital that the certificate names, if the coordinator's list has it."""
        shown: Mapping[str, Sequence[bytes]] = context.auth_context()
        try:
            serial = serial_of(shown.get("x509_pem_cert", [b""])[0])
            hospital = slot_of(valid(self._folder).get(serial, "nobody: it is not in the list of those that count"))
        except LedgerError as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        if hospital not in self._lines:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the run has no hospital {hospital}")
        return hospital

    def _message(self, data: bytes, kind: Any, context: grpc.ServicerContext) -> Any:
        try:
            return WIRE.unpack(data, kind)
        except WireError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"what was sent {error}")
