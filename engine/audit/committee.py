"""Committees: who sat follows from the models, verdicts follow from scores, and judges committed before any score was told.

A check of each round of a run whose configuration has judges; in any other no committee may have sat.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.audit import selection, spec
from engine.audit.case import Case, Round
from engine.audit.records import check_signature
from engine.audit.report import Count, Told, finding
from engine.audit.sittings import Sitting, Vote, seated
from engine.ledger.format import COMMITTEE


def check(case: Case) -> Iterator[Told]:
    """Check every round, and what the result says of it."""
    settings = case.config.get("committee")
    settings = settings if isinstance(settings, Mapping) else {}
    method = settings.get("method", "none")
    rows = _reported(case)
    for number, entry in sorted(case.rounds.items()):
        named = entry.digests.get(COMMITTEE, spec.ZERO)
        if method == "none" and case.config:
            if entry.sitting is not None or entry.votes or named != spec.ZERO or number in rows:
                message = "a committee has judged a round, but the configuration has none"
                yield finding("committee", "method", "none", "a committee", message, round=number)
            continue
        if entry.sitting is None:
            if method != "none":
                message = "no committee has judged the round"
                yield finding("committee", "sitting", "what its judges said", None, message, round=number)
            continue
        yield Count("committees")
        yield from _check_sitting(number, entry, entry.sitting, settings)
        yield from _check_members(case, number, entry.sitting, settings)
        yield from _check_votes(case, number, entry, entry.sitting)
        yield from _check_shown(case, number, entry.sitting)
        if case.reported and case.finished:
            yield from _check_row(number, entry.sitting, rows.get(number))


def _check_sitting(number: int, entry: Round, sitting: Sitting, settings: Mapping[str, Any]) -> Iterator[Told]:
    percent = settings.get("percent", sitting.percent)
    leads = settings.get("leader") is True
    for name, expected, found in (
        ("round", number, sitting.round),
        ("percent", percent, sitting.percent),
        ("own", settings.get("own") if leads else 0, sitting.own),
        ("cap", settings.get("cap") if leads else 0, sitting.cap),
        ("trainers", sorted(entry.updates), list(sitting.trainers)),
    ):
        if expected != found:
            message = f"{name} of what the committee said is not that of the round"
            yield finding("committee", name, expected, found, message, round=number)
    if both := {*sitting.judges} & {*sitting.absent}:
        message = "a judge is absent and there"
        yield finding("committee", "absent", "one of them", sorted(both), message, round=number)
    named = entry.digests.get(COMMITTEE, spec.ZERO)
    if named != sitting.digest:
        message = "what the committee said is not what the head of the round commits to"
        yield finding("annex", COMMITTEE, sitting.digest, named, message, round=number)


def _check_members(case: Case, number: int, sitting: Sitting, settings: Mapping[str, Any]) -> Iterator[Told]:
    """Those judged who were to judge, and nobody trained who sat in a drawn committee."""
    validating = _validating(case)
    if not validating:
        return  # a run that has no result yet, which says who can judge
    expected: list[int] = []
    if settings.get("method") == "others":
        expected = [slot for slot in sitting.trainers if slot in validating] if len(sitting.trainers) > 1 else []
    else:
        trainers, _, _ = selection.schedule_of(case)
        before = case.rounds[number - 1].sitting if number - 1 in case.rounds else None
        size, election = settings.get("size"), str(settings.get("election"))
        if not trainers or type(size) is not int:
            return
        candidates = [slot for slot in trainers if slot in validating]
        expected = seated(case.rounds[number].parent_model, number, candidates, size, election, before)
    if sitting.members != expected:
        message = "others judged than those who were to"
        yield finding("committee", "members", expected, sitting.members, message, round=number)
    if settings.get("method") == "drawn" and (both := {*expected} & {*sitting.trainers}):
        message = "a judge of a drawn committee has trained in its round"
        yield finding("committee", "trainers", sorted(sitting.trainers), sorted(both), message, round=number)


def _check_votes(case: Case, number: int, entry: Round, sitting: Sitting) -> Iterator[Told]:
    """Every member has one row; shares are those of the scores; each judge has signed both, over everybody's commitments."""
    if sorted(entry.votes) != sitting.members:
        message = "the votes are not those of the members of the committee"
        yield finding("committee", "votes", sitting.members, sorted(entry.votes), message, round=number)
    committed = {slot: vote.commitment for slot, vote in entry.votes.items() if vote.commitment}
    shown = spec.json_hash([[slot, "0x" + one.hex()] for slot, one in sorted(committed.items())])
    given: list[int | None] = []
    for slot, vote in sorted(entry.votes.items()):
        where = {"round": number, "hospital": slot}
        if slot not in case.federation.slots:
            continue  # told when it was read
        signer = {"federation": case.federation.id, "round": number, "slot": slot, "parentHead": case.head(number - 1)}
        if vote.commitment:
            yield Count("commitments")
            digest = spec.typed_digest("ScoreCommitment", {**signer, "commitment": vote.commitment}, case.domain)
            yield from check_signature(
                digest, vote.committed, case.holder(slot, number), "committee", "committed", where
            )
        if vote.totals is None:
            if slot in sitting.judges:
                message = "the judge gave no scores, but counts as one that did"
                yield finding("committee", "scores", "scores", None, message, **where)
            continue
        if slot in sitting.absent:
            message = "the judge gave scores, but counts as absent"
            yield finding("committee", "absent", "a judge", "absent", message, **where)
            continue
        said = _said(entry, vote)
        if spec.keccak256(vote.salt + said) != vote.commitment:
            message = "the scores are not those that the judge had committed to"
            yield finding(
                "committee", "commitment", vote.commitment, spec.keccak256(vote.salt + said), message, **where
            )
        digest = spec.typed_digest("RevealedScores", {**signer, "commitments": shown, "scores": said}, case.domain)
        yield from check_signature(digest, vote.signature, case.holder(slot, number), "committee", "signature", where)
        given += vote.shares(slot, sitting.trainers, sitting.own > 0)
    if tuple(given) != sitting.shares:
        message = "the shares are not those of the scores that judges gave"
        yield finding("committee", "shares", given, list(sitting.shares), message, round=number)


def _said(entry: Round, vote: Vote) -> bytes:
    rows: list[Any] = []
    for slot, right in sorted(vote.correct.items()):
        update = entry.updates.get(slot)
        digest = spec.ZERO if update is None or update.record is None else update.record["update"]
        rows.append([slot, "0x" + digest.hex(), list(right)])
    return spec.json_hash([list(vote.totals or ()), rows]) or spec.ZERO


def _check_shown(case: Case, number: int, sitting: Sitting) -> Iterator[Told]:
    """The contract has judged the round once, by what its committee said."""
    shown = [t for t in case.transactions if t.purpose == "judge" and t.round == number and case.taken(t)]
    # the last round of a run that stopped may have been sealed before its committee was shown
    if len(shown) != 1 and (case.finished or number < case.last or shown):
        message = "what the committee said must have been shown to the contract once"
        yield finding("committee", "transaction", 1, len(shown), message, round=number)
    for transaction in shown:
        given = transaction.arguments.get("sitting")
        given = given if isinstance(given, Mapping) else {}
        for name in ("round", "percent", "classes", "own", "cap", "judges", "absent", "trainers", "shares"):
            expected = sitting.words if name == "shares" else getattr(sitting, name)
            found = given.get(name)
            if _plain(found) != _plain(expected):
                message = f"{name} that the contract was shown is not what the committee said"
                yield finding("committee", name, expected, found, message, round=number)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _check_row(number: int, sitting: Sitting, row: Any) -> Iterator[Told]:
    """What the result says of the committee of a round."""
    good, leads = sitting.qualified, sitting.leader
    expected = {
        "judges": sitting.members,
        "absent": list(sitting.absent),
        "verdicts": [{"hospital": s, "score": score, "qualified": s in good} for s, score in sitting.scores.items()],
        **({} if leads is None else {"leader": leads}),
    }
    if row != expected:
        message = "what the result says of the committee is not what its judges said"
        yield finding("result", f"rounds.{number}.committee", expected, row, message, round=number)


def _reported(case: Case) -> dict[int, Any]:
    rows: Any = case.reported.get("rounds")
    found = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and type(row.get("round")) is int and "committee" in row:
            found[row["round"]] = row["committee"]
    return found


def _validating(case: Case) -> Sequence[int]:
    """Slots of the hospitals that have validation beats."""
    cohort: Any = case.reported.get("cohort")
    rows = cohort.get("hospitals") if isinstance(cohort, Mapping) else None
    found = []
    for slot, row in enumerate(rows if isinstance(rows, list) else ()):
        if isinstance(row, Mapping) and type(row.get("validation")) is int and row["validation"] > 0:
            found.append(slot)
    return found
