"""Privacy budgets: the annex of every round names mechanism and budget, and no update beyond it is taken.

Whatever a hospital signs with an update says both again, and what it has spent so far, in whole samples: see
`engine/privacy/dpsgd.py`. So a round, its annex and one update are enough to show that a budget was exceeded.
"""

from collections.abc import Mapping
from typing import Any

from engine.encoding import hexed, json_hash
from engine.errors import LedgerError
from engine.ledger.format import PRIVACY_TERMS, ZERO


def terms_digest(record: Mapping[str, Any] | None) -> bytes:
    """What the annex names, 32 bytes: of mechanism and budget; zero without a mechanism that keeps an account."""
    if record is None:
        return ZERO
    return json_hash({name: record[name] for name in PRIVACY_TERMS if name in record})


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
