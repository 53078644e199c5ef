"""A hospital's process: joins a coordinator, does what it is told within what a site does at all, and keeps what must not be lost.

The coordinator is not trusted with anything but the order of the work: it is never told a path, never sends code, and what the
configuration that it sends wants of the site is looked at here, too.
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from engine.config import RunConfig
from engine.encoding import read_json
from engine.errors import ConfigError, HospitalError, PulseLedgerError, ResourceError
from engine.hospital import Task
from engine.ledger.recount import Shown
from engine.ledger.signer import Memory, Notice, Signing
from engine.model import build_network
from engine.pools.local import InProcessPool
from engine.secure.part import Hidden
from engine.secure.round import WITHDRAW
from engine.settings import parse
from engine.sites import orders
from engine.sites.authority import SERVER_NAME, Credentials
from engine.sites.gate import OPTIONS, POLL, SERVICE
from engine.sites.orders import NONCE, ORDERS, PROTOCOL, WIRE, Done, Hello, NoticeTold, Order, Welcome, identity_of
from engine.sites.share import Own, own_share
from engine.sites.store import Store
from engine.sites.wire import WireError

BACKOFF = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2_000))
PAUSE = 0.2  # seconds between two attempts
# what the coordinator says -> what it means here
JOIN_AGAIN = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE)
OF_THE_NETWORK = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True)
class Home:
    """What a site has of its own.

    Attributes:
        hospital: as its certificate names it.
        data: folder with its records.
        keys: folder with the key that it signs with, hospital-NNNN.json.
        folder: where it keeps what it must not forget.
        patients: as of `own_share`; `plain` likewise.
        expected: how `orders.identity_of` the run's configuration begins; "" takes any.
    """

    hospital: int
    data: Path
    keys: Path
    folder: Path
    patients: str | None = None
    plain: bool = False
    expected: str = ""


class Ended(PulseLedgerError):
    """The session has ended; a new one may begin."""


class Line:
    """The site's end of the line; every byte that leaves goes through `send`."""

    def __init__(self, address: str, own: Credentials, seen: Callable[[str, bytes], None] = lambda name, data: None):
        """Args: seen: told of each message before it leaves: "Join" or "Work", and its bytes."""
        options = [*OPTIONS, *BACKOFF, ("grpc.ssl_target_name_override", SERVER_NAME)]
        secure = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
        self._channel, self._seen = grpc.secure_channel(address, secure, options), seen
        self.heard = time.monotonic()  # the coordinator's last word

    def send(self, name: str, message: Any, kind: Any) -> Any:
        """One call.

        Raises:
            Ended: the coordinator knows no such session (any more).
            ConnectionError: the coordinator was not to be reached.
            ResourceError: it refuses for good.
        """
        data = WIRE.pack(message)
        self._seen(name, data)
        try:
            answer = self._channel.unary_unary(f"/{SERVICE}/{name}")(data, timeout=3 * POLL)
        except grpc.RpcError as error:
            code, why = error.code(), error.details()
            if code in JOIN_AGAIN:
                raise Ended(str(why)) from None
            if code in OF_THE_NETWORK:
                raise ConnectionError(str(why)) from None
            raise ResourceError(f"the coordinator refuses: {why}.") from None
        self.heard = time.monotonic()
        return WIRE.unpack(answer, kind)

    def close(self) -> None:
        """Lets go of the connection."""
        self._channel.close()


def serve(
    line: Line, home: Home, patience: float, note: Callable[[str], None] = lambda text: None, sleep: Any = time.sleep
) -> None:
    """Works until the run is over.

    Args:
        patience: seconds without a coordinator after which this gives up.

    Raises:
        ResourceError: no coordinator for so long, or it refuses this site.
        PulseLedgerError: the run is not one that a site takes part in.
    """
    site = Site(home, note)
    while True:
        try:
            welcome = line.send("Join", Hello(PROTOCOL, secrets.token_bytes(NONCE)), Welcome)
            note(f"joined as hospital {welcome.hospital}")
            site.begin(welcome)
            _session(line, site, welcome.session)
            return
        except Ended as why:
            note(f"joining again: {why}")
        except ConnectionError:
            if time.monotonic() - line.heard > patience:
                raise ResourceError(f"no coordinator for {patience:g} s.") from None
        sleep(PAUSE)


def _session(line: Line, site: "Site", session: bytes) -> None:
    """Does orders until there are no more. A lost answer is asked for again."""
    done = Done(session, 0, b"")
    lost = 0
    while True:
        try:
            order: Order = line.send("Work", done, Order)
            lost = 0
        except ConnectionError:
            lost += 1
            if lost > 2:
                raise
            continue
        if order.last:
            return
        if not order.method:
            done = done._replace(answer=b"")
            continue
        done = Done(session, order.number, WIRE.pack(site.obey(order)))


class Site:
    """A hospital, made anew for every session."""

    def __init__(self, home: Home, note: Callable[[str], None] = lambda text: None) -> None:
        self._home, self._note = home, note
        self._text, self._config = "", RunConfig()
        self._own: Own | None = None
        self._pool: InProcessPool | None = None
        self._store = Store(home.folder, home.hospital)

    def begin(self, welcome: Welcome) -> None:
        """Takes up a session's configuration.

        Raises:
            ConfigError: it is none that a site works under; DataError: the folder belongs to another run.
        """
        if welcome.hospital != self._home.hospital:
            raise ConfigError(f"the coordinator takes this site for hospital {welcome.hospital}.")
        self._pool = None
        if welcome.config == self._text:
            return
        try:
            values = read_json(welcome.config)
        except ValueError as error:
            raise ConfigError(f"the coordinator's configuration is no JSON ({error}).") from None
        config = parse(RunConfig, values, "the coordinator's configuration")
        if config.execution.pool != "sites":
            raise ConfigError("the coordinator's configuration: execution.pool is not sites.")
        identity = identity_of(welcome.config)
        if not identity.startswith(self._home.expected):
            raise ConfigError(
                f"the coordinator's configuration is {identity[:16]}, and this site works under {self._home.expected[:16]} only."
            )
        self._note(f"configuration {identity[:16]}")
        self._store.bind(identity)
        self._text, self._config, self._own = welcome.config, config, None

    def obey(self, order: Order) -> Any:
        """Does what an order says; a failure is the answer, as of any hospital."""
        if order.method not in ORDERS:
            raise WireError(f"holds an order that is none: {order.method!r:.40}")
        body = WIRE.unpack(order.body, ORDERS[order.method][0])
        round = 0 if body is None else body.round if hasattr(body, "round") else body.asked.round
        try:
            return getattr(self, f"_{order.method}")(body)
        except HospitalError as error:
            return error
        except PulseLedgerError as error:  # of its own disk, keys or records
            return HospitalError(self._home.hospital, round, order.method, str(error).rstrip("."))
        except OSError as error:
            return HospitalError(self._home.hospital, round, order.method, error.strerror or type(error).__name__)

    def _share(self, body: None) -> orders.Share:
        return self._mine().share

    def _mine(self) -> Own:
        if self._own is None:
            self._note("cutting beats")
            home = self._home
            self._own = own_share(self._config, home.hospital, home.data, home.patients, home.plain)
        return self._own

    def _build(self, body: orders.Build) -> None:
        own, config = self._mine(), self._config
        network = build_network(config.model, *own.beats.shape, own.beats.rr.shape[1], len(own.beats.classes))
        folder = self._home.folder.absolute()
        signing = None if body.signing is None else Signing(**body.signing._asdict(), keystore=self._home.keys)
        task = Task(
            config=config,
            network=network,
            beats=own.beats.folder,
            signing=signing,
            oracle=body.oracle,
            keep_vectors=True,
            synthetic=folder / "synthetic",
            secure=folder / "secure",
        )
        past = self._store.past(body.counted, body.round)
        self._pool = InProcessPool([own.data], task)
        self._pool.restore({own.data.id: past.state}, past.measured)
        if past.memory is not None:
            self._pool.remember({own.data.id: past.memory})

    def _train(self, body: orders.Train) -> Any:
        self._note(f"round {body.asked.round}")
        answer = self._hospital.train(body.asked, self._notice(body.notice)).answers[0]
        if isinstance(answer, HospitalError):
            return answer
        round, signed = body.asked.round, answer.signed
        memory = None if signed is None else Memory(round, signed.leaf, signed.update.record.parent_head)
        self._store.trained(round, answer.state, answer.gradient_evaluations, memory)
        return replace(answer, state={})

    def _withdraw(self, body: orders.Withdraw) -> None:
        self._hospital.withdraw(self._home.hospital, body.round)

    def _judge(self, body: orders.Judge) -> Any:
        return self._hospital.judge(body.asked, body.updates, self._me)[0]

    def _commit(self, body: orders.Commit) -> Any:
        return self._hospital.commit(body.asked, body.updates, self._notice(body.notice), self._me)[0]

    def _reveal(self, body: orders.Reveal) -> Any:
        notice = self._notice(body.notice)
        return self._hospital.reveal(body.asked, body.updates, body.commitments, notice, self._me)[0]

    def _secure(self, body: orders.Secure) -> Any:
        notice = self._notice(body.notice)
        assert notice is not None
        answer = self._hospital.secure(body.step, body.groups, notice, self._me)[0]
        if isinstance(answer, Hidden) and body.step != WITHDRAW:
            signed = answer.signed
            self._store.signed(body.round, Memory(body.round, signed.leaf, signed.update.record.parent_head))
        return answer

    def _validate(self, body: orders.Validate) -> Any:
        answer = self._hospital.validate(body.round, body.params, self._me)[0]
        if isinstance(answer, np.ndarray):
            self._store.measured(body.round, answer)
        return answer

    def _finish(self, body: orders.Finish) -> Any:
        self._note("the last test")
        return self._hospital.finish(body.round, body.params, self._notice(body.notice), self._me)[0]

    @property
    def _me(self) -> tuple[int, ...]:
        return (self._home.hospital,)

    @property
    def _hospital(self) -> InProcessPool:
        if self._pool is None:
            raise WireError("comes before the hospital is made")
        return self._pool

    def _notice(self, told: NoticeTold | None) -> Notice | None:
        """The notice as a hospital of one's own process gets it; the vectors to compute again go by way of the site's disk."""
        if told is None:
            return None
        me, shown = self._home.hospital, None
        if told.shown is not None:
            path = self._home.folder / "shown.safetensors"
            with contextlib.suppress(OSError):
                path.unlink()
            path.write_bytes(told.shown.vectors)
            shown = Shown(**{**told.shown._asdict(), "vectors": path.absolute()})
        paths = {} if told.path is None else {me: told.path}
        receipts = {} if told.receipt is None else {me: told.receipt}
        return Notice(told.model, told.headers, paths, receipts, shown)
