"""Who was asked in a round: drawn again from the seed, and held against whose updates are there."""

from collections.abc import Iterator, Mapping
from typing import Any

from engine.audit import policies
from engine.audit.case import Case, Round
from engine.audit.draws import drawn, stream
from engine.audit.report import Count, Note, Told, finding


def check(case: Case) -> Iterator[Told]:
    """Check each round of a run whose configuration and cohort say who could be asked."""
    trainers, per_round, seed = schedule_of(case)
    section = case.config.get("clock")
    if not trainers or (isinstance(section, Mapping) and section.get("fleet") != "none"):
        return  # on the virtual clock, who is asked follows from who is free: see clock.py
    lost = _lost(case)
    if words := policies.untold(case):
        yield Note(words, unchecked=True)
        return
    for number, entry in sorted(case.rounds.items()):
        yield Count("selections")
        judges = _judges(case, entry)
        free = [slot for slot in trainers if slot not in judges]
        asked = policies.asked(case, seed, number, free, per_round)
        for slot in sorted(entry.updates.keys() - asked):
            message = "the hospital sent an update in a round for which it was not drawn"
            yield finding("round", "selection", sorted(asked), slot, message, round=number, hospital=slot)
        absent = sorted(asked - entry.updates.keys())
        if len(absent) > lost.get(number, 0):
            message = "hospitals that were drawn for the round sent no update, and it does not say that they were lost"
            yield finding("round", "selection", absent, lost.get(number, 0), message, round=number)
        elif absent:
            who = ", ".join(map(str, absent))
            yield Note(
                f"round {number}: that hospitals {who} were lost is the coordinator's word; a receipt of one shows it"
            )


def hostile(config: Mapping[str, Any]) -> set[int]:
    """Hospitals that play attackers in a run of this configuration: those that it names, or the share that its seed draws."""
    attack, seed, cohort = config.get("attack"), config.get("seed"), config.get("cohort")
    if not isinstance(attack, Mapping) or attack.get("method") in (None, "none") or type(seed) is not int or seed < 0:
        return set()
    named, share = attack.get("hospitals"), attack.get("share")
    if isinstance(named, list):
        return {slot for slot in named if type(slot) is int}
    hospitals = cohort.get("hospitals") if isinstance(cohort, Mapping) else None
    if (
        not isinstance(share, int | float)
        or not 0 <= share < 1
        or type(hospitals) is not int
        or not 0 < hospitals < 10**6
    ):
        return set()
    return drawn(range(hospitals), round(share * hospitals), stream(seed, b"attack"))


def schedule_of(case: Case, told: Any = None) -> tuple[list[int], int, int]:
    """Who may be asked, how many in a round, and the seed; nobody where that is not said.

    Args:
        told: rows of the cohort for a run that reports none.
    """
    federation, cohort = case.config.get("federation"), case.reported.get("cohort")
    rows = cohort.get("hospitals") if isinstance(cohort, Mapping) else None
    rows = rows or told
    if not isinstance(federation, Mapping) or not isinstance(rows, list):
        return [], 0, 0
    attack: Any = case.config.get("attack")
    out = hostile(case.config) if isinstance(attack, Mapping) and attack.get("method") == "left-out" else ()
    trainers = [
        slot
        for slot, row in enumerate(rows)
        if isinstance(row, Mapping) and row.get("trains") is True and slot not in out
    ]
    if federation.get("algorithm") == "centralised":
        trainers = [len(rows)]  # the imaginary hospital that has everybody's data
    if any("@" in str(_look(case.config, *key)) for key in (("selection", "policy"), ("schedule", "mode"))):
        return [], 0, 0  # a user's own, which is told elsewhere
    share, seed = federation.get("participation"), case.config.get("seed")
    if type(seed) is not int or seed < 0 or not isinstance(share, int | float) or not 0 < share <= 1:
        return [], 0, 0
    return trainers, max(1, round(share * len(trainers))), seed


def _judges(case: Case, entry: Round) -> set[int]:
    """Who does not train, as it sits in the round's committee."""
    drawn = _look(case.config, "committee", "method") == "drawn" and entry.sitting is not None
    return {*entry.sitting.members} if drawn and entry.sitting is not None else set()


def _look(values: Any, section: str, key: str) -> Any:
    found = values.get(section)
    return found.get(key) if isinstance(found, Mapping) else None


def _lost(case: Case) -> dict[int, int]:
    """Round -> hospitals that it says were lost."""
    rows: Any = case.reported.get("rounds")
    found = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("lost"), list) and type(row.get("round")) is int:
            found[row["round"]] = len(row["lost"])
    return found
