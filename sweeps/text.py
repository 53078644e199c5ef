"""Values as words, the same in tables, pages and progress."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def first_line(problem: object) -> str:
    """The first line of a message, cut to what fits into a sentence; of an exception without one, its kind."""
    lines = str(problem).strip().splitlines()
    return lines[0][:300] if lines else type(problem).__name__


def short(value: Any) -> str:
    """A value in three digits.

    >>> [short(value) for value in (0.12345, 4200.0, "fedavg", None)]
    ['0.123', '4,200', 'fedavg', '–']
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)


def settings(keys: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """What is tuned or set, by the last part of each dotted key.

    >>> settings({"federation.learning_rate": 0.1, "federation.mu": 1})
    'learning_rate=0.1 mu=1'
    """
    left_out = set(without)
    return " ".join(f"{key.rsplit('.', 1)[-1]}={short(value)}" for key, value in keys.items() if key not in left_out)


def leads_read(leads: Mapping[str, Sequence[str]]) -> str:
    """Which leads were read of how many records, the commonest first; the records of the others are named.

    >>> leads_read({"V5": ["102"], "MLII + V1": ["100", "101"]})
    'MLII + V1 2, V5 1 (102)'
    """
    ordered = sorted(leads.items(), key=lambda lead: -len(lead[1]))
    named = ((name, who, f" ({' '.join(who)})" if i and len(who) <= 8 else "") for i, (name, who) in enumerate(ordered))
    return ", ".join(f"{name} {len(who)}{these}" for name, who, these in named)
