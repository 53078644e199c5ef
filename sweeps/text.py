"""Values as words, the same in tables, pages and progress."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.own.reference import titled


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
    return "–" if value is None else titled(value)


def settings(keys: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """What is tuned or set, by the last part of each dotted key.

    >>> settings({"federation.learning_rate": 0.1, "federation.mu": 1})
    'learning_rate=0.1 mu=1'
    """
    left_out = set(without)
    return " ".join(f"{key.rsplit('.', 1)[-1]}={short(value)}" for key, value in keys.items() if key not in left_out)


def spoken(text: str, unit: str) -> str:
    """Text that speaks of beats, in the word of the data that it is about.

    >>> spoken("no method beats being alone on the test beats", "visits")
    'no method beats being alone on the test visits'
    """
    return re.sub(r"\b(test|validation|train|other|all|on which|The) beats\b", lambda found: f"{found[1]} {unit}", text)


def listed(words: Iterable[object], most: int = 20) -> str:
    """Words in a row, "and" before the last.

    >>> listed([0, 1, 3]), listed(["x"]), listed(range(5), most=3)
    ('0, 1 and 3', 'x', '0, 1, 2 and 2 more')
    """
    every = [str(word) for word in words]
    if len(every) > most:
        every = [*every[:most], f"{len(every) - most} more"]
    return " and ".join(filter(None, (", ".join(every[:-1]), *every[-1:])))


def signed(value: float) -> str:
    """A difference of scores; one that is nothing at all has no sign.

    >>> signed(0.01234), signed(-0.5), signed(0.0)
    ('+0.012', '-0.500', '0.000')
    """
    return f"{value:+.3f}" if value else "0.000"


def megabytes(count: float) -> str:
    """Bytes in a unit that fits.

    >>> megabytes(512), megabytes(1_450_000), megabytes(2.5e9)
    ('0.001 MB', '1.4 MB', '2,500 MB')
    """
    value = count / 1e6
    return f"{value:,.0f} MB" if value >= 100 else f"{value:.1f} MB" if value >= 1 else f"{value:.3f} MB"


def plain_name(text: str) -> str:
    """Of letters, digits, blanks, dashes and points alone, as names of MLflow's metrics are.

    >>> plain_name("hospitals=4, skew=record-dirichlet 0.1"), plain_name("FedAvg + fine-tuning")
    ('hospitals 4 skew record-dirichlet 0.1', 'FedAvg fine-tuning')
    """
    return re.sub(r"[^\w.-]+", " ", text).strip() or "-"


def leads_read(leads: Mapping[str, Sequence[str]]) -> str:
    """Which leads were read of how many records, the commonest first; the records of the others are named.

    >>> leads_read({"V5": ["102"], "MLII + V1": ["100", "101"]})
    'MLII + V1 2, V5 1 (102)'
    """
    ordered = sorted(leads.items(), key=lambda lead: -len(lead[1]))
    named = ((name, who, f" ({' '.join(who)})" if i and len(who) <= 8 else "") for i, (name, who) in enumerate(ordered))
    return ", ".join(f"{name} {len(who)}{these}" for name, who, these in named)
