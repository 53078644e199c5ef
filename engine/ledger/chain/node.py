"""Questions to a node over HTTP: which answers count, what is asked again, and for how long.

One rule for every question. What may pass is asked again, with growing pauses, until the time is up: nobody listens, the
connection breaks, a status such as 429 or 502, a node that limits, that is behind or busy, an answer that is none. What will not
pass is said at once: a revert, a refusal, a status such as 401, a certificate that is not trusted.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from requests import Session
from requests.auth import HTTPBasicAuth
from requests.exceptions import ConnectTimeout, InvalidJSONError, RequestException, SSLError, Timeout
from urllib3.exceptions import HTTPError
from web3 import HTTPProvider
from web3.exceptions import Web3Exception

from engine.clock import Clock
from engine.ledger.chain.address import hidden, origin
from engine.ledger.chain.base import ContractRevert, NodeRefuses, NodeUnreachable
from engine.ledger.chain.contracts import explain_revert
from engine.ledger.chain.resolving import LookUp, Resolver
from engine.ledger.chain.transport import Bounded, Status, Unfit

FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0  # seconds between two tries; each doubles the one before
_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_OVERRULING = {401, 403, 407, 429}  # whatever is in the body

# JSON-RPC: limit exceeded, internal error, resource not found (a header, a state) or unavailable; of providers: too many.
_PASSING_CODES = {-32005, -32603, -32001, -32002, -32016, -32097, 429}
_PASSING_WORDS = re.compile(
    r"header not found|block not found|unknown block|missing trie|state (is )?not available|rate.?limit|\brate\b|exceeded|"
    r"too many|capacity|timed?[ -]?out|busy|overload|txpool is full|pool (is )?full|unavailable|try again|syncing|not synced|"
    r"temporar|internal error|connection|context (canceled|deadline)",
    re.IGNORECASE,
)
# Refusals that hold one of these words, too.
_LASTING_WORDS = re.compile(
    r"exceeds (the )?(configured cap|block gas limit|allowance|balance)|fee cap|gas limit|method .* (not|unavailable)|"
    r"unauthori[sz]ed|forbidden|underpriced|nonce|insufficient",
    re.IGNORECASE,
)
# How nodes say that the code of a contract stopped: geth, Besu, anvil, hardhat, ganache, Nethermind.
_REVERT_WORDS = re.compile(
    r"revert|VM Exception|VM execution error|EVM error|invalid opcode|invalid jump|BadInstruction|OpcodeNotFound|NotActivated|"
    r"stack (under|over)flow",
    re.IGNORECASE,
)
_BYTES = re.compile(r"0x((?:[0-9a-fA-F]{2})+)")

T = TypeVar("T")


class _Passing(Exception):
    """May be another answer the next time; `after`: seconds that the node asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Node:
    """A node at an address."""

    def __init__(self, url: str, clock: Clock, look_up: LookUp = socket.getaddrinfo) -> None:
        self._url, self._clock = url, clock
        self.name = origin(url)
        self._until = float("inf")
        session = Session()
        session.headers["Accept-Encoding"] = "identity"
        parts = urlsplit(url)
        if parts.username is not None:
            # in UTF-8, which requests does for bytes only
            both = (unquote(text or "").encode() for text in (parts.username, parts.password))
            session.auth = HTTPBasicAuth(*both)
            url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        self._adapter = Bounded(Resolver(look_up))
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        self._provider: Any = HTTPProvider(
            url, {"allow_redirects": False}, session=session, exception_retry_configuration=None
        )

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All that is asked inside has this long together."""
        before = self._until
        self._until = min(before, self._clock.now() + seconds)
        try:
            yield
        finally:
            self._until = before

    def ask(
        self,
        method: str,
        *params: Any,
        read: Callable[[Any], T],
        seconds: float,
        otherwise: Callable[[], T | None] = lambda: None,
    ) -> T:
        """Ask until there is an answer, for so many seconds at most.

        Args:
            read: makes a value of the JSON, or raises ValueError with what was expected.
            otherwise: another way to the answer, tried once before each further try; None says that it has none.

        Raises:
            NodeUnreachable: time is up.
            ContractRevert: of eth_call, the contract refuses.
            NodeRefuses: the node does not do it.
        """
        began, pause = self._clock.now(), FIRST_PAUSE
        until = min(self._until, began + seconds)
        while True:
            try:
                return self._once(method, params, read, until - self._clock.now())
            except _Passing as problem:
                now = self._clock.now()
                if now >= until:
                    message = (
                        f"no Ethereum node answers at {self.name} ({method}: {problem}; asked for {now - began:.0f} s)"
                    )
                    raise NodeUnreachable(message) from None
                self._clock.sleep(min(max(pause, problem.after), until - now))
                pause = min(2 * pause, LAST_PAUSE)
            with self.within(0.0), suppress(NodeUnreachable):
                if (found := otherwise()) is not None:
                    return found

    def close(self) -> None:
        """Let go of the connections."""
        self._adapter.close()

    def _once(self, method: str, params: tuple[Any, ...], read: Callable[[Any], T], seconds: float) -> T:
        answer = self._answer(method, params, seconds)
        if not isinstance(answer, dict):
            raise _Passing(f"expected a JSON object, found {self._shown(answer)}")
        problem = answer.get("error")
        if problem or (problem is not None and "result" not in answer):  # some write an empty one beside a result
            self._refuse(method, problem)
        if answer.get("id") is not None and str(answer["id"]) != str(self._adapter.asked):
            raise _Passing("an answer to another question")
        if "result" not in answer:
            raise _Passing("expected a result, found none")
        try:
            return read(answer["result"])
        except ValueError as error:
            raise _Passing(f"expected {error}, found {self._shown(answer['result'])}") from None

    def _answer(self, method: str, params: tuple[Any, ...], seconds: float) -> Any:
        """What came back as JSON, of whatever form."""
        self._adapter.until, self._adapter.clock = self._clock.now() + seconds, self._clock
        try:
            return self._provider.make_request(method, list(params))
        except Status as status:
            return self._of_status(method, status)
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                message = (
                    f"the certificate of {self.name} is not trusted; REQUESTS_CA_BUNDLE names a file with its authority"
                )
                raise NodeRefuses(message) from None
            raise _Passing("the connection could not be secured") from None
        except Timeout as error:
            kind = "no connection" if isinstance(error, ConnectTimeout) else "no answer"
            raise _Passing(f"{kind} in time") from None
        except (InvalidJSONError, RecursionError):
            raise _Passing("the answer is not JSON") from None
        except (RequestException, HTTPError, Web3Exception, OSError) as error:
            # What the libraries say repeats the address, with any credentials in it.
            raise _Passing(_network(error)) from None
        except ValueError:
            raise _Passing("the answer is not JSON") from None

    def _of_status(self, method: str, status: Status) -> Any:
        """The answer that came with a status of HTTP: some nodes send a refusal of theirs with one."""
        said = f"HTTP {status.code} {hidden(status.reason, self._url)}".strip()
        if status.code not in _OVERRULING:
            try:
                answer = self._provider.decode_rpc_response(status.body)
            except ValueError:
                answer = None
            if isinstance(answer, dict) and answer.get("error") is not None:
                return answer
        if status.code in _PASSING:
            raise _Passing(said, status.after)
        if 300 <= status.code < 400:
            place = hidden(origin(status.location), self._url)
            where = f" to {place}" if place else ""
            raise NodeRefuses(f"{self.name} is not where the node is: it sends everybody on{where} ({said})")
        hint = "; its address in env:NAME holds the credentials, if it wants some" if status.code in (401, 403) else ""
        raise NodeRefuses(f"the node at {self.name} refuses {method}: {said}{hint}")

    def _refuse(self, method: str, problem: Any) -> None:
        """Raises what an error of the node means."""
        code = problem.get("code") if isinstance(problem, dict) else None
        said = problem.get("message", problem) if isinstance(problem, dict) else problem
        text, data = hidden(str(said), self._url), _revert_data(problem)
        if method == "eth_call" and (data is not None or _REVERT_WORDS.search(text)):
            raise ContractRevert(hidden(explain_revert(data), self._url) if data else text)
        lasting = _LASTING_WORDS.search(text) or _REVERT_WORDS.search(text)
        if not lasting and ((type(code) is int and code in _PASSING_CODES) or _PASSING_WORDS.search(text)):
            raise _Passing(text)
        raise NodeRefuses(f"the node at {self.name} refuses {method}: {text}")

    def _shown(self, value: Any) -> str:
        text = "nothing" if value is None else hidden(repr(value), self._url)
        return text if len(text) <= 60 else text[:57] + "..."


def _network(error: BaseException) -> str:
    """What happened, from the kinds of errors alone."""
    seen: BaseException | None = error
    names: list[str] = []
    while seen is not None and len(names) < 8:
        names.append(type(seen).__name__)
        if isinstance(seen, ConnectionRefusedError):
            return "connection refused"
        if isinstance(seen, ConnectionResetError | BrokenPipeError) or names[-1] in (
            "RemoteDisconnected",
            "IncompleteRead",
        ):
            return "the connection broke"
        if names[-1] in ("gaierror", "NameResolutionError"):
            return "no host of this name"
        if isinstance(seen, Unfit):
            return str(seen)
        inner = next((a for a in getattr(seen, "args", ()) if isinstance(a, BaseException)), None)
        seen = getattr(inner, "reason", inner) or seen.__cause__ or seen.__context__
    return names[0]


def _revert_data(problem: Any) -> bytes | None:
    """The bytes that a contract refused with, wherever a node puts them; None without any."""
    if not isinstance(problem, dict):
        return None
    data: Any = problem.get("data")
    while isinstance(data, dict):
        data = data.get("data")
    said = str(problem.get("message"))
    for text in (data, said if "return data" in said else None):
        if isinstance(text, str) and (found := _BYTES.search(text)):
            return bytes.fromhex(found[1])
    return None
