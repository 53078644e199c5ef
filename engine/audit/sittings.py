"""What committees said, read and computed a second time from `contracts/src/CommitteeVerdicts.sol`.

share          floor(10,000 * right / beats) of a class; none where the judge has no beats of it, and, where nobody leads, for its
               own update; 0 for an update that it left out
of a class     the shares that others than the update's hospital gave, in order s_1 <= ... <= s_k: s_ceil(k / 2)
score          floor of the mean of those over the classes with k > 0; 0 if there is none
qualified      score > 0, 100 * score >= percent * best score, and the hospital owes no scores
quality        floor of the mean of a judge's shares of an update, over the classes of which it gave one
claim          an update's quality in its own hospital's eyes, c, between m - cap and m + cap, where q_1 <= ... <= q_k are the
               others' qualities and m = q_ceil(k / 2)
merit          own * c + (100 - own) * floor(mean of q_1 ... q_k)
leader         where own > 0: the qualified update with a claim and k > 0 of the largest merit, of equals the lowest slot
lot            SHA-256("PulseLedger committee 1", model, round as 8 bytes, slot as 4 bytes)
committee      the first `size` of the candidates by (rank, -score with election "score", lot); rank 0 qualified in the round
               before, 1 all others, 2 sat in it, 3 owed scores
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from engine.audit import spec
from engine.audit.records import read_object
from engine.encoding import read_json
from engine.ledger.format import NO_SHARE, SHARE_PARTS, WORD

LISTS = ("judges", "absent", "trainers", "shares")
_SIGNED = ("commitment", "committed", "salt", "signature")


@dataclass(frozen=True)
class Sitting:
    """A row of the sittings: what the CommitteeLedger was shown; `shares` by judge, trainer and class."""

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
    def words(self) -> list[bytes]:
        """The shares as the contract takes them."""
        found = []
        for start in range(0, len(self.shares), WORD):
            number = 0
            for share in reversed(self.shares[start : start + WORD]):
                number = number << 16 | (NO_SHARE if share is None else share)
            found.append(number.to_bytes(32, "big"))
        return found

    @property
    def digest(self) -> bytes:
        """As the annex names it."""
        sizes = [len(self.judges), len(self.absent), len(self.trainers)]
        numbers = [
            self.round,
            self.percent,
            self.classes,
            self.own,
            self.cap,
            *sizes,
            *self.judges,
            *self.absent,
            *self.trainers,
        ]
        return spec.keccak256(spec.words(*numbers) + b"".join(self.words))

    @cached_property
    def scores(self) -> dict[int, int]:
        """Slot of each update -> its score."""
        found = {}
        for position, slot in enumerate(self.trainers):
            middle = []
            for class_ in range(self.classes):
                lanes = range(position * self.classes + class_, len(self.shares), len(self.trainers) * self.classes)
                others = [lane for judge, lane in zip(self.judges, lanes, strict=True) if judge != slot]
                given = sorted(share for lane in others if (share := self.shares[lane]) is not None)
                middle += given[(len(given) + 1) // 2 - 1 : (len(given) + 1) // 2] if given else []
            found[slot] = sum(middle) // len(middle) if middle else 0
        return found

    @property
    def qualified(self) -> set[int]:
        """Slots whose updates are good enough."""
        best = max([0, *self.scores.values()])
        good = {slot for slot, score in self.scores.items() if score and 100 * score >= self.percent * best}
        return good - {*self.absent}

    @property
    def leader(self) -> int | None:
        """Slot of the hospital that leads; None where nobody does."""
        best, found = -1, None
        for slot in sorted(self.qualified) if self.own else ():
            qualities = {judge: self._quality(i, self.trainers.index(slot)) for i, judge in enumerate(self.judges)}
            others = sorted(q for judge, q in qualities.items() if q is not None and judge != slot)
            claim = qualities.get(slot)
            if claim is None or not others:
                continue
            middle = others[(len(others) + 1) // 2 - 1]
            claim = middle - self.cap if claim < middle - self.cap else min(claim, middle + self.cap)
            merit = self.own * claim + (100 - self.own) * (sum(others) // len(others))
            if merit > best:
                best, found = merit, slot
        return found

    def _quality(self, judge: int, trainer: int) -> int | None:
        first = (judge * len(self.trainers) + trainer) * self.classes
        given = [share for share in self.shares[first : first + self.classes] if share is not None]
        return sum(given) // len(given) if given else None

    @property
    def members(self) -> list[int]:
        """All who owed scores."""
        return sorted({*self.judges, *self.absent})


class Vote(NamedTuple):
    """A row of the votes; `totals` and `correct` are None where no scores were given, or none that can be read."""

    commitment: bytes
    committed: bytes
    salt: bytes
    signature: bytes
    totals: tuple[int, ...] | None
    correct: Mapping[int, tuple[int, ...]]

    def shares(self, judge: int, trainers: Iterable[int], claims: bool) -> list[int | None]:
        """What this judge gave each of these updates, class by class; its own among them where `claims` count."""
        totals, found = self.totals or (), []
        for slot in trainers:
            right = self.correct.get(slot, (0,) * len(totals))
            pairs = zip(right, totals, strict=True)
            found += [SHARE_PARTS * r // t if t and (claims or slot != judge) else None for r, t in pairs]
        return found


def read_sitting(text: Any) -> Sitting:
    """Read the row of a round; raises ValueError for anything that no writer leaves."""
    values = read_object(text, "round", "percent", "classes", "own", "cap", *LISTS)
    for name in LISTS:
        if not isinstance(values[name], list):
            raise ValueError(f"{name} is no list")
        values[name] = tuple(values[name])
    spec.encode("uint64", values["round"])
    for number in (values["percent"], values["classes"], values["own"]):
        spec.encode("uint8", number)
    spec.encode("uint16", values["cap"])
    for name in LISTS[:3]:
        for slot in values[name]:
            spec.encode("uint32", slot)
        if list(values[name]) != sorted(set(values[name])):
            raise ValueError(f"{name} do not ascend")
    for share in values["shares"]:
        if share is not None and (type(share) is not int or not 0 <= share <= SHARE_PARTS):
            raise ValueError("a share is none of 10,000 parts")
    if len(values["shares"]) != len(values["judges"]) * len(values["trainers"]) * values["classes"]:
        raise ValueError("each judge must give each update a share of each class")
    return Sitting(**values)


def read_vote(row: Mapping[str, Any]) -> Vote:
    """Read the row of a judge; raises ValueError for scores that no validation part can give."""
    commitment, committed, salt, signature = (spec.hex_bytes(row[name]) for name in _SIGNED)
    vote = Vote(commitment, committed, salt, signature, None, {})
    if row["scores"] == "":
        return vote
    said = read_json(row["scores"])
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(part, list) for part in said):
        raise ValueError("scores are beats, and right predictions by update")
    totals, rows = said
    correct: dict[int, tuple[int, ...]] = {}
    for one in rows:
        if not isinstance(one, list) or len(one) != 2 or not isinstance(one[1], list) or type(one[0]) is not int:
            raise ValueError("scores are beats, and right predictions by update")
        correct[one[0]] = tuple(one[1])
    numbers = [totals, *correct.values()]
    if not totals or not all(type(n) is int and 0 <= n < 1 << 53 for part in numbers for n in part):
        raise ValueError("a score is no number")
    if len(correct) != len(rows) or not all(
        len(right) == len(totals) and all(r <= t for r, t in zip(right, totals, strict=True))
        for right in correct.values()
    ):
        raise ValueError("more right predictions than beats")
    return vote._replace(totals=tuple(totals), correct=correct)


def seated(
    model: bytes, number: int, candidates: Iterable[int], size: int, election: str, before: Sitting | None
) -> list[int]:
    """Who sits in the committee of a round that starts from this model; `before` is the sitting of the round before."""
    good: Sequence[int] = [] if before is None else sorted(before.qualified)

    def rank(slot: int) -> int:
        if before is None or slot in good:
            return 0 if before is not None else 1
        return 3 if slot in before.absent else 2 if slot in before.judges else 1

    def key(slot: int) -> tuple[int, int, bytes]:
        lot = spec.sha256(b"PulseLedger committee 1" + model + number.to_bytes(8, "big") + slot.to_bytes(4, "big"))
        score = before.scores.get(slot, 0) if before is not None and election == "score" else 0
        return rank(slot), -score, lot

    return sorted(sorted(candidates, key=key)[:size])
