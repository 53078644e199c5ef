"""Writes test/vectors.json: calls of RoundLedger, what the Solidity contract answered to each, and the state after it.

    python contracts/fabric/vectors.py

The contract is executed in py-evm; the chaincode must give the same heads, states and refusals for the same calls at the same times.
"""

import ast
import datetime
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from web3 import EthereumTesterProvider, Web3

from engine.encoding import hexed, keccak
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
from engine.ledger.trees import EMPTY, levels, path
from engine.ledger.typed import Domain

HERE = Path(__file__).parent
ARTEFACT = HERE.parents[1] / "engine/ledger/artefacts/RoundLedger.json"
ZERO, KEEP_CLOSED, SLOTS = b"\0" * 32, 2**64 - 1, 5
FEDERATION, CONFIG, GENESIS = (keccak(name) for name in (b"federation", b"config", b"genesis"))
WHO = ("admin", "coordinator", "auditor", "second", "stranger")
KEYS = {name: keccak(b"fabric vector " + name.encode()) for name in WHO}
HOSPITALS = [keccak(b"fabric hospital %d" % slot) for slot in range(SLOTS)]
NEW_KEY = keccak(b"fabric hospital 1, second key")
ORGANISATIONS = [keccak(b"organisation %d" % slot) for slot in range(SLOTS)]
ATTRIBUTES = x509.ObjectIdentifier("1.2.3.4.5.6.7.8.1")  # where Fabric's authority puts them
CALLS: list[dict[str, Any]] = []


def plain(value: Any) -> Any:
    """As the chaincode takes it: text, or JSON text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return hexed(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return json.dumps([json.loads(plain(one)) if not isinstance(one, bytes) else hexed(one) for one in value])
    if isinstance(value, str):
        return value
    names = {
        field.name: _camel(field.name)
        for field in fields(value)
        if not (isinstance(value, Header) and field.name == "head")
    }
    said = {camel: plain(getattr(value, name)) for name, camel in names.items()}
    return json.dumps({{"fromAddress": "from", "toAddress": "to"}.get(name, name): one for name, one in said.items()})


def _camel(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


def solid(value: Any) -> Any:
    """As the contract takes it."""
    if isinstance(value, Header):
        return value.abi
    if isinstance(value, list):
        return [solid(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return tuple(getattr(value, field.name) for field in fields(value))
    return value


class Chain:
    """The contract in py-evm."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.web3 = Web3(EthereumTesterProvider(self.tester))
        for key in KEYS.values():
            self.tester.add_account(hexed(key))
            self.web3.eth.send_transaction({"from": self.tester.get_accounts()[0], "to": address(key), "value": 10**20})
        artefact = json.loads(ARTEFACT.read_text())
        made = self.web3.eth.contract(abi=artefact["abi"], bytecode=artefact["bytecode"])
        roles = [address(KEYS[name]) for name in ("admin", "coordinator", "auditor")]
        done = made.constructor(*roles, 0).transact({"from": address(KEYS["admin"])})
        where = self.web3.eth.get_transaction_receipt(done)["contractAddress"]
        self.contract = self.web3.eth.contract(where, abi=artefact["abi"])
        self.domain = Domain(self.web3.eth.chain_id, where)
        self.errors = {keccak(_signature(one).encode())[:4]: one for one in artefact["abi"] if one["type"] == "error"}
        role = keccak(b"COORDINATOR_ROLE")
        self.contract.functions.grantRole(role, address(KEYS["second"])).transact({"from": address(KEYS["admin"])})

    def call(self, caller: str, name: str, *values: Any, why: str = "") -> None:
        """One call, written down with its answer; `why` is said by the test."""
        function = getattr(self.contract.functions, name)(*map(solid, values))
        sender = {"from": address(KEYS[caller]), "gas": 3_000_000}
        step = {"caller": caller, "call": name, "args": [plain(value) for value in values], "why": why}
        step["time"] = int(self.tester.get_block_by_number("pending")["timestamp"])
        try:
            function.call(sender, "pending")
        except TransactionFailed as error:
            step["refused"] = self.named(ast.literal_eval(str(error).partition(": ")[2]))
        else:
            done = function.transact(sender)
            block = self.web3.eth.get_transaction_receipt(done)["blockNumber"]
            step["time"] = int(self.web3.eth.get_block(block)["timestamp"])
        step["state"] = self.state()
        CALLS.append(step)

    def named(self, data: bytes) -> str:
        """A refusal as the chaincode writes it."""
        error = self.errors[data[:4]]
        types = [one["type"] for one in error["inputs"]]
        values = self.web3.codec.decode(types, data[4:])
        if error["name"] in ("AccessControlUnauthorizedAccount", "EnforcedPause"):
            return error["name"]
        shown = [hexed(v) if isinstance(v, bytes) else v.lower() if isinstance(v, str) else str(v) for v in values]
        return f"{error['name']}({','.join(shown)})"

    def state(self) -> dict[str, Any] | None:
        """What is asked after each call."""
        head, model, config, registry, progress, final, disputed, closing, coordinator, staleness = (
            self.contract.functions.federationState(FEDERATION).call()
        )
        if not progress[3]:
            return None
        last = progress[0]
        now = int(self.web3.eth.get_block("latest")["timestamp"])
        status = {str(r): self.contract.functions.roundStatus(FEDERATION, r).call() for r in range(last + 3)}
        names = ("round", "deadline", "sealedAt", "slots", "quorum", "window", "submissions")
        told = {name: str(value) for name, value in zip(names, progress[:7], strict=True)}
        phase = ("IDLE", "OPEN", "DISPUTED", "CLOSED", "ABORTED")[progress[7]]
        return {
            **{
                k: hexed(v)
                for k, v in (("head", head), ("model", model), ("configHash", config), ("registryRoot", registry))
            },
            **{
                "finalized": str(final),
                "disputed": str(disputed),
                "closing": hexed(closing),
                "coordinator": coordinator.lower(),
                "staleness": str(staleness),
            },
            **told,
            "phase": phase,
            "status": status,
            "asked": now,
        }

    def later(self, seconds: int) -> None:
        """Time passes."""
        self.tester.time_travel(int(self.tester.get_block_by_number("pending")["timestamp"]) + seconds)

    @property
    def now(self) -> int:
        return int(self.tester.get_block_by_number("pending")["timestamp"])


def certificate(name: str) -> str:
    """A client's certificate as Fabric's authority issues it, PEM: its account, and whether it is the admin, are attributes."""
    attributes = {
        "pulseledger.account": address(KEYS[name]).lower(),
        **({"pulseledger.admin": "true"} if name == "admin" else {}),
    }
    key = ec.derive_private_key(int.from_bytes(keccak(KEYS[name]), "big") >> 1, ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1 + WHO.index(name))
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36_500))
        .add_extension(
            x509.UnrecognizedExtension(ATTRIBUTES, json.dumps({"attrs": attributes}).encode()), critical=False
        )
    )
    return made.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(serialization.Encoding.PEM).decode()


def _signature(one: dict[str, Any]) -> str:
    return f"{one['name']}({','.join(value['type'] for value in one['inputs'])})"


class Story:
    """Rounds of a federation with everything that can go right and wrong in them."""

    def __init__(self) -> None:
        self.chain = Chain()
        self.domain = self.chain.domain
        leaves = [
            keccak(b"\0" + slot.to_bytes(4, "big") + bytes.fromhex(address(key)[2:]) + ORGANISATIONS[slot])
            for slot, key in enumerate(HOSPITALS)
        ]
        self.registry = levels(leaves)
        self.head, self.model, self.round = b"", GENESIS, 0
        self.trees: dict[int, Any] = {}
        self.headers: dict[int, Header] = {}

    def proof(self, slot: int) -> list[bytes]:
        return list(path(self.registry, slot))

    def update(self, slot: int, **changes: Any) -> tuple[ModelUpdate, bytes]:
        record = ModelUpdate(
            federation=FEDERATION,
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

    def leaf(self, slot: int) -> bytes:
        return update_leaf(SignedUpdate(*self.update(slot)), self.domain)

    def header(self, slots: tuple[int, ...], **changes: Any) -> Header:
        tree = levels([self.leaf(slot) if slot in slots else EMPTY for slot in range(SLOTS)])
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

    def seal(self, *slots: int, next: int = 0, submissions: int = 0, caller: str = "coordinator") -> None:
        header = self.header(slots)
        self.chain.call(caller, "sealRound", FEDERATION, header, submissions, next)
        self.headers[header.round] = header
        self.head, self.model, self.round = head_of(header, self.domain, FEDERATION), header.model, header.round

    def submit(self, slot: int, why: str = "", signature: bytes | None = None, **changes: Any) -> None:
        record, own = self.update(slot, **changes)
        account = address(HOSPITALS[slot])
        self.chain.call(
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
    call, root = story.chain.call, story.registry[-1][0]
    good = (FEDERATION, CONFIG, root, GENESIS, SLOTS, 2, 100, 3)
    call("stranger", "openFederation", *good, why="no coordinator")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0, why="no federation")
    for place, wrong in ((2, ZERO), (3, ZERO), (5, 0), (5, SLOTS + 1)):
        call("coordinator", "openFederation", *good[:place], wrong, *good[place + 1 :], why=f"argument {place}")
    call("coordinator", "openFederation", *good)
    story.head = bytes(story.chain.contract.functions.head(FEDERATION).call())
    call("coordinator", "openFederation", *good, why="twice")
    call("coordinator", "openRound", FEDERATION, 2, GENESIS, 0, why="another number")
    call("coordinator", "openRound", FEDERATION, 1, CONFIG, 0, why="another model")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, story.chain.now - 100, why="a deadline that is over")
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0)
    call("coordinator", "openRound", FEDERATION, 1, GENESIS, 0, why="twice")
    call("stranger", "abortRound", FEDERATION, why="it has no deadline")


def sealed(story: Story) -> None:
    call = story.chain.call
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
    call = story.chain.call
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
    call = story.chain.call
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


def main() -> None:
    """Plays the story and writes it down."""
    story = Story()
    for part in (opened, sealed, disputed, final):
        part(story)
    accounts = {name: address(key).lower() for name, key in KEYS.items()}
    domain = {"chainId": str(story.domain.chain_id), "contract": story.domain.contract.lower()}
    document = {
        "domain": domain,
        "federation": hexed(FEDERATION),
        "accounts": accounts,
        "certificates": {name: certificate(name) for name in WHO},
        "calls": CALLS,
    }
    (HERE / "test/vectors.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(CALLS)} calls, {sum('refused' in one for one in CALLS)} refused")


if __name__ == "__main__":
    main()
