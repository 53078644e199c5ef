"""From a committee's work in the loop to what is written down of it."""

from collections.abc import Sequence

from engine.committee.quality import leader
from engine.committee.verdicts import qualified, scores
from engine.encoding import canonical_json
from engine.ledger.format import COMMITTEE
from engine.ledger.store import Rows
from engine.ledger.subjects import reputation
from engine.ledger.subjects.committee import Said, said_from
from engine.messages import Sitting, Update, Vote


def said_of(round: int, sitting: Sitting) -> Said | None:
    """A committee's work in a round; None where none sat."""
    if not sitting.scores:
        return None
    judges, trainers = tuple(sorted(sitting.columns)), tuple(sorted(sitting.scores))
    rows = [sitting.columns[judge][trainer] for judge in judges for trainer in trainers]
    absent = tuple(judge for judge in sitting.members if judge not in sitting.columns)
    shares = tuple(share for row in rows for share in row)
    return Said(round, sitting.percent, len(rows[0]) if rows else 0, *sitting.claims, judges, absent, trainers, shares)


def rows(round: int, sitting: Sitting) -> Rows:
    """As the journal holds a committee's work."""
    said = said_of(round, sitting)
    if said is None:
        return {}
    return {
        "sittings": [(round, said.text())],
        "votes": [(round, judge, *_vote(sitting, judge)) for judge in sitting.members],
    }


def _vote(sitting: Sitting, judge: int) -> tuple[bytes, bytes, bytes, str, bytes]:
    """Commitment and its signature, salt, scores, signature; empty for what a judge did not give."""
    committed, vote = sitting.commitments.get(judge), sitting.votes.get(judge, Vote((), {}))
    scores = canonical_json([list(vote.totals), [[slot, list(right)] for slot, right in sorted(vote.correct.items())]])
    digest, signature = (b"", b"") if committed is None else committed
    return digest, signature, vote.salt, scores if vote.totals else "", vote.signature


def digests(round: int, sitting: Sitting) -> dict[str, bytes]:
    """What a round's annex names of its committee."""
    said = said_of(round, sitting)
    return {} if said is None else {COMMITTEE: said.digest}


def good_of(said: Said) -> frozenset[int]:
    """Hospitals whose updates qualify, by what their committee said."""
    return qualified(scores(said.columns, said.trainers), said.percent, said.absent)


def leader_of(text: str) -> int | None:
    """The hospital that leads a round by what is written down of its committee; None where nobody does."""
    said = said_from(text) if text else None
    return None if said is None else leader(said.columns, good_of(said), said.own, said.cap)


def counted(updates: Sequence[Update], said: Said) -> list[Update]:
    """The updates that went into the model of a gated round, by what its committee said."""
    good = good_of(said)
    return [update for update in updates if update.hospital in good]


def verdicts(sitting: Sitting, before: reputation.Standing) -> reputation.Judged:
    """Verdicts on the hospitals of a round, from which reputations follow; a judge that owes scores has a bad one."""
    absent = tuple(judge for judge in sitting.members if judge not in sitting.columns)
    accepted = {hospital: hospital in sitting.qualified for hospital in sitting.scores} | dict.fromkeys(absent, False)
    return reputation.Judged(reputation.words(accepted, before.threshold(sorted(accepted))))
