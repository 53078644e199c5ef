"""The other side of the ledger's protocol: hospitals, a coordinator that can lie, chains that fail, and the specification.

A `Run` is a small federation that can make its rounds again, bit for bit, and knows which heads must come of them:

    run = Run(tmp_path)                                     # three hospitals; the second is away in even rounds
    with run.open() as ledger:
        seal = ledger.append(run.entry(1, ledger.domain))
        assert seal.head == run.heads(ledger.domain, 1)[1]  # computed here, from the definition

    chain = Faults(EmbeddedChain())                         # passes everything on ...
    chain.fail("send")                                      # ... until it is told not to
    run.open(chain=chain)

    interrupted(lambda: run.open().close(), 5)              # in a process that kills itself at the sixth moment

A `Coordinator` tells hospitals of rounds that no ledger holds; what it says can be bent before a hospital sees it:

    there = Coordinator(run)
    there.round()
    there.signers[0].check(replace(there.notice(0), headers=()))     # raises LedgerError

`Counter` is a contract of a few bytes that takes the numbers 1, 2, 3, ... in this order, for tests of deliveries.

Hashes, trees and typed data at the end are written out from the specification, without the engine's code.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from eth_abi import encode
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from engine.clock import REAL, Clock
from engine.config import RunConfig, config_hash
from engine.encoding import json_hash
from engine.ledger.chain.base import Chain, ChainReceipt
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.chain.transactions import created_contract, decode_transaction, sign_transaction
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import JournalTransaction, settle
from engine.ledger.format import MEAN, ZERO
from engine.ledger.run import RunLedger
from engine.ledger.signer import Notice, Signer, Signing
from engine.ledger.signing import address, hospital_key, salt, sign
from engine.ledger.store import Store
from engine.ledger.subjects.challenges import MaskOpening
from engine.ledger.subjects.closing import HospitalResult, RunClosing, SignedResult, text_digest
from engine.ledger.subjects.committee import RevealedScores, ScoreCommitment
from engine.ledger.subjects.masks import MaskStep
from engine.ledger.subjects.registry import Federation, KeyRotation, SignedRotation
from engine.ledger.subjects.reputation import PeerScores
from engine.ledger.subjects.rounds import RoundEntry, close
from engine.ledger.subjects.synthetic import (
    Policy,
    SyntheticPreview,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
)
from engine.ledger.subjects.updates import (
    Absence,
    Availability,
    Erasure,
    ModelUpdate,
    Opening,
    Receipt,
    SignedUpdate,
    commitments,
    genesis_header,
)
from engine.ledger.trees import path
from engine.ledger.typed import Domain, Record, types_of
from engine.model import initial_parameters, vector_hash

LAYOUT = (("conv.weight", (2, 3)), ("bias", (4,)), ("scale", ()))
SIZE = 11
SETTINGS = RunConfig.model_validate({"name": "test", "federation": {"rounds": 4}})
CONFIG = bytes.fromhex(config_hash(SETTINGS))
DATA = "dd" * 32  # digest of the beats
FEDERATION_ID = json_hash({"config": CONFIG.hex(), "data": DATA, "name": SETTINGS.name, "label": ""})
DOMAIN = Domain(1337, "0x9Be9069a4d2Fb9ec284cc4d149b6388A279f4ABa")


class Shapes(NamedTuple):
    """What of a network decides what a model begins with."""

    layout: tuple[tuple[str, tuple[int, ...]], ...]


# --- A federation -----------------------------------------------------------------------------------------------------


def rule_of(weighting: str) -> dict[str, Any]:
    """The mean as a run writes it down."""
    return {"name": MEAN, "weighting": weighting, "server": {"method": "none"}}


def opening_metrics(number: int, slot: int) -> dict[str, Any]:
    """What a hospital measures in a round."""
    return {"loss": number / (1 + slot), "gradient_evaluations": 10 * number + slot}


def record(**changes: Any) -> ModelUpdate:
    """Some update of hospital 0 in round 1."""
    values: dict[str, Any] = {"federation": FEDERATION_ID, "round": 1, "slot": 0, "config_hash": CONFIG, "nonce": 7}
    names = ("parent_model", "parent_head", "update", "samples", "metrics", "privacy")
    values |= {name: bytes([i]) * 32 for i, name in enumerate(names, 0x33)}
    return ModelUpdate(**{**values, **changes})


@dataclass
class Run:
    """A small federation that can make its rounds again, bit for bit.

    Attributes:
        folder: of the run; the ledger is in `ledger/` below.
        keys: of the hospitals, by slot; a test may change one.
    """

    folder: Path
    hospitals: int = 3
    weighting: str = "samples"

    def __post_init__(self) -> None:
        self.keys = [hospital_key(5, FEDERATION_ID, slot) for slot in range(self.hospitals)]
        self.genesis = initial_parameters(Shapes(LAYOUT), SETTINGS.seed)  # type: ignore[arg-type]
        addresses = tuple(address(key) for key in self.keys)
        genesis, checks = vector_hash(self.genesis, LAYOUT), self.hospitals
        self.federation = Federation(FEDERATION_ID, CONFIG, addresses, genesis, LAYOUT, checks=checks)

    @property
    def ledger_folder(self) -> Path:
        return self.folder / "ledger"

    def open(self, clock: Clock = REAL, chain: Chain | None = None, **settings: Any) -> RunLedger:
        """The ledger of this federation; `settings` are those of `LedgerConfig`. Its keys are those that everybody knows."""
        config = LedgerConfig(**settings)
        if chain is None and config.backend == "embedded":
            chain = EmbeddedChain()
        return RunLedger(self.ledger_folder, self.federation, rule_of(self.weighting), config, clock, chain)

    def vectors(self, number: int) -> dict[int, np.ndarray]:
        """Updates of a round: hospital 1 is away in even rounds."""
        away = {1} if number % 2 == 0 and self.hospitals > 1 else set()
        return {
            slot: np.random.default_rng([number, slot]).normal(size=SIZE).astype(np.float32)
            for slot in range(self.hospitals)
            if slot not in away
        }

    def samples(self, slot: int) -> int:
        return 100 + 10 * slot

    def params(self, number: int) -> np.ndarray:
        """Parameters after a round, with the definition written out."""
        params = self.genesis
        for earlier in range(1, number + 1):
            weights = {"samples": self.samples, "uniform": lambda slot: 1}.get(self.weighting)
            if weights is None:
                continue
            total, summed = 0, np.zeros(SIZE)
            for slot, vector in sorted(self.vectors(earlier).items()):
                total += weights(slot)
                summed += weights(slot) * vector.astype(np.float64)
            params = (params.astype(np.float64) + summed / total).astype(np.float32)
        return params

    def model(self, number: int) -> bytes:
        """Hash of the parameters after a round."""
        return vector_hash(self.params(number), LAYOUT)

    def opening(self, number: int, slot: int) -> Opening:
        salts = [salt(self.keys[slot], FEDERATION_ID, number, purpose) for purpose in (1, 2)]
        return Opening(self.samples(slot), salts[0], opening_metrics(number, slot), salts[1])

    def entry(self, number: int, domain: Domain, head: bytes | None = None) -> RoundEntry:
        """A round as the loop reports it, after `head`; None computes what the head before must be."""
        parent = self.model(number - 1)
        head = self.heads(domain, number - 1)[-1] if head is None else head
        signed, openings = [], []
        for slot, vector in self.vectors(number).items():
            opening = self.opening(number, slot)
            update = ModelUpdate(
                federation=FEDERATION_ID,
                round=number,
                slot=slot,
                parent_model=parent,
                parent_head=head,
                update=vector_hash(vector, LAYOUT),
                config_hash=CONFIG,
                nonce=1000 * number + slot,
                **commitments(opening),
            )
            signed.append(SignedUpdate(update, sign(update, domain, self.keys[slot])))
            openings.append(opening)
        return RoundEntry(number, parent, self.model(number), tuple(signed), tuple(openings))

    def heads(self, domain: Domain, rounds: int) -> list[bytes]:
        """The chain of heads computed from the rounds alone."""
        pairs = zip(self.federation.hospitals, self.federation.organisations, strict=True)
        registry = reference_root(
            [
                keccak(b"\0" + slot.to_bytes(4, "big") + bytes.fromhex(hospital[2:]) + organisation)
                for slot, (hospital, organisation) in enumerate(pairs)
            ]
        )
        where = [domain.chain_id, domain.contract, FEDERATION_ID]
        values = [*where, CONFIG, registry, self.federation.genesis_model, self.hospitals, self.federation.quorum]
        heads = [keccak(encode(["uint256", "address"] + ["bytes32"] * 4 + ["uint256"] * 2, values))]
        for number in range(1, rounds + 1):
            entry = self.entry(number, domain, heads[-1])
            leaves = {u.record.slot: reference_leaf(u, domain) for u in entry.updates}
            root = reference_root([leaves.get(slot, EMPTY_SLOT) for slot in range(self.hospitals)])
            types = ["bytes32", "uint256", "address", "bytes32", "uint64"] + ["bytes32"] * 3 + ["uint32", "bytes32"]
            content = [number, root, entry.parent_model, entry.model, len(leaves), ZERO]
            heads.append(keccak(encode(types, [heads[-1], *where, *content])))
        return heads

    def results(
        self, number: int, head: bytes, domain: Domain, contents: Mapping[int, str] | None = None
    ) -> dict[int, SignedResult]:
        """What all hospitals sign after the last round; `contents` is what each states, "{}" by default."""
        found = {}
        for slot in range(self.hospitals):
            content = (contents or {}).get(slot, "{}")
            result = HospitalResult(FEDERATION_ID, number, slot, head, text_digest(content))
            found[slot] = SignedResult(result, sign(result, domain, self.keys[slot]), content)
        return found

    def rotation(self, slot: int, new: bytes, number: int, domain: Domain) -> SignedRotation:
        """The change of a hospital's key from a round on."""
        change = KeyRotation(FEDERATION_ID, slot, address(self.keys[slot]), address(new), number)
        return SignedRotation(change, sign(change, domain, self.keys[slot]), sign(change, domain, new))


# --- The governance of synthetic data ---------------------------------------------------------------------------------

REVIEWER = hospital_key(4, FEDERATION_ID, 0)
POLICY = Policy(
    allowed_classes=0b01110,
    allowed_generators=0b000100,  # smote
    automatic=True,
    preview=0,
    quota=100,
    ratio_bp=20_000,
    share_cap_bp=5_000,
    expiry_seconds=1000,
    max_auc_bp=2_000,
    min_nndr_bp=600,
    max_distance_bp=30_000,
    max_duplicates_bp=3_000,
    max_repeated_bp=3_000,
    min_spread_bp=2_000,
    min_utility_bp=-500,
    min_recognised_bp=3_000,
    min_real=(0, 1, 6, 11, 6, 30, 0, 0),
)


def request(**changes: Any) -> SyntheticRequest:
    """Some request that `POLICY` grants 30 beats."""
    values: dict[str, Any] = {
        "federation": FEDERATION_ID,
        "slot": 0,
        "class_": 2,
        "generator": 2,
        "quantity": 40,
        "real_floor": 30,
        "real_count": b"\x01" * 32,
        "settings": b"\x02" * 32,
        "policy_version": 1,
        "nonce": 0,
        "deadline": 0,
    }
    return SyntheticRequest(**{**values, **changes})


def report(id: bytes, generated: int, **changes: int) -> SyntheticReport:
    """A report within the bounds of `POLICY`, at all of them if tens of beats were generated."""
    share = 3 * generated // 10
    values = {"auc_bp": 2_000, "nndr_bp": 600, "distance_bp": 30_000, "duplicates": share, "repeated": share}
    values |= {"spread_bp": 2_000, "utility_bp": -500, "recognised_bp": 3_000, **changes}
    return SyntheticReport(id, generated, b"\x03" * 32, b"\x04" * 32, **values)


# --- A coordinator that need not be honest ----------------------------------------------------------------------------


def receipt_signature(domain: Domain, round: int, slot: int, leaf: bytes, key: bytes = EMBEDDED_COORDINATOR) -> bytes:
    """The word of a coordinator, or of somebody else, on a leaf."""
    return sign(Receipt(FEDERATION_ID, round, slot, leaf), domain, key)


class Coordinator:
    """Tells hospitals of a ledger that never was: enough for them to check.

    Attributes:
        headers: of all rounds, the opening first.
        leaves: of the last round, by slot.
        signers: one for each hospital.
    """

    def __init__(self, run: Run) -> None:
        self.domain = Domain(1, address(EMBEDDED_COORDINATOR))
        self.headers = [genesis_header(self.domain, run.federation)]
        where = (self.domain, address(EMBEDDED_COORDINATOR), run.hospitals, self.headers[0].head)
        self.signing = Signing(FEDERATION_ID, CONFIG, *where)
        self.signers = [Signer(slot, self.signing, 5) for slot in range(run.hospitals)]
        self.leaves: list[bytes] = []

    def round(self, slots: tuple[int, ...] = (0, 1, 2)) -> None:
        """One honest round of some hospitals."""
        leaves = {}
        for slot in slots:
            notice = self.notice(slot)
            self.signers[slot].check(notice)
            _, _, leaves[slot] = self.signers[slot].update(notice, b"\x44" * 32, 10, {})
        self.seal(leaves)

    def seal(self, leaves: Mapping[int, bytes]) -> None:
        """Close the round over these leaves."""
        before, slots = self.headers[-1], len(self.signers)
        entry = RoundEntry(before.round + 1, before.model, before.model, (), ())
        closed = close(entry, leaves, before, self.domain, FEDERATION_ID, slots)
        self.leaves = closed.tree[0][:slots]
        self._tree = closed.tree
        self.headers.append(closed.header)

    def notice(self, slot: int) -> Notice:
        """What it says to a hospital."""
        last = self.headers[-1].round
        paths, receipts = {}, {}
        if last:
            paths = {slot: b"".join(path(self._tree, slot))}
            receipts = {slot: (last, receipt_signature(self.domain, last, slot, self.leaves[slot]))}
        return Notice(self.headers[-1].model, tuple(self.headers[-2:]), paths, receipts)


# --- Chains -----------------------------------------------------------------------------------------------------------


class Faults:
    """A chain that passes everything on to another one, until some method of it fails."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._failing: dict[str, BaseException] = {}

    def fail(self, name: str, error: BaseException | None = None) -> None:
        """From now on a method raises, by default as if the power went."""
        self._failing[name] = error or OSError("the power went")

    def heal(self) -> None:
        """From now on everything works."""
        self._failing.clear()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._chain, name)
        if not callable(value):
            return value

        def called(*arguments: Any, **named: Any) -> Any:
            if name in self._failing:
                raise self._failing[name]
            return value(*arguments, **named)

        return called


# Everything that writes to the disk or to a chain in this process.
STEPS: tuple[tuple[type, str], ...] = (
    (Store, "create"),
    (Store, "add"),
    (Store, "set_receipt"),
    (EmbeddedChain, "send"),
    (EmbeddedChain, "sign"),
    (Path, "replace"),
)


def interrupted(work: Callable[[], Any], moment: int | None) -> bool:
    """Do some work in a process that kills itself at a moment (None: never); tells whether it was killed.

    Moments are counted from 0: before and after each of the steps. SIGKILL, so that nothing is tidied up.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if moment is not None:
                _arm(moment)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the process failed before it could be killed"
    return os.WIFSIGNALED(status)


def _arm(moment: int) -> None:
    """Kill this process at the n-th moment. It has no other purpose, so its classes may be changed for good."""
    left = [moment]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            tick()
            result = step(*arguments, **named)
            tick()
            return result

        return stepped

    for owner, name in STEPS:
        setattr(owner, name, deadly(getattr(owner, name)))


class Memory:
    """As much of a journal as a delivery uses."""

    path = Path("journal")

    def __init__(self) -> None:
        self.rows: list[JournalTransaction] = []

    def add_transaction(self, purpose: str, round: int, hash: bytes, raw: bytes) -> JournalTransaction:
        self.rows.append(JournalTransaction(len(self.rows), purpose, round, hash, raw, None))
        return self.rows[-1]

    def set_receipt(self, seq: int, receipt: ChainReceipt | None) -> None:
        self.rows[seq] = replace(self.rows[seq], receipt=receipt)

    def before(self, account: str, nonce: int) -> Iterator[JournalTransaction]:
        known = {decode_transaction(row.raw)["nonce"]: row for row in self.rows}
        yield from (known[number] for number in sorted(known, reverse=True) if number < nonce)

    def of(self, round: int) -> list[JournalTransaction]:
        return [row for row in self.rows if row.round == round]


# calldataload(0) == sload(0) + 1 ? sstore(0, calldataload(0)) and log0 of nothing : revert
COUNTER_CODE = bytes.fromhex("60003580600054600101146013576000" + "6000fd5b600055" + "60006000a000")
COUNTER_CREATION = bytes.fromhex("601d600c600039601d6000f3") + COUNTER_CODE
COUNTER_GAS = 200_000


class Counter:
    """A contract that takes the numbers 1, 2, 3, ... in this order and refuses all others, and its journal.

    Args:
        on: the chain.
        key: of its account.
    """

    def __init__(self, on: Chain, key: bytes = EMBEDDED_COORDINATOR, clock: Clock = REAL) -> None:
        self.chain, self.journal, self._key, self._clock = on, Memory(), key, clock
        raw = on.sign(None, COUNTER_CREATION, COUNTER_GAS)
        self.address = created_contract(on.sender, raw)
        self.journal.add_transaction("deploy", 0, keccak(raw), raw)

    def write(self, number: int, raw: bytes | None = None) -> None:
        """Into the journal only."""
        raw = raw or self.chain.sign(self.address, number.to_bytes(32, "big"), COUNTER_GAS)
        self.journal.add_transaction("seal", number, keccak(raw), raw)

    def settle(self, number: int) -> JournalTransaction:
        return settle(self.chain, self.journal, self.journal.of(number), COUNTER_GAS, self._clock)

    def add(self, number: int) -> JournalTransaction:
        self.write(number)
        return self.settle(number)

    def transfer(self, nonce: int, fee: int = 10**11) -> bytes:
        """A transaction of the same account that the journal knows nothing of."""
        return sign_transaction(self._key, self.chain.chain_id, nonce, self.chain.sender, b"", 21_000, fee, fee)


# --- The specification, written out -----------------------------------------------------------------------------------

EMPTY_SLOT = keccak(b"\x02PulseLedger empty slot")

# From the contracts' point of view.
TYPES: dict[type[Record], str] = {
    ModelUpdate: "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,"
    "bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,"
    "uint64 deadline)",
    PeerScores: "PeerScores(bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 scores)",
    ScoreCommitment: "ScoreCommitment(bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 commitment)",
    RevealedScores: "RevealedScores(bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 commitments,"
    "bytes32 scores)",
    HospitalResult: "HospitalResult(bytes32 federation,uint64 round,uint32 slot,bytes32 head,bytes32 content)",
    RunClosing: "RunClosing(bytes32 federation,uint64 round,bytes32 head,uint8 state,bytes32 results,bytes32 missing,"
    "bytes32 result,bytes32 predictions,bytes32 config,bytes32 data,bytes32 code)",
    MaskStep: "MaskStep(bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,uint8 step,bytes32 content)",
    MaskOpening: "MaskOpening(bytes32 federation,uint64 round,uint32 slot,bytes32 opening)",
    Absence: "Absence(bytes32 federation,uint64 round,uint32 slot,uint64 job,uint8 kind,uint64 start)",
    Receipt: "Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
    Availability: "Availability(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
    Erasure: "Erasure(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
    KeyRotation: "KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)",
    SyntheticRequest: "SyntheticRequest(bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,"
    "uint32 realFloor,bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline)",
    SyntheticPreview: "SyntheticPreview(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence)",
    SyntheticReview: "SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)",
    SyntheticReport: "SyntheticReport(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,"
    "uint16 nndrBp,uint16 distanceBp,uint32 duplicates,uint32 repeated,uint16 spreadBp,int16 utilityBp,"
    "uint16 recognisedBp)",
}


def typed_data(given: Record, domain: Domain) -> dict[str, Any]:
    """A record as the JSON of EIP-712 typed data."""

    def fields(text: str) -> list[dict[str, str]]:
        return [dict(zip(("type", "name"), pair.split(), strict=True)) for pair in text.split(",")]

    name, inside = TYPES[type(given)].removesuffix(")").split("(")
    values = (getattr(given, attribute) for attribute in types_of(type(given)))
    return {
        "types": {
            "EIP712Domain": fields("string name,string version,uint256 chainId,address verifyingContract"),
            name: fields(inside),
        },
        "primaryType": name,
        "domain": {
            "name": "PulseLedger",
            "version": "2",
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        "message": {field["name"]: value for field, value in zip(fields(inside), values, strict=True)},
    }


def reference_digest(given: Record, domain: Domain) -> bytes:
    """What EIP-712 signs, by another library."""
    message = encode_typed_data(full_message=typed_data(given, domain))
    return keccak(b"\x19" + message.version + message.header + message.body)


def reference_leaf(signed: SignedUpdate, domain: Domain) -> bytes:
    """The leaf of a signed update."""
    digest = reference_digest(signed.record, domain)
    return keccak(b"\0\0\2" + signed.record.slot.to_bytes(4, "big") + digest + signed.signature)


def reference_root(leaves: Sequence[bytes]) -> bytes:
    """The positional tree written as a recursion from the top, unlike the engine's level by level."""
    size = 1
    while size < len(leaves):
        size *= 2

    def node(start: int, width: int) -> bytes:
        if width == 1:
            return leaves[start] if start < len(leaves) else EMPTY_SLOT
        half = width // 2
        return keccak(b"\x01" + node(start, half) + node(start + half, half))

    return node(0, size)


def reference_annex(digests: Mapping[str, bytes]) -> bytes:
    """The annex over named digests, zero digests left out."""
    names = sorted((name for name, digest in digests.items() if any(digest)), key=str.encode)
    level = [keccak(keccak(keccak(text=name) + digests[name])) for name in names]
    while len(level) > 1:
        pairs = [sorted(level[i : i + 2]) for i in range(0, len(level), 2)]
        level = [keccak(b"".join(pair)) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0] if level else bytes(32)


def other_values(given: Record) -> dict[str, Any]:
    """Another valid value for every field of a record."""
    others: dict[str, Any] = {}
    for name, solidity in types_of(type(given)).items():
        value = getattr(given, name)
        if solidity == "bytes32":
            others[name] = bytes([value[0] ^ 1]) + value[1:]
        elif solidity == "address":
            others[name] = address(hospital_key(9, FEDERATION_ID, len(others)))
        else:
            others[name] = (not value) if solidity == "bool" else value ^ 1
    return others
