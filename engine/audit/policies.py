"""Whom to ask, computed a second time from what hospitals signed: the policies of `engine/schedule/policies.py`, to the last bit.

Of hospital h before round R, m of K being wanted: t its updates so far, l the round of the last (0 without), b and w the beats and
the wrong predictions of the last of its confusion matrices, q and j its updates that qualified and that were judged; e = w / b,
or the mean e of those that have beats where it has none, 1 where none has. The gain of a round is that of the mean recall over
all matrices, none in the first, 0 for a loss, divided by the largest; g is the sum over the rounds of h.

    floor            first those with t < floor * m * (R - 1) / K, by t; then, of the others:
    round-robin      smallest l, then smallest t
    power-of-choice  min(2m, K) drawn; of these the largest e
    oort             ceil(max(0.2, 0.9 * 0.98^(R - 1)) * m) drawn of those with t = 0; then the largest min(u, c) / c
                     + sqrt(0.1 ln R / max(l, 1)), u = b sqrt(e), c the entry floor(0.95 (K - 1)) of all u in order
    ucb              infinity where t = 0, else the largest g / t + sqrt(2 ln R / t)
    thompson         the largest draw of Beta(1 + q, 1 + j - q), drawn by ascending h
    reputation       drawn without replacement with weights (1 + q) / (2 + j)

Ties go to the lower slot.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.audit.case import Case, Matrix
from engine.audit.draws import drawn, stream

Draw = np.random.Generator


@dataclass
class Known:
    """Of one hospital, as above."""

    t: int = 0
    l: int = 0  # noqa: E741
    b: int = 0
    w: int = 0
    q: int = 0
    j: int = 0
    g: float = 0.0
    e: float = 1.0


def untold(case: Case) -> str:
    """Why nobody can say whom the run's policy asked; empty where it needs no facts, or all are signed."""
    policy, floor = (_setting(case, key) for key in ("policy", "floor"))
    signed = case.closed and not (case.closing is not None and case.closing.missing)
    if policy not in NAMES or (signed and isinstance(floor, int | float)):
        return ""
    return f"who was asked by policy {policy} was not computed again: not every hospital has signed what it measured"


def asked(case: Case, seed: int, number: int, free: Sequence[int], wanted: int) -> set[int]:
    """Whom the policy of the run asks in a round, of those who may be: all where they are not more than are wanted."""
    policy, draw = _setting(case, "policy"), stream(seed, b"participation", number)
    if wanted >= len(free):
        return {*free}
    if policy in NAMES:
        return chosen(policy, known(case, free, number), number, wanted, _setting(case, "floor"), draw)
    return drawn(free, wanted, draw)


def _setting(case: Case, key: str) -> Any:
    section = case.config.get("selection")
    return section.get(key) if isinstance(section, Mapping) else None


def known(case: Case, slots: Sequence[int], number: int) -> dict[int, Known]:
    """What was known of these hospitals before a round."""
    found = {slot: Known() for slot in slots}
    tables: dict[int, dict[int, Matrix]] = {n: {} for n in range(1, number)}
    for slot, result in sorted(case.results.items()):
        for round, table in result.content.curve.items() if result.content is not None else ():
            if round < number:
                tables[round][slot] = table
    recalls = [_recall(list(tables[n].values())) for n in range(1, number)]
    rises = [max(b - a, 0.0) for a, b in zip([*recalls[:1], *recalls], recalls, strict=False)]
    top = max([0.0, *rises])
    for n in range(1, number):
        entry = case.rounds[n]
        for slot in found.keys() & entry.updates.keys():
            found[slot].t += 1
            found[slot].l = n
            found[slot].g += rises[n - 1] / top if top else 0.0
        for slot in found.keys() & tables[n].keys():
            table = tables[n][slot]
            found[slot].b = sum(map(sum, table))
            found[slot].w = found[slot].b - sum(row[i] for i, row in enumerate(table))
        if entry.sitting is not None:
            for slot in found.keys() & {*entry.sitting.trainers}:
                found[slot].q += slot in entry.sitting.qualified
                found[slot].j += 1
    return found


def _recall(tables: Sequence[Matrix]) -> float:
    if not tables:
        return 0.0
    total, classes = 0.0, 0
    for i in range(len(tables[0])):
        beats = sum(sum(table[i]) for table in tables)
        if beats:
            total += sum(table[i][i] for table in tables) / beats
            classes += 1
    return total / classes if classes else 0.0


def chosen(policy: str, facts: Mapping[int, Known], number: int, wanted: int, floor: float, draw: Draw) -> set[int]:
    """Who is asked."""
    least = floor * wanted * (number - 1) / len(facts)
    late = sorted((known.t, slot) for slot, known in facts.items() if known.t < least)
    first = [slot for _, slot in late[:wanted]]
    rest = {slot: facts[slot] for slot in sorted(facts) if slot not in first}
    if len(first) == wanted:
        return {*first}
    _fill(rest)
    return {*first, *_POLICIES[policy](rest, number, wanted - len(first), draw)}


def _fill(facts: Mapping[int, Known]) -> None:
    """Set every e."""
    total, told = 0.0, 0
    for one in facts.values():
        if one.b:
            total += one.w / one.b
            told += 1
    for one in facts.values():
        one.e = one.w / one.b if one.b else total / told if told else 1.0


def _top(values: Mapping[int, float], many: int) -> list[int]:
    return [slot for _, slot in sorted((-value, slot) for slot, value in values.items())[:many]]


def _turns(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    return [slot for _, _, slot in sorted((one.l, one.t, slot) for slot, one in facts.items())[:many]]


def _power(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    return _top({slot: facts[slot].e for slot in drawn([*facts], min(2 * many, len(facts)), draw)}, many)


def _oort(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    new = [slot for slot, one in facts.items() if one.t == 0]
    explore = min(len(new), math.ceil(max(0.2, 0.9 * 0.98 ** (number - 1)) * many))
    first = [int(slot) for slot in draw.choice(np.array(new), explore, replace=False)] if explore else []
    u = {slot: one.b * math.sqrt(one.e) for slot, one in facts.items()}
    c = sorted(u.values())[int(0.95 * (len(u) - 1))]
    values = {
        slot: (min(u[slot], c) / c if c else 0.0) + math.sqrt(0.1 * math.log(number) / max(one.l, 1))
        for slot, one in facts.items()
        if slot not in first
    }
    return first + _top(values, many - len(first))


def _ucb(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    log = 2 * math.log(number)
    return _top({s: one.g / one.t + math.sqrt(log / one.t) if one.t else math.inf for s, one in facts.items()}, many)


def _thompson(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    return _top({slot: float(draw.beta(1 + one.q, 1 + one.j - one.q)) for slot, one in facts.items()}, many)


def _reputation(facts: Mapping[int, Known], number: int, many: int, draw: Draw) -> list[int]:
    weights = np.array([(1 + one.q) / (2 + one.j) for one in facts.values()])
    return [int(s) for s in draw.choice(np.array([*facts]), many, replace=False, p=weights / weights.sum())]


_POLICIES: Mapping[str, Callable[[Mapping[int, Known], int, int, Draw], list[int]]] = {
    "round-robin": _turns,
    "power-of-choice": _power,
    "oort": _oort,
    "ucb": _ucb,
    "thompson": _thompson,
    "reputation": _reputation,
}
NAMES = tuple(_POLICIES)
