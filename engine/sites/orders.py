"""What a coordinator asks of a site and a site answers: the only records that have a place on the wire."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from engine.ledger.recount import Shown
from engine.ledger.signer import Notice
from engine.ledger.subjects.closing import HospitalResult, SignedResult
from engine.ledger.subjects.updates import Header, ModelUpdate, Opening, SignedUpdate
from engine.ledger.typed import Domain
from engine.messages import (
    Absent,
    Asked,
    Commitment,
    Crafted,
    Job,
    Opinion,
    Outcome,
    Pace,
    Signed,
    Start,
    Tally,
    Timeline,
    Update,
    Vote,
)
from engine.secure.part import Hidden
from engine.secure.protocol import Dealt, Keys, Masked, Revealed, Terms, Transcript
from engine.sites.wire import Wire

PROTOCOL = 1  # version of all that stands here
NONCE = 16  # bytes


class Hello(NamedTuple):
    """A site's process joins. `nonce` is of its own drawing, and never taken twice."""

    protocol: int
    nonce: bytes


class Welcome(NamedTuple):
    """The answer: a session that all its messages name, who it is by its certificate, and the run's configuration, JSON."""

    session: bytes
    hospital: int
    config: str


class Done(NamedTuple):
    """A site has done what it was told, or asks for the first order (number 0, answer b"")."""

    session: bytes
    number: int
    answer: bytes


class Order(NamedTuple):
    """What a site does next; without a method there is nothing yet. `last`: the run is over and nobody will ask again."""

    number: int
    method: str
    body: bytes
    last: bool = False


class RecordTold(NamedTuple):
    """What a site tells of one of its records.

    Attributes:
        name, patient: pseudonyms, unless the site has said otherwise.
        sex, age: as in `Beats.records`, the age one that stands for its group.
        left_out: edge, lost, flat, unclear and doubled beats.
        dropped, others: symbol -> how many annotations.
        train, every: beats that it trains on, and all that it has.
    """

    name: str
    patient: str
    sex: str
    age: int | None
    leads: tuple[str, ...]
    sampling_rate: float
    native_rate: float
    left_out: tuple[int, ...]
    dropped: Mapping[str, int]
    others: Mapping[str, int]
    copy_of: str
    train: int
    every: int


class Share(NamedTuple):
    """What a site tells of its data, once: counts, and where the beats lie that it will be tested on.

    Attributes:
        digest: of its beats, hex.
        shape, window: leads and samples; samples before and after the R peak.
        counts: "every", "train", "validation", "test" -> beats of each class.
        record, sample: of each test beat the place in `records` and the R peak's in the record.
    """

    digest: str
    classes: tuple[str, ...]
    rr_names: tuple[str, ...]
    shape: tuple[int, int]
    window: tuple[int, int]
    patients_source: str
    records: tuple[RecordTold, ...]
    counts: Mapping[str, tuple[int, ...]]
    record: np.ndarray
    sample: np.ndarray


class SigningTold(NamedTuple):
    """As `Signing`, without the place of keys."""

    federation: bytes
    config_hash: bytes
    domain: Domain
    coordinator: str
    slots: int
    genesis: bytes
    checks: int
    holders: tuple[tuple[str, ...], ...]
    led: tuple[str, ...]


class Build(NamedTuple):
    """How the site's hospital is made: with what it remembers of the rounds `counted`, in which it worked, up to `round`."""

    oracle: str
    signing: SigningTold | None
    round: int
    counted: tuple[int, ...]


class NoticeTold(NamedTuple):
    """As `Notice`, of this hospital alone.

    Attributes:
        shown: the round to compute again, its vectors as bytes of the archive's file.
    """

    model: bytes
    headers: tuple[Header, ...]
    path: bytes | None
    receipt: tuple[int, bytes] | None
    shown: "ShownTold | None"


class ShownTold(NamedTuple):
    """As `Shown`."""

    round: int
    before: np.ndarray
    vectors: bytes
    updates: bytes
    server: Mapping[str, np.ndarray]
    previous: Header | None
    digests: tuple[Mapping[str, bytes], Mapping[str, bytes]]
    sitting: str
    older: Mapping[int, np.ndarray]
    began: Mapping[int, tuple[int, float]]
    masks: tuple[str, ...]


class Train(NamedTuple):
    """A round's local work."""

    asked: Asked
    notice: NoticeTold | None


class Withdraw(NamedTuple):
    """The update of a round does not count."""

    round: int


class Judge(NamedTuple):
    """Score the others' updates of a round."""

    asked: Asked
    updates: tuple[Update, ...]


class Commit(NamedTuple):
    """Score, and commit to the scores."""

    asked: Asked
    updates: tuple[Update, ...]
    notice: NoticeTold | None


class Reveal(NamedTuple):
    """Tell the scores."""

    asked: Asked
    updates: tuple[Update, ...]
    commitments: Mapping[int, Commitment]
    notice: NoticeTold | None


class Secure(NamedTuple):
    """A step of masked sums."""

    round: int
    step: str
    groups: tuple[Transcript, ...]
    notice: NoticeTold


class Validate(NamedTuple):
    """Score the model after a round."""

    round: int
    params: np.ndarray


class Finish(NamedTuple):
    """Personalise and test the last model."""

    round: int
    params: np.ndarray
    notice: NoticeTold | None


# method -> what it is asked with, and what it is answered with; any answer may be a HospitalError instead
ORDERS: dict[str, tuple[Any, Any]] = {
    "share": (type(None), Share),
    "build": (Build, type(None)),
    "train": (Train, Update),
    "withdraw": (Withdraw, type(None)),
    "judge": (Judge, Opinion),
    "commit": (Commit, Commitment),
    "reveal": (Reveal, Vote),
    "secure": (Secure, Keys | Dealt | Hidden | bytes | Revealed | None),
    "validate": (Validate, np.ndarray),
    "finish": (Finish, Outcome),
}

WIRE = Wire(
    (
        *(Hello, Welcome, Done, Order),
        *(RecordTold, Share, SigningTold, Build, NoticeTold, ShownTold),
        *(Train, Withdraw, Judge, Commit, Reveal, Secure, Validate, Finish),
        *(Asked, Start, Crafted, Pace, Timeline, Job, Tally, Absent),
        *(Update, Signed, SignedUpdate, ModelUpdate, Opening, Header, Domain),
        *(Opinion, Commitment, Vote, Outcome, SignedResult, HospitalResult),
        *(Transcript, Terms, Keys, Dealt, Masked, Revealed, Hidden),
    )
)


def identity_of(config: str) -> str:
    """What names a run to its sites: SHA-256, hex, of the configuration that they are told."""
    return hashlib.sha256(config.encode()).hexdigest()


def told(notice: Notice | None, hospital: int) -> NoticeTold | None:
    """What of a notice is for one hospital."""
    if notice is None:
        return None
    shown = None if notice.shown is None else _shown(notice.shown)
    return NoticeTold(notice.model, notice.headers, notice.paths.get(hospital), notice.receipts.get(hospital), shown)


def _shown(shown: Shown) -> ShownTold:
    values = {name: getattr(shown, name) for name in ShownTold._fields}
    return ShownTold(**{**values, "vectors": shown.vectors.read_bytes()})
