"""Settings of the ledger."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from engine.errors import LedgerError
from engine.ledger.chain.address import refusal
from engine.ledger.format import ADMIN, AUDITOR, COORDINATOR, DEPLOYER
from engine.ledger.typed import address_bytes, checksum_address
from engine.settings import Mistake, Name, Section


def _address_text(value: Any) -> Any:
    """An address as it was written: without quotes, YAML takes 0x and 40 digits for a number; in lower case, too."""
    if type(value) is int and 0 <= value < 1 << 160:
        value = f"0x{value:040x}"
    if not isinstance(value, str):
        return value
    if re.fullmatch("(0x)?([0-9a-f]{40}|[0-9A-F]{40})", value):
        return checksum_address(bytes.fromhex(value.removeprefix("0x")))
    try:
        address_bytes(value)
    except LedgerError:
        message = "must be an address, 0x and 40 hex digits, all in one case or with the right checksum"
        raise ValueError(message) from None
    return value


Address = Annotated[str, BeforeValidator(_address_text)]


def _successor(value: Any) -> Any:
    """Number of a hospital, name of a stand-in, or an address."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,7}", value):
        value = int(value)  # 03 is 3: nobody is named twice
    if type(value) is int and 0 <= value < 2**24:
        return str(value)
    if isinstance(value, str) and _STAND_IN.fullmatch(value) and value not in _TAKEN:
        return value
    try:
        return _address_text(value)
    except ValueError:
        raise ValueError(
            "must be the number of a hospital, an address, or a name of small letters, digits and - for a stand-in whose key is "
            f"drawn here, other than {', '.join(_TAKEN)}"
        ) from None


_STAND_IN, _TAKEN = re.compile("[a-z][a-z0-9-]{0,31}"), (COORDINATOR, ADMIN, AUDITOR, DEPLOYER)
Successor = Annotated[str, BeforeValidator(_successor)]


class LedgerConfig(Section):
    """Where rounds are anchored."""

    backend: Literal["embedded", "rpc", "none"] = Field(
        "embedded", description="py-evm here, a JSON-RPC node, or nothing"
    )
    url: str | None = Field(
        None,
        description="rpc: address of the node: scheme, host and port; env:NAME takes all of it from the environment",
    )
    chain_id: int | None = Field(None, ge=1, description="rpc: the chain that is expected; null takes the node's")
    contract: Address | None = Field(None, description="rpc: deployed contract; null deploys one")
    key_file: str | None = Field(None, description="rpc: file with the coordinator's private key (hex)")
    confirmations: int = Field(0, ge=0, le=1000, description="rpc: blocks on top of a round's own before it counts")
    timeout: float = Field(300.0, gt=0, le=86_400, description="rpc: seconds that a transaction may take")
    max_fee_gwei: float = Field(
        1000.0, gt=0, description="rpc: most that a unit of gas may cost; a node that asks for more is refused"
    )
    keystore: str | None = Field(None, description="folder of the hospitals' keys; null derives them from the seed")
    admin: Address | None = Field(
        None, description="rpc: account that gives roles and sets policies in a new contract; null draws a key for it"
    )
    admin_key_file: str | None = Field(None, description="rpc: file with the admin's private key, where it is here")
    auditor: Address | None = Field(
        None, description="rpc: account that decides disputes in a new contract; null draws a key for it"
    )
    window: int = Field(
        3600,
        ge=0,
        lt=2**24,
        description="seconds in which a sealed round can be disputed; 0: final at the end of the run",
    )
    deadline: int = Field(
        86_400, ge=0, lt=2**32, description="seconds for a round, after which anybody may abort it; 0: no limit"
    )
    successors: tuple[Successor, ...] = Field(
        (),
        max_length=16,
        description="who leads, in this order, once the coordinator is gone: hospitals' numbers, stand-ins' names or addresses",
    )
    patience: int = Field(
        3600,
        ge=1,
        lt=2**20,
        description="seconds without a sign of the coordinator until the first of successors may take over; the second waits twice that",
    )
    checks: int = Field(
        1, ge=0, le=1000, description="hospitals, drawn each round, that compute its model again; they see all updates"
    )
    reputation: Literal["none", "peers", "committee"] = Field(
        "none",
        description="peers: each round's hospitals score each other's updates on their own validation beats; committee: as it finds",
    )
    federation: Name = Field("", max_length=200, description="label that tells apart equal runs on one contract")

    def clashes(self) -> Iterator[Mistake]:
        """What a back end needs."""
        if self.backend == "rpc" and not self.url:
            yield Mistake("backend 'rpc' needs ledger.url", ["backend", "url"])
        if self.successors and self.backend == "none":
            yield Mistake("successors need a ledger, but backend is 'none'", ["successors", "backend"])
        if len(set(self.successors)) != len(self.successors):
            yield Mistake("successors names somebody twice", ["successors"])
        if self.url is not None and (problem := refusal(self.url)):
            yield Mistake(f"url {problem}", ["url"])  # the value is not shown: it may hold a key
        if self.reputation != "none" and self.backend == "none":
            yield Mistake(
                f"reputation '{self.reputation}' needs a ledger, but backend is 'none'", ["reputation", "backend"]
            )


class Leader(NamedTuple):
    """Who works as coordinator: one of `ledger.successors`, and its key where it is not drawn here; nobody named: the first one."""

    name: str = ""
    key: bytes = b""


FIRST = Leader()
