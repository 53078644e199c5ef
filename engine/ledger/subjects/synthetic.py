"""The governance of synthetic data: what is signed, what is recorded, and the contract that decides.

Everything that happens is a step: a policy is set, a reviewer named, a request asked, previewed, reviewed, reported, or let
expire. A step goes into the journal and to the contract, each once. `policy.Books` decides the same a second time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from engine.encoding import canonical_json, hexed, json_hash, read_json, unhexed
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data, deploy_data
from engine.ledger.format import GOVERNED, POLICY_DELAY, ZERO
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.typed import (
    I16,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Bytes32,
    Domain,
    Record,
    abi_tuple,
    address_bytes,
    digest,
    record_from_json,
    record_to_json,
    solidity_name,
    word,
)

# --- What is signed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyntheticRequest(Record):
    """A hospital asks to generate `quantity` beats of a class.

    Attributes:
        class_: position of the class among `labels_of` the run's classes.
        generator: 1 oversample, 2 smote, 3 borderline, 4 adasyn, 5 timegan.
        real_floor: largest step of `real_floor` that does not exceed the real number of beats.
        real_count: salted commitment to that number.
        settings: hash of the generator's settings.
        policy_version: the policy that the hospital knows.
    """

    federation: Bytes32
    slot: U32
    class_: U8
    generator: U8
    quantity: U32
    real_floor: U32
    real_count: Bytes32
    settings: Bytes32
    policy_version: U32
    nonce: U64
    deadline: U64


@dataclass(frozen=True)
class SyntheticPreview(Record):
    """Beats that a hospital made for a reviewer to look at, and never trains on: hash of the batch, hash of the evidence.

    `generated` is 0 where none could be made.
    """

    request: Bytes32
    generated: U32
    batch: Bytes32
    evidence: Bytes32


@dataclass(frozen=True)
class SyntheticReview(Record):
    """A reviewer's decision on a request; `reason` is the hash of its text."""

    request: Bytes32
    approve: Bool
    granted: U32
    reason: Bytes32
    deadline: U64


@dataclass(frozen=True)
class SyntheticReport(Record):
    """What a hospital generated: hash of the batch, hash of the evidence, and the numbers that policy bounds."""

    request: Bytes32
    generated: U32
    batch: Bytes32
    evidence: Bytes32
    auc_bp: U16
    nndr_bp: U16
    distance_bp: U16
    duplicates: U32
    repeated: U32
    spread_bp: U16
    utility_bp: I16
    recognised_bp: U16


def real_floor(count: int) -> int:
    """Return the largest of 0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, 1000, ... that does not exceed `count`.

    Steps 2 and 6 are those at which a generator with five neighbours begins to work.
    """
    steps = [0, 1, 2, 6, 10, 20, 30, 50]
    scale = 100
    while scale <= count:
        steps += [scale, 2 * scale, 5 * scale]
        scale *= 10
    return max(step for step in steps if step <= count)


@dataclass(frozen=True)
class Policy:
    """One version of a federation's policy; field by field the contract's `Policy`.

    Shares and scores are in basis points (1 is 10,000).

    Attributes:
        allowed_classes: bit of each class that may be asked for.
        allowed_generators: bit of each generator.
        automatic: approve what is allowed at once, without a reviewer.
        preview: most beats of a preview, without which no reviewer may approve; 0 if none is wanted.
        quota: most beats for a hospital and class.
        ratio_bp: most beats for each real one.
        share_cap_bp: largest share of synthetic beats in the class.
        expiry_seconds: time for a decision, and then for the report.
        max_auc_bp: largest score of a classifier that tells synthetic from real.
        min_nndr_bp: least ratio of distances to the nearest and the next real beat.
        max_distance_bp: largest ratio of the distance to the nearest real beat, to that between real beats.
        max_duplicates_bp: largest share of near copies of real beats in a batch.
        max_repeated_bp: largest share of beats in a batch that repeat an earlier one of it.
        min_spread_bp: least variance of the batch, as a share of that of the real beats.
        min_utility_bp: least change of the class's recall.
        min_recognised_bp: least recall of the class by who learnt from the batch, as a share of that by who learnt from
            real beats.
        min_real: fewest real beats for each generator, by its number.
    """

    allowed_classes: int
    allowed_generators: int
    automatic: bool
    preview: int
    quota: int
    ratio_bp: int
    share_cap_bp: int
    expiry_seconds: int
    max_auc_bp: int
    min_nndr_bp: int
    max_distance_bp: int
    max_duplicates_bp: int
    max_repeated_bp: int
    min_spread_bp: int
    min_utility_bp: int
    min_recognised_bp: int
    min_real: tuple[int, ...]


def to_contract(policy: Policy) -> dict[str, Any]:
    """A policy by the names of the contract's struct, in their order."""
    return {solidity_name(name): v if name != "min_real" else list(v) for name, v in asdict(policy).items()}


def from_contract(values: Mapping[str, Any]) -> Policy:
    """What `to_contract` made.

    Raises:
        KeyError, TypeError, ValueError: a value is missing, unknown or of the wrong type.
    """
    names = {solidity_name(name): name for name in Policy.__dataclass_fields__}
    read = {names[key]: value for key, value in values.items()}
    if not all(type(v) is (list if n == "min_real" else bool if n == "automatic" else int) for n, v in read.items()):
        raise ValueError("a value of the policy has the wrong type")
    return Policy(**{**read, "min_real": tuple(read["min_real"])})


# --- Steps ------------------------------------------------------------------------------------------------------------


class Step(Protocol):
    """One step, as a row of the journal and as a call of the contract."""

    @property
    def kind(self) -> str:
        """A key of `format.GOVERNED`."""

    @property
    def text(self) -> str:
        """Content of the row's `record`."""

    @property
    def signature(self) -> bytes | None:
        """None where nobody signs."""

    @property
    def sender(self) -> str | None:
        """Address of the signer, where the content does not tell who it must be."""

    def identity(self, domain: Domain) -> bytes:
        """Id of the row, 32 bytes; no two steps of a kind have the same."""

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        """What the function of the contract takes."""


@dataclass(frozen=True)
class SetPolicy:
    """A version of the policy, from 1."""

    policy: Policy
    version: int = 1
    kind: ClassVar[str] = "policy"
    signature: ClassVar[None] = None
    sender: ClassVar[None] = None

    @property
    def text(self) -> str:
        return canonical_json(to_contract(self.policy))

    def identity(self, domain: Domain) -> bytes:
        return json_hash({"version": self.version, "policy": to_contract(self.policy)})

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        return registry.federation.id, tuple(to_contract(self.policy).values()), identity


@dataclass(frozen=True)
class SetReviewer:
    """An account may review, for the requests of other organisations than its own."""

    account: str
    organisation: bytes
    kind: ClassVar[str] = "reviewer"
    signature: ClassVar[None] = None
    sender: ClassVar[None] = None

    @property
    def text(self) -> str:
        return canonical_json({"account": self.account, "organisation": hexed(self.organisation)})

    def identity(self, domain: Domain) -> bytes:
        return word(address_bytes(self.account))

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        return self.account, self.organisation


@dataclass(frozen=True)
class SignedRequest:
    """A request, which has its digest as id."""

    record: SyntheticRequest
    signature: bytes
    kind: ClassVar[str] = "request"
    sender: ClassVar[None] = None

    @property
    def text(self) -> str:
        return record_to_json(self.record)

    def identity(self, domain: Domain) -> bytes:
        return digest(self.record, domain)

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        slot = self.record.slot
        return abi_tuple(self.record), self.signature, registry.holder(slot), *registry.membership(slot)


Of = TypeVar("Of", SyntheticPreview, SyntheticReport)


@dataclass(frozen=True)
class _Told(Generic[Of]):
    """What a hospital signs of a request of its own."""

    record: Of
    signature: bytes
    kind: ClassVar[str]
    sender: ClassVar[None] = None

    @property
    def text(self) -> str:
        return record_to_json(self.record)

    def identity(self, domain: Domain) -> bytes:
        return self.record.request

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        return identity, abi_tuple(self.record), self.signature


class SignedPreview(_Told[SyntheticPreview]):
    """A hospital's preview of what it asks for."""

    kind: ClassVar[str] = "preview"


class SignedReport(_Told[SyntheticReport]):
    """A hospital's report on what it made."""

    kind: ClassVar[str] = "report"


@dataclass(frozen=True)
class SignedReview:
    """A reviewer's decision on a request; `sender` is the reviewer."""

    record: SyntheticReview
    signature: bytes
    sender: str
    kind: ClassVar[str] = "review"

    @property
    def text(self) -> str:
        return record_to_json(self.record)

    def identity(self, domain: Domain) -> bytes:
        return self.record.request

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        return identity, abi_tuple(self.record), self.signature, self.sender


@dataclass(frozen=True)
class Expire:
    """The time of a request has passed."""

    request: bytes
    kind: ClassVar[str] = "expire"
    signature: ClassVar[None] = None
    sender: ClassVar[None] = None

    @property
    def text(self) -> str:
        return canonical_json({"request": hexed(self.request)})

    def identity(self, domain: Domain) -> bytes:
        return self.request

    def arguments(self, identity: bytes, registry: Registry) -> tuple[Any, ...]:
        return (self.request,)


# --- In the ledger ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Governed:
    """What became of a step: id, transaction hash (0x hex), gas, and the hash chain of all decisions after it."""

    id: bytes
    transaction: str
    gas: int
    decisions: bytes


@dataclass(frozen=True)
class Governance:
    """Domain of requests, reviews and reports, every step so far, and the hash chain of all decisions."""

    domain: Domain
    steps: tuple[Step, ...]
    decisions: bytes


class Synthetic:
    """The governance of synthetic data in an open federation."""

    def __init__(self, book: Book, registry: Registry, rounds: Rounds) -> None:
        self._book, self._registry, self._rounds = book, registry, rounds
        self._federation = registry.federation

    @property
    def domain(self) -> Domain:
        """The chain and contract that requests, reviews and reports are signed for; deployed when first asked for."""
        domain = self._book.domain
        data = deploy_data(domain.contract, POLICY_DELAY, contract="SyntheticLedger")
        return Domain(domain.chain_id, self._book.deploy("deploy-synthetic", data))

    @property
    def decisions(self) -> bytes:
        """The contract's hash chain of all decisions; ZERO where there is no contract."""
        contract = self._book.created("deploy-synthetic")
        return ZERO if contract is None else bytes(self.ask("decisions", self._federation.id))

    def governance(self) -> Governance:
        """Return how everything stands."""
        return Governance(self.domain, self.steps(), self.decisions)

    def steps(self) -> tuple[Step, ...]:
        """Return every step of the journal, in order; raises LedgerError when one is damaged."""
        found: list[Step] = []
        for row in self._book.store.rows("synthetic"):
            version = 1 + sum(isinstance(step, SetPolicy) for step in found)
            try:
                found.append(_step(row["kind"], row["record"], row["signature"], row["sender"], version))
            except (KeyError, TypeError, ValueError) as error:
                raise LedgerError(f"the journal {self._book.path} is damaged: step {row['seq']} ({error})") from error
        return tuple(found)

    def take(self, step: Step) -> Governed:
        """Write down a step, send it, and return what the chain answered. The same again returns the same.

        Raises:
            ContractRevert: the contract refuses it. A denial is no refusal: the request is then recorded as denied.
            LedgerError: it is written down already with other content.
        """
        domain = self.domain
        identity = step.identity(domain)
        content = (step.text, step.signature, step.sender)
        known = self._book.store.rows("synthetic", kind=step.kind, id=identity)
        if known and (known[0]["record"], known[0]["signature"], known[0]["sender"]) != content:
            raise LedgerError(f"{step.kind} {hexed(identity)} is already recorded with other content")
        if isinstance(step, SetReviewer):
            self._rounds.grant("REVIEWER_ROLE", step.account)
        arguments = step.arguments(identity, self._registry)
        data = call_data(GOVERNED[step.kind], *arguments, contract="SyntheticLedger")
        row = (None, step.kind, identity, *content)  # SQLite numbers it
        done = self._book.send(Call(step.kind, 0, domain.contract, data, {"synthetic": [row]}))
        assert done.receipt is not None
        decisions = self._book.settled(lambda: self.decisions)
        return Governed(identity, done.receipt.transaction, done.receipt.gas, decisions)

    def ask(self, function: str, *arguments: Any) -> Any:
        """Ask the contract, see `contracts.query`."""
        return self._book.query("SyntheticLedger", self.domain.contract, function, *arguments)


def _step(kind: str, text: str, signature: bytes, sender: str, version: int) -> Step:
    """Read what a row holds; raises KeyError, TypeError, ValueError or LedgerError when it is damaged."""
    match kind:
        case "policy":
            return SetPolicy(from_contract(read_json(text)), version)
        case "reviewer":
            values = read_json(text)
            return SetReviewer(values["account"], unhexed(values["organisation"]))
        case "request":
            return SignedRequest(record_from_json(SyntheticRequest, text), signature)
        case "preview":
            return SignedPreview(record_from_json(SyntheticPreview, text), signature)
        case "review":
            return SignedReview(record_from_json(SyntheticReview, text), signature, sender)
        case "report":
            return SignedReport(record_from_json(SyntheticReport, text), signature)
        case "expire":
            return Expire(unhexed(read_json(text)["request"]))
    raise ValueError(f"{kind!r} is no kind of step")
