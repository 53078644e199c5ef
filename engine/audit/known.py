"""What an auditor knows from elsewhere. No evidence may choose it for him: a journal that names its own node, head or
contract would be checked against itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Domain


@dataclass(frozen=True)
class Known:
    """What the auditor names.

    Attributes:
        rpc: address of the node to ask for a ledger that is on one, or env:NAME.
        head: of the last round, or of an earlier one if the run went on since; of a study, of its records.
        contract: address in checksum form, of the first contract of the ledger.
        execute: folder, part, parameters -> an own rule of aggregation, by code that the evidence brings; None: not allowed.
    """

    rpc: str | None = None
    head: bytes | None = None
    contract: str | None = None
    execute: Callable[[Path | None, str, Mapping[str, Any]], Callable[..., Any]] | None = None

    @property
    def node(self) -> "Known":
        """The node alone, for the ledgers of a study's runs: each has heads and a contract of its own."""
        return Known(rpc=self.rpc, execute=self.execute)


NOTHING = Known()


def compare(known: Known, domain: Domain, heads: Mapping[bytes, str], last: Sequence[bytes]) -> Iterator[Told]:
    """Hold what the auditor pinned against what the evidence says.

    Args:
        heads: each head that the ledger ever had -> what it is that of.
        last: the newest ones.
    """
    if known.contract is not None:
        yield Count("pinned")
        if known.contract != domain.contract:
            message = "the ledger belongs to another contract than the one that was asked for"
            yield finding("chain", "contract", known.contract, domain.contract, message)
    if known.head is not None:
        yield Count("pinned")
        if known.head not in heads:
            message = "the ledger never had the head that was asked for"
            yield finding("chain", "head", known.head, last[-1] if last else None, message)
        elif known.head not in last:
            yield Note(f"the head that was asked for is that of {heads[known.head]}; the ledger went on since")
