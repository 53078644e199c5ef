"""Privacy budgets: the annex of every round names mechanism and budget, and no update beyond it is taken.

Whatever a hospital signs with an update says both again, and what it has spent so far, in whole samples: see
`engine/privacy/dpsgd.py`. Both digests hold budget and samples as integers, so a round, its annex and one update are enough to show a
contract that a budget was exceeded (`Budget.sol`), by which anybody voids the round.

    annex         keccak256(abi.encode(bytes32 SHA-256 of the terms as canonical JSON, uint64[2] budget))
    signed        keccak256(abi.encode(bytes32 SHA-256 of the record as canonical JSON, uint64[2] spent))
"""

from collections.abc import Mapping
from typing import Any

from engine.encoding import hexed, json_hash, keccak
from engine.errors import LedgerError
from engine.ledger.format import PRIVACY_TERMS, ZERO
from engine.ledger.typed import word


def terms_digest(record: Mapping[str, Any] | None) -> bytes:
    """What the annex names, 32 bytes: of mechanism and budget; zero without a mechanism that keeps an account."""
    if record is None:
        return ZERO
    return keccak(_plain_terms(record) + _words(_pair(record.get("budget"))))


def said_digest(record: Mapping[str, Any]) -> bytes:
    """What an update signs of its record, 32 bytes; one that keeps no such account has spent 0."""
    return keccak(json_hash(dict(record)) + _words(_pair(record.get("spent"))))


def account(record: Mapping[str, Any], terms: Mapping[str, Any]) -> tuple[bytes, list[int], bytes, list[int]]:
    """What a record has spent, of the mechanism and budget that another one speaks of, as the contract's `Budget.Account`."""
    spent, budget = _pair(record.get("spent")), _pair(terms.get("budget"))
    return _plain_terms(terms), budget, json_hash(dict(record)), spent


def _plain_terms(record: Mapping[str, Any]) -> bytes:
    return json_hash({name: record[name] for name in PRIVACY_TERMS if name in record})


def _pair(value: Any) -> list[int]:
    """Two numbers as a contract holds them; zeros for anything else."""
    right = isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 <= n < 1 << 64 for n in value)
    return value if right else [0, 0]


def _words(numbers: list[int]) -> bytes:
    return b"".join(map(word, numbers))


def require_spent(where: str, record: Mapping[str, Any] | None, named: bytes) -> None:
    """Refuse an update.

    Args:
        where: its place, for the message.
        record: what it says of privacy.
        named: in the annex of its round; zero where no account is kept.

    Raises:
        LedgerError: it speaks of another mechanism or budget, or has spent more.
    """
    if named == ZERO:
        return
    found = terms_digest(record)
    if found != named:
        raise LedgerError(f"{where}: the update has privacy terms {hexed(found)}, the run's are {hexed(named)}")
    assert record is not None
    spent, budget = record.get("spent"), record["budget"]
    if not (
        isinstance(spent, list) and len(spent) == len(budget) == 2 and all(type(n) is int and n >= 0 for n in spent)
    ):
        raise LedgerError(f"{where}: the update does not say what privacy it has spent")
    if sum(spent) > sum(budget) or spent[1] > budget[1]:
        raise LedgerError(f"{where}: the update has spent {spent} noised samples, beyond the privacy budget {budget}")
