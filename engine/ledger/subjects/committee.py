"""What the committee of a round said: commitments and scores that judges sign, and the sitting under the annex of the round.

A judge signs a commitment to its scores, and with the scores themselves everybody's commitments: whoever reveals has seen that
the others' scores were fixed. The verdicts that follow are in `engine/committee/verdicts.py` and in the CommitteeLedger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.encoding import canonical_json, hexed, json_hash, keccak, read_json
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data, deploy_data
from engine.ledger.format import COMMITTEE, NO_SHARE, WORD, ZERO
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.trees import annex_path
from engine.ledger.typed import U32, U64, Bytes32, Record, word


@dataclass(frozen=True)
class ScoreCommitment(Record):
    """What a judge signs before any score of the round is told.

    Attributes:
        slot: of the judge.
        parent_head: head after the round before.
        commitment: Keccak-256 of a salt and of the digest of its scores.
    """

    federation: Bytes32
    round: U64
    slot: U32
    parent_head: Bytes32
    commitment: Bytes32


@dataclass(frozen=True)
class RevealedScores(Record):
    """What a judge signs with its scores.

    Attributes:
        commitments: digest of everybody's, see `commitments_digest`.
        scores: digest of its own, see `said_digest`.
    """

    federation: Bytes32
    round: U64
    slot: U32
    parent_head: Bytes32
    commitments: Bytes32
    scores: Bytes32


def said_digest(totals: Sequence[int], said: Mapping[int, tuple[bytes, Sequence[int]]]) -> bytes:
    """Digest of a judge's scores: its beats of each class; of each update its slot, hash and right predictions."""
    return json_hash(
        [list(totals), [[slot, hexed(update), list(right)] for slot, (update, right) in sorted(said.items())]]
    )


def commitment_of(salt: bytes, said: bytes) -> bytes:
    """What a judge commits to, 32 bytes."""
    return keccak(salt + said)


def commitments_digest(commitments: Mapping[int, bytes]) -> bytes:
    """Digest of all commitments of a round, by judge."""
    return json_hash([[slot, hexed(one)] for slot, one in sorted(commitments.items())])


class Said(NamedTuple):
    """A sitting as the CommitteeLedger takes it; shares in parts of 10,000 by judge, trainer and class, None where there is none.

    Attributes:
        own, cap: per cent that a hospital's claim of its own update weighs in who leads, and how far from the others it counts; 0 where
            nobody leads.
        judges, absent: who revealed scores, and who owed them.
    """

    round: int
    percent: int
    classes: int
    own: int
    cap: int
    judges: tuple[int, ...]
    absent: tuple[int, ...]
    trainers: tuple[int, ...]
    shares: tuple[int | None, ...]

    @property
    def words(self) -> tuple[bytes, ...]:
        """The shares, 16 in a word of 32 bytes, the first in the lowest bits."""
        lanes = [NO_SHARE if share is None else share for share in self.shares]
        rows = (lanes[start : start + WORD] for start in range(0, len(lanes), WORD))
        return tuple(word(sum(lane << 16 * i for i, lane in enumerate(row))) for row in rows)

    @property
    def digest(self) -> bytes:
        """As the annex of the round names it."""
        sizes = (len(self.judges), len(self.absent), len(self.trainers))
        head = (
            self.round,
            self.percent,
            self.classes,
            self.own,
            self.cap,
            *sizes,
            *self.judges,
            *self.absent,
            *self.trainers,
        )
        return keccak(b"".join(map(word, head)) + b"".join(self.words))

    @property
    def abi(self) -> tuple[Any, ...]:
        """As an argument of the contract."""
        return (*self[:-1], self.words)

    @property
    def columns(self) -> dict[int, dict[int, tuple[int | None, ...]]]:
        """Judge -> hospital of the update -> share of each class."""
        rows = [self.shares[i : i + self.classes] for i in range(0, len(self.shares), max(self.classes, 1))]
        many = len(self.trainers)
        return {
            judge: dict(zip(self.trainers, rows[i * many : (i + 1) * many], strict=True))
            for i, judge in enumerate(self.judges)
        }

    def text(self) -> str:
        """As a row of the journal holds it."""
        return canonical_json(self._asdict())


def said_from(text: str) -> Said:
    """Read what `Said.text` wrote.

    Raises:
        LedgerError: it is damaged.
    """
    try:
        values = read_json(text)
        lists = {name: tuple(values[name]) for name in ("judges", "absent", "trainers", "shares")}
        return Said(**{**values, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(f"what is written down of a committee is damaged ({error})") from None


class Committees:
    """Sittings of an open federation."""

    def __init__(self, book: Book, registry: Registry, rounds: Rounds) -> None:
        self._book, self._federation, self._rounds = book, registry.federation, rounds

    @property
    def contract(self) -> str:
        """Address of the CommitteeLedger; deployed when first asked for."""
        data = deploy_data(self._book.domain.contract, contract="CommitteeLedger")
        return self._book.deploy("deploy-committee", data)

    def sitting(self, round: int) -> str:
        """What is written down of the committee of a round; "" where none sat."""
        return next((row["sitting"] for row in self._book.store.rows("sittings", round=round)), "")

    def judge(self, round: int) -> None:
        """Have the contract judge a sealed round.

        Raises:
            LedgerError: no committee sat, or the contract refuses.
        """
        said = said_from(self.sitting(round))
        found = self._rounds.digests(round)
        arguments = (self._federation.id, self._rounds.sealed(round).abi, said.abi, annex_path(found, COMMITTEE))
        data = call_data("judgeRound", *arguments, contract="CommitteeLedger")
        self._book.send(Call("judge", round, self.contract, data))


def require_said(
    round: int, text: str, named: Mapping[str, bytes], percent: int, claims: tuple[int, int] = (0, 0)
) -> Said:
    """What a committee said, as a hospital is shown it.

    Args:
        named: digests of the round that its head commits to.
        percent, claims: as the configuration has them.

    Raises:
        LedgerError: it is not what the head commits to.
    """
    said = said_from(text)
    if said.digest != named.get(COMMITTEE, ZERO) or (said.round, said.percent, said.own, said.cap) != (
        round,
        percent,
        *claims,
    ):
        raise LedgerError(f"round {round}: what is shown of its committee is not what the head commits to")
    return said
