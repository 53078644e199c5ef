"""A committee at work: all commit to their scores, then all reveal them, then verdicts follow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.committee.config import CommitteeConfig
from engine.committee.quality import leader
from engine.committee.verdicts import column, qualified, scores
from engine.errors import HospitalError
from engine.messages import Asked, Column, Commitment, Judged, Pool, Sitting, Taken, Vote


@dataclass(frozen=True)
class Committee:
    """Judges of a round's updates, which are frozen by then.

    A judge reveals its scores only to a list of everybody's commitments, and signs that list with them: none can have known
    another's scores before its own were fixed. Who fails to commit or to reveal is absent.

    Attributes:
        candidates: ids of hospitals that have validation beats.
        notice: what a ledger tells those who are asked.
    """

    pool: Pool
    config: CommitteeConfig
    candidates: Sequence[int]
    notice: Callable[[Asked], Any]

    def __call__(self, asked: Asked, taken: Taken) -> Judged:
        """As the protocol says."""
        present = tuple(update.hospital for update in taken.updates)
        members = asked.judges or tuple(h for h in present if h in self.candidates and len(present) > 1)
        committed: Mapping[int, Commitment] = {}
        votes: dict[int, Vote] = {}
        if members:
            told = self.notice(Asked(asked.round, members, asked.params, asked.model))
            answers = zip(members, self.pool.commit(asked, taken.updates, told, members), strict=True)
            committed = {judge: one for judge, one in answers if not isinstance(one, HospitalError)}
            opened = self.pool.reveal(asked, taken.updates, committed, told, tuple(committed)) if committed else ()
            votes = {
                judge: one for judge, one in zip(committed, opened, strict=True) if not isinstance(one, HospitalError)
            }
        columns: dict[int, Column] = {}
        for judge, vote in votes.items():
            try:
                columns[judge] = column(judge, vote, present, self.config.leader)
            except ValueError:
                continue  # a judge that says what cannot be has said nothing
        found = scores(columns, present)
        absent = tuple(judge for judge in members if judge not in columns)
        good = qualified(found, self.config.percent, absent)
        kept = {judge: votes[judge] for judge in columns}
        claims = self.config.claims
        leads = leader(columns, good, *claims)
        sitting = Sitting(members, committed, kept, columns, found, good, self.config.percent, claims, leads)
        return Judged({}, {}, sitting, frozenset(present) - good if self.config.gate else frozenset())
