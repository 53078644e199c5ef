"""Writes test/vectors.json: calls of RoundLedger and SuccessionLedger, what the Solidity contracts answered to each, and the state after it.

    python contracts/fabric/vectors.py

The contracts are executed in py-evm; the chaincode must give the same heads, states and refusals for the same calls at the same times.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from solidity import CALLS, KEYS, NOBODY, WHO, Chain, Role, certificate

from engine.encoding import keccak
from engine.ledger.signing import address, sign
from engine.ledger.subjects.registry import KeyRotation
from engine.ledger.subjects.updates import (
    Availability,
    Header,
    ModelUpdate,
    Receipt,
    SignedUpdate,
    head_of,
    update_leaf,
)
from engine.ledger.trees import EMPTY, annex_path, annex_root, levels, path

HERE = Path(__file__).parent
ZERO, SLOTS = b"\0" * 32, 5
FEDERATION, CONFIG, GENESIS = (keccak(name) for name in (b"federation", b"config", b"genesis"))
HOSPITALS = [keccak(b"fabric hospital %d" % slot) for slot in range(SLOTS)]
NEW_KEY = keccak(b"fabric hospital 1, second key")
ORGANISATIONS = [keccak(b"organisation %d" % slot) for slot in range(SLOTS)]


class Story:
    """Rounds of a federation with everything that can go right and wrong in them."""

    def __init__(self, chain: Chain, federation: bytes = FEDERATION) -> None:
        self.chain, self.domain, self.federation = chain, chain.domain, federation
        leaves = [
            keccak(b"\0" + slot.to_bytes(4, "big") + bytes.fromhex(address(key)[2:]) + ORGANISATIONS[slot])
            for slot, key in enumerate(HOSPITALS)
        ]
        self.registry = levels(leaves)
        self.head, self.model, self.round = b"", GENESIS, 0
        self.trees: dict[int, Any] = {}
        self.headers: dict[int, Header] = {}

    def call(self, caller: str, name: str, *values: Any, why: str = "") -> None:
        self.chain.call(self.federation, caller, name, *values, why=why)

    def proof(self, slot: int) -> list[bytes]:
        return list(path(self.registry, slot))

    def update(self, slot: int, **changes: Any) -> tuple[ModelUpdate, bytes]:
        record = ModelUpdate(
            federation=self.federation,
            round=self.round + 1,
            slot=slot,
            parent_model=self.model,
            parent_head=self.head,
            update=keccak(b"update %d %d" % (self.round + 1, slot)),
            samples=keccak(b"samples"),
            metrics=keccak(b"metrics"),
            privacy=ZERO,
            config_hash=CONFIG,
            nonce=self.round + 1,
        )
        record = replace(record, **changes)
        return record, sign(record, self.domain, HOSPITALS[slot])

    def leaf(self, slot: int, **changes: Any) -> bytes:
        return update_leaf(SignedUpdate(*self.update(slot, **changes)), self.domain)

    def header(self, slots: tuple[int, ...], own: dict[int, dict[str, Any]] | None = None, **changes: Any) -> Header:
        """A header over the updates of these slots; `own` has what is special about a slot's."""
        special = own or {}
        tree = levels([self.leaf(at, **special.get(at, {})) if at in slots else EMPTY for at in range(SLOTS)])
        self.trees[self.round + 1] = tree
        made = Header(
            self.round + 1,
            self.head,
            tree[-1][0],
            self.model,
            keccak(b"model %d" % (self.round + 1)),
            len(slots),
            keccak(b"annex"),
        )
        return replace(made, **changes)

    def seal(self, *slots: int, submissions: int = 0, caller: str = "coordinator", **special: Any) -> None:
        header = self.header(slots, **special)
        self.call(caller, "sealRound", self.federation, header, submissions, 0)
        self.headers[header.round] = header
        self.head, self.model, self.round = head_of(header, self.domain, self.federation), header.model, header.round

    def open(self, staleness: int = 0) -> None:
        root = self.registry[-1][0]
        self.call("coordinator", "openFederation", self.federation, CONFIG, root, GENESIS, SLOTS, 2, 100, staleness)
        self.head = bytes(self.chain.rounds.functions.head(self.federation).call())

    def submit(self, slot: int, why: str = "", signature: bytes | None = None, **changes: Any) -> None:
        record, own = self.update(slot, **changes)
        account = address(HOSPITALS[slot])
        self.call(
            "stranger",
            "submitUpdate",
            record,
            own if signature is None else signature,
            account,
            ORGANISATIONS[slot],
            self.proof(slot),
            why=why,
        )


def opened(story: Story) -> None:
    call, root = story.call, story.registry[-1][0]
    good = (FEDERATION, CONFIG, root, GENESIS, SLOTS, 2, 100, 3)
    call("stranger", "openFederation", *good, why="no coordinator")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0, why="no federation")
    for place, wrong in ((2, ZERO), (3, ZERO), (5, 0), (5, SLOTS + 1)):
        call("coordinator", "openFederation", *good[:place], wrong, *good[place + 1 :], why=f"argument {place}")
    call("coordinator", "openFederation", *good)
    story.head = bytes(story.chain.rounds.functions.head(FEDERATION).call())
    call("coordinator", "openFederation", *good, why="twice")
    call("coordinator", "openRound", FEDERATION, 2, GENESIS, 0, why="another number")
    call("coordinator", "openRound", FEDERATION, 1, CONFIG, 0, why="another model")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, story.chain.now - 100, why="a deadline that is over")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0)
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0, why="twice")
    call("stranger", "abortRound", FEDERATION, why="it has no deadline")


def sealed(story: Story) -> None:
    call = story.call
    for changes in (
        {"round": 2},
        {"previous_head": CONFIG},
        {"parent_model": CONFIG},
        {"count": 1},
        {"count": SLOTS + 1},
        {"root": ZERO},
        {"model": ZERO},
    ):
        call(
            "coordinator",
            "sealRound",
            FEDERATION,
            story.header((0, 1, 2), **changes),
            0,
            0,
            why=f"header {next(iter(changes))}",
        )
    call("second", "sealRound", FEDERATION, story.header((0, 1, 2)), 1, 0, why="submissions that are none")
    call("auditor", "sealRound", FEDERATION, story.header((0, 1, 2)), 0, 0, why="the auditor")
    story.seal(0, 1, 2)
    for changes in (
        {"schema": 1},
        {"deadline": 5},
        {"parent_head": CONFIG},
        {"parent_model": CONFIG},
        {"config_hash": ZERO},
        {"round": 3},
    ):
        story.submit(3, why=f"record {next(iter(changes))}", **changes)
    story.submit(3, why="another's signature", signature=story.update(2)[1])
    story.submit(3, why="no signature", signature=b"\1" * 64)
    call(
        "stranger",
        "submitUpdate",
        *story.update(3),
        address(HOSPITALS[2]),
        ORGANISATIONS[3],
        story.proof(3),
        why="another holder",
    )
    story.submit(3)
    story.submit(3, why="twice")
    call("coordinator", "refuseUpdate", FEDERATION, 4, why="nothing there")
    call("coordinator", "sealRound", FEDERATION, story.header((0, 1, 2)), 0, 0, why="a submission is missed")
    story.seal(0, 1, 2, submissions=1)


def disputed(story: Story) -> None:
    call = story.call
    record, signature = story.update(3)
    tree, header = story.trees[2], story.headers[2]
    nothing = Receipt(FEDERATION, 2, 3, ZERO)
    proof = list(path(tree, 3))
    call(
        "stranger",
        "dispute",
        FEDERATION,
        [header],
        replace(nothing, round=1),
        b"",
        EMPTY,
        proof,
        why="another round's receipt",
    )
    call("stranger", "dispute", FEDERATION, [header], nothing, b"", EMPTY, proof[:-1], why="a short proof")
    call(
        "stranger",
        "dispute",
        FEDERATION,
        [header],
        nothing,
        b"",
        EMPTY,
        list(path(tree, 2)),
        why="another slot's proof",
    )
    call(
        "stranger",
        "dispute",
        FEDERATION,
        [header],
        replace(nothing, slot=4),
        b"",
        EMPTY,
        list(path(tree, 4)),
        why="nothing promised",
    )
    call("stranger", "dispute", FEDERATION, [header], nothing, b"", EMPTY, proof)
    call("coordinator", "sealRound", FEDERATION, story.header((0, 1)), 0, 0, why="disputed")
    call("stranger", "finalizeRound", FEDERATION, why="disputed")
    call("coordinator", "resolveDispute", FEDERATION, header, True, why="no auditor")
    call("auditor", "resolveDispute", FEDERATION, story.headers[1], True, why="another round")
    call("auditor", "resolveDispute", FEDERATION, replace(header, count=4), True, why="another header")
    call("auditor", "resolveDispute", FEDERATION, header, True)
    call("auditor", "resolveDispute", FEDERATION, header, True, why="twice")
    story.model = header.parent_model
    call("second", "openRound", FEDERATION, 3, story.model, story.chain.now + 50)
    story.chain.later(60)
    call("second", "sealRound", FEDERATION, story.header((1, 2)), 0, 0, why="too late")
    call("stranger", "abortRound", FEDERATION)
    call("stranger", "abortRound", FEDERATION, why="twice")
    call("second", "openRound", FEDERATION, 3, story.model, 0)
    story.seal(1, 2, caller="second")
    del record, signature


def final(story: Story) -> None:
    call = story.call
    tree, header = story.trees[3], story.headers[3]
    receipt = Receipt(FEDERATION, 3, 1, story.leaf(4))
    proof = list(path(tree, 1))
    leaf = tree[0][1]
    for who in ("stranger", "auditor"):
        call(
            "stranger",
            "dispute",
            FEDERATION,
            [header],
            receipt,
            sign(receipt, story.domain, KEYS[who]),
            leaf,
            proof,
            why=f"a receipt of the {who}",
        )
    call("stranger", "dispute", FEDERATION, [header], receipt, sign(receipt, story.domain, KEYS["second"]), leaf, proof)
    call("auditor", "resolveDispute", FEDERATION, header, False)
    call("stranger", "finalizeRound", FEDERATION, why="it is final")
    call("coordinator", "openRound", FEDERATION, 4, story.model, 0)
    rotation = KeyRotation(FEDERATION, 1, address(HOSPITALS[1]), address(NEW_KEY), 4)
    signatures = [sign(rotation, story.domain, key) for key in (HOSPITALS[1], NEW_KEY)]
    call(
        "stranger",
        "rotateKey",
        rotation,
        ORGANISATIONS[1],
        story.proof(1),
        signatures[1],
        signatures[0],
        why="signatures the wrong way round",
    )
    call(
        "stranger",
        "rotateKey",
        replace(rotation, round=5),
        ORGANISATIONS[1],
        story.proof(1),
        *signatures,
        why="signed for another round",
    )
    call("stranger", "rotateKey", rotation, ORGANISATIONS[1], story.proof(1), *signatures)
    story.submit(1, why="the old key")
    story.submit(4)
    call("coordinator", "refuseUpdate", FEDERATION, 4)
    call("coordinator", "refuseUpdate", FEDERATION, 4, why="twice")
    story.seal(0, 2, submissions=1)
    for number in (5, 6):
        story.seal(0, number % 3 + 1)
    header, tree = story.headers[4], story.trees[4]
    absent = Receipt(FEDERATION, 4, 4, ZERO)
    held = update_leaf_of(story, 4, 4)
    proof = list(path(tree, 4))
    call(
        "stranger",
        "dispute",
        FEDERATION,
        [header],
        absent,
        sign(absent, story.domain, KEYS["auditor"]),
        EMPTY,
        proof,
        why="no witness",
    )
    witness = sign(Availability(FEDERATION, 4, 4, held), story.domain, KEYS["auditor"])
    call("stranger", "dispute", FEDERATION, [header, story.headers[6]], absent, witness, EMPTY, proof, why="a gap")
    call("stranger", "markRound", FEDERATION)
    call("stranger", "markRound", FEDERATION, why="twice")
    call("stranger", "finalizeRound", FEDERATION, why="the window is open")
    story.chain.later(200)
    call("stranger", "finalizeRound", FEDERATION)
    call("stranger", "dispute", FEDERATION, [header], absent, witness, EMPTY, proof, why="it is final")
    call("coordinator", "closeFederation", FEDERATION, 5, story.head, CONFIG, why="another round")
    call("coordinator", "closeFederation", FEDERATION, 6, CONFIG, CONFIG, why="another head")
    call("coordinator", "closeFederation", FEDERATION, 6, story.head, ZERO, why="nothing to close with")
    call("coordinator", "closeFederation", FEDERATION, 6, story.head, CONFIG)
    call("coordinator", "openRound", FEDERATION, 7, story.model, 0, why="over")


def update_leaf_of(story: Story, round: int, slot: int) -> bytes:
    """The leaf that was submitted in an earlier round."""
    header = story.headers[round]
    before = story.head, story.model, story.round
    story.head, story.model, story.round = header.previous_head, header.parent_model, round - 1
    leaf = story.leaf(slot)
    story.head, story.model, story.round = before
    return leaf


@dataclass(frozen=True)
class Account:
    """As the contract's `Budget.Account`."""

    terms: bytes
    budget: list[int]
    said: bytes
    spent: list[int]

    @property
    def named(self) -> bytes:
        return keccak(self.terms + _words(self.budget))

    @property
    def signed(self) -> bytes:
        return keccak(self.said + _words(self.spent))


@dataclass(frozen=True)
class Overspent:
    """As the contract's."""

    record: ModelUpdate
    signature: bytes
    account: Account
    proof: list[bytes]
    annex_proof: list[bytes]


def _words(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def appointed(story: Story) -> None:
    call, of = story.call, story.federation
    second, heir, auditor, admin = (address(KEYS[name]) for name in ("second", "heir", "auditor", "admin"))
    coordinator = address(KEYS["coordinator"])
    call("coordinator", "entrust", of, story.chain.succession.address, why="no federation")
    story.open()
    for who in ("stranger", "second"):
        call(who, "entrust", of, story.chain.succession.address, why=f"the {who}")
    call("coordinator", "handOver", of, heir, why="not entrusted")
    call("stranger", "SuccessionLedger:appoint", of, [second], 100, why="the stranger")
    call("coordinator", "entrust", of, story.chain.succession.address)
    call("coordinator", "entrust", of, coordinator, why="twice")
    call("coordinator", "handOver", of, heir, why="no keeper")
    call("second", "openRound", of, 1, GENESIS, 0, why="a coordinator that does not lead")
    call("second", "SuccessionLedger:appoint", of, [second], 100, why="a coordinator that does not lead")
    call("coordinator", "SuccessionLedger:reportAlive", of, why="no order")
    call("second", "SuccessionLedger:takeOver", of, 0, why="no order")
    for successors, patience in (
        ([], 100),
        ([second, heir] * 8 + [second], 100),
        ([], 0),
        ([second], 0),
        ([second], 2**20),
        ([coordinator], 100),
        ([second, heir, heir], 100),
        ([second, NOBODY], 100),
    ):
        why = f"{len(successors)} successors, patience {patience}"
        call("coordinator", "SuccessionLedger:appoint", of, successors, patience, why=why)
    call("coordinator", "SuccessionLedger:appoint", of, [second, auditor, heir, admin], 100)
    call("coordinator", "SuccessionLedger:appoint", of, [heir], 100, why="twice")
    call("coordinator", "openRound", of, 1, GENESIS, 0)
    story.chain.later(90)
    call("second", "SuccessionLedger:reportAlive", of, why="it does not lead")
    call("coordinator", "SuccessionLedger:reportAlive", of)
    story.chain.later(50)
    call("second", "SuccessionLedger:takeOver", of, 0, why="it was heard")
    story.seal(0, 1)
    call("coordinator", "entrust", of, heir, why="a round is sealed")
    story.chain.later(60)
    call("second", "SuccessionLedger:takeOver", of, 0, why="it has sealed")


def succeeded(story: Story) -> None:
    call, of = story.call, story.federation
    heir = address(KEYS["heir"])
    story.chain.later(100)
    call("heir", "SuccessionLedger:takeOver", of, 2, why="behind two that have their time")
    call("heir", "SuccessionLedger:takeOver", of, 0, why="another's place")
    call("heir", "SuccessionLedger:takeOver", of, 4, why="no place")
    story.chain.later(60)
    call("auditor", "SuccessionLedger:takeOver", of, 1, why="it is the auditor")
    call("second", "SuccessionLedger:takeOver", of, 0)
    call("second", "SuccessionLedger:takeOver", of, 0, why="twice")
    call("coordinator", "sealRound", of, story.header((0, 1)), 0, 0, why="its term is over")
    call("coordinator", "refuseUpdate", of, 0, why="its term is over")
    call("coordinator", "closeFederation", of, 1, story.head, CONFIG, why="its term is over")
    call("coordinator", "SuccessionLedger:reportAlive", of, why="its term is over")
    story.seal(0, 1, caller="second")
    until = story.chain.succession.functions.takeoverFrom(of, 3).call()
    story.chain.later(until - 1 - story.chain.now)
    call("admin", "SuccessionLedger:takeOver", of, 3, why="a second too early")
    story.chain.later(until - story.chain.now)
    call("admin", "SuccessionLedger:takeOver", of, 3, why="it is the admin")
    call("heir", "SuccessionLedger:takeOver", of, 2)
    call("auditor", "SuccessionLedger:takeOver", of, 1, why="it was passed")
    story.submit(3)
    call("heir", "refuseUpdate", of, 3)
    story.seal(0, 1, submissions=1, caller="heir")
    receipt = Receipt(of, 3, 1, story.leaf(4))
    tree, header = story.trees[3], story.headers[3]
    evidence = tree[0][1], list(path(tree, 1))
    for who in ("coordinator", "second"):
        signature = sign(receipt, story.domain, KEYS[who])
        call("stranger", "dispute", of, [header], receipt, signature, *evidence, why=f"a receipt of the {who}")
    call("stranger", "dispute", of, [header], receipt, sign(receipt, story.domain, KEYS["heir"]), *evidence)
    story.chain.later(250)
    call("admin", "SuccessionLedger:takeOver", of, 3, why="disputed")
    call("stranger", "grantRole", Role("AUDITOR_ROLE"), heir, why="no admin")
    call("admin", "grantRole", Role("AUDITOR_ROLE"), address(KEYS["second"]), why="a coordinator")
    call("admin", "grantRole", Role("AUDITOR_ROLE"), address(KEYS["admin"]), why="the admin")
    call("admin", "grantRole", Role("AUDITOR_ROLE"), heir)
    call("heir", "resolveDispute", of, header, False, why="it leads")
    call("auditor", "resolveDispute", of, header, False)
    call("heir", "closeFederation", of, 3, story.head, CONFIG)
    story.chain.later(250)
    call("admin", "SuccessionLedger:takeOver", of, 3, why="over")


def handed(story: Story) -> None:
    """A keeper that is an account, and hands a federation to and fro."""
    call, of = story.call, story.federation
    second, heir, auditor = (address(KEYS[name]) for name in ("second", "heir", "auditor"))
    call("coordinator", "SuccessionLedger:appoint", of, [second], 1)
    story.open()
    call("coordinator", "entrust", of, address(KEYS["stranger"]))
    story.chain.later(10)
    call("second", "SuccessionLedger:takeOver", of, 0, why="entrusted to another")
    call("stranger", "handOver", of, auditor, why="the auditor")
    call("stranger", "handOver", of, heir, why="an auditor by now")
    call("stranger", "handOver", of, second)
    call("coordinator", "openRound", of, 1, GENESIS, 0, why="handed over")
    call("second", "openRound", of, 1, GENESIS, 0)


def overspent(story: Story) -> None:
    call, of = story.call, story.federation
    story.open()
    call("coordinator", "openRound", of, 1, GENESIS, 0)
    story.seal(0, 1)
    account = Account(keccak(b"terms"), [7, 3], keccak(b"said"), [6, 5])
    frugal, greedy = (Account(account.terms, [7, 3], account.said, spent) for spent in ([7, 3], [8, 3]))
    # with one sibling on either side in the annex
    named = {"decisions": GENESIS, "privacy": account.named, "scores": CONFIG}
    own = {at: {"privacy": one.signed} for at, one in enumerate((account, frugal, greedy))}
    signed = {at: story.update(at, **changes) for at, changes in own.items()}
    story.seal(0, 1, 2, own=own, annex=annex_root(named))
    header, tree = story.headers[2], story.trees[2]

    def evidence(at: int, of_account: Account, **changes: Any) -> Overspent:
        made = Overspent(*signed[at], of_account, list(path(tree, at)), list(annex_path(named, "privacy")))
        return replace(made, **changes)

    def void(why: str, shown: Overspent, headers: list[Header] | None = None) -> None:
        call("stranger", "voidOverspent", of, headers or [header], shown, why=why)

    good = evidence(0, account)
    void("not sealed", good, [replace(header, round=3)])
    void("another header", good, [replace(header, count=2)])
    void("another round's tree", good, [story.headers[1], header])
    void("another's signature", replace(good, signature=signed[1][1]))
    void("another slot's proof", replace(good, proof=list(path(tree, 1))))
    void("another record", replace(good, record=replace(good.record, samples=ZERO)))
    void("a short proof in the annex", replace(good, annex_proof=good.annex_proof[:-1]))
    void("another name in the annex", replace(good, annex_proof=list(annex_path(named, "scores"))))
    void("another budget", evidence(0, replace(account, budget=[6, 3])))
    void("another account", evidence(0, greedy))
    void("all of the budget", evidence(1, frugal))
    story.seal(3, 4)
    story.submit(2)
    void("", good)
    void("it is void", good)
    # more of one gradient than is left, and more of two than there are while the sum is within the budget
    for at, shown in ((2, greedy), (0, replace(account, spent=[0, 4]))):
        story.model = header.parent_model
        call("coordinator", "openRound", of, story.round + 1, story.model, 0)
        own[at] = {"privacy": shown.signed}
        signed[at] = story.update(at, **own[at])
        story.seal(0, 1, 2, own=own, annex=annex_root(named))
        header, tree = story.headers[story.round], story.trees[story.round]
        void("", evidence(at, shown))


def outdated(story: Story) -> None:
    call, of = story.call, story.federation
    story.open(staleness=1)
    call("coordinator", "openRound", of, 1, GENESIS, 0)
    story.seal(0, 1)
    first = story.model
    call("coordinator", "entrust", of, address(KEYS["heir"]), why="a round is sealed")
    story.seal(0, 1)
    old, late = story.update(0, parent_model=GENESIS), story.update(1, parent_model=first)
    story.seal(0, 1, 2, own={0: {"parent_model": GENESIS}, 1: {"parent_model": first}})
    tree, headers = story.trees[3], [story.headers[number] for number in (1, 2, 3)]
    proof = list(path(tree, 0))

    def contest(why: str, shown: list[Header], record: ModelUpdate, signature: bytes, siblings: list[bytes]) -> None:
        call("stranger", "disputeUpdate", of, shown, record, signature, siblings, why=why)

    contest("not sealed", headers, replace(old[0], round=4), old[1], proof)
    contest("headers of one round", headers[2:], *old, proof)
    contest("headers before the round", headers[:2], *old, proof)
    contest("a gap", headers[::2], *old, proof)
    contest("another header", [replace(headers[1], count=3), headers[2]], *old, proof)
    contest("as old as it may be", headers[1:], *late, list(path(tree, 1)))
    contest("of the last model", headers, *story_update(story, 2), list(path(tree, 2)))
    contest("another's signature", headers[1:], old[0], late[1], proof)
    contest("another slot's proof", headers[1:], *old, list(path(tree, 1)))
    contest("", headers[1:], *old, proof)
    contest("disputed", headers[1:], *old, proof)
    call("auditor", "resolveDispute", of, headers[2], True)
    contest("it is void", headers[1:], *old, proof)
    story.model = headers[2].parent_model
    call("coordinator", "openRound", of, 4, story.model, 0)
    foreign = story.update(0, parent_model=CONFIG)
    story.seal(0, 1, own={0: {"parent_model": CONFIG}})
    shown, tree = [*headers, story.headers[4]], story.trees[4]
    contest("", shown, *foreign, list(path(tree, 0)))
    call("auditor", "resolveDispute", of, shown[-1], False)
    contest("it is final", shown, *foreign, list(path(tree, 0)))


def story_update(story: Story, slot: int) -> tuple[ModelUpdate, bytes]:
    """What a slot signed for the last sealed round."""
    header = story.headers[story.round]
    before = story.head, story.model, story.round
    story.head, story.model, story.round = header.previous_head, header.parent_model, story.round - 1
    signed = story.update(slot)
    story.head, story.model, story.round = before
    return signed


def main() -> None:
    """Plays the story and writes it down."""
    chain = Chain()
    story = Story(chain)
    for part in (opened, sealed, disputed, final):
        part(story)
    story = Story(chain, keccak(b"a federation with successors"))
    for part in (appointed, succeeded):
        part(story)
    for part in (handed, overspent, outdated):
        part(Story(chain, keccak(part.__name__.encode())))
    accounts = {name: address(key).lower() for name, key in KEYS.items()}
    keeper = chain.succession.address.lower()
    domain = {"chainId": str(chain.domain.chain_id), "contract": chain.domain.contract.lower(), "keeper": keeper}
    document = {
        "domain": domain,
        "accounts": accounts,
        "certificates": {name: certificate(name) for name in WHO},
        "calls": CALLS,
    }
    (HERE / "test/vectors.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(CALLS)} calls, {sum('refused' in one for one in CALLS)} refused")


if __name__ == "__main__":
    main()
