"""The contracts against independent computations; every guard refuses, and says what it refused."""

import ast
import hashlib
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_abi import decode, encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.typed_transactions import TypedTransaction
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from eth_utils import decode_hex, keccak, to_checksum_address
from hexbytes import HexBytes
from reference import ROOT

from engine.ledger.format import PURPOSES, STUDY_PURPOSES

NAMES = (
    "RoundLedger",
    "ReputationLedger",
    "SyntheticLedger",
    "CommitteeLedger",
    "MaskLedger",
    "SuccessionLedger",
    "StudyLedger",
)
ARTEFACTS = {name: json.loads((ROOT / f"engine/ledger/artefacts/{name}.json").read_text()) for name in NAMES}

ZERO = bytes(32)
FEDERATION, CONFIG, GENESIS, POLICY = (bytes([n]) * 32 for n in (0xF1, 0xC1, 0x60, 0xB0))
SLOTS, QUORUM, WINDOW, STALENESS, KEEP_CLOSED = 3, 2, 3600, 2, 2**64 - 1
EMPTY = keccak(b"\x02PulseLedger empty slot")
ADMIN_ROLE = ZERO
COORDINATOR_ROLE, REVIEWER_ROLE, AUDITOR_ROLE, REGISTRAR_ROLE = (
    keccak(text=f"{name}_ROLE") for name in ("COORDINATOR", "REVIEWER", "AUDITOR", "REGISTRAR")
)
# Enumerations of the contracts, in their order.
NONE, OPEN, SEALED, DISPUTED, FINAL, VOID = range(6)
ABORTED = 4  # of phases
UNKNOWN, PENDING, PREVIEWED, DENIED, APPROVED, ACCEPTED, REJECTED, EXPIRED = range(8)

HOSPITALS = [Account.from_key(bytes([slot + 1]) * 32) for slot in range(SLOTS)]
ORGANISATIONS = [keccak(text=f"organisation {slot}") for slot in range(SLOTS)]


# --- Events -----------------------------------------------------------------------------------------------------------


def bodies(source: str) -> dict[str, str]:
    """Function of a source -> its code with its braces."""
    found = {}
    for match in re.finditer(r"function (\w+)\(", source):
        start = source.find("{", match.end())
        if source.find(";", match.end(), start) >= 0:
            continue  # declared only
        depth, end = 1, start + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        found[match[1]] = source[start:end]
    return found


CALLED = {purpose.function for purposes in (PURPOSES, STUDY_PURPOSES) for purpose in purposes.values()}


@pytest.mark.parametrize("function", sorted(CALLED - {"", "grantRole"}))  # a role that is given twice is given silently
def test_every_call_of_a_ledger_emits_an_event_in_any_case(function: str):
    """By its events a call that ran is told from one that met no contract, where every call succeeds."""
    known: dict[str, str] = {}
    for path in (ROOT / "contracts/src").glob("*.sol"):
        known |= bodies(re.sub(r"//.*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/", "", path.read_text()))

    def emits(name: str) -> bool:
        code = known[name][1:-1]
        if "return;" in code:
            return False
        while "{" in code:  # what is in a branch need not happen
            code = re.sub(r"\{[^{}]*\}", ";", code)
        first = [re.match(r"(emit )?(\w+)\(", statement.strip()) for statement in code.split(";")]
        return any(found and (found[1] or (found[2] in known and emits(found[2]))) for found in first)

    assert emits(function)


# --- Trees and heads, written apart from the engine's own -------------------------------------------------------------


def tree(leaves: list[bytes]) -> list[list[bytes]]:
    level = list(leaves)
    while len(level) & (len(level) - 1):
        level.append(EMPTY)
    levels = [level]
    while len(level) > 1:
        level = [keccak(b"\x01" + level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        levels.append(level)
    return levels


def root_of(leaves: list[bytes]) -> bytes:
    return tree(leaves)[-1][0]


def proof_of(leaves: list[bytes], slot: int) -> list[bytes]:
    return [level[(slot >> depth) ^ 1] for depth, level in enumerate(tree(leaves)[:-1])]


REGISTRY = [
    keccak(b"\0" + slot.to_bytes(4, "big") + bytes.fromhex(HOSPITALS[slot].address[2:]) + ORGANISATIONS[slot])
    for slot in range(SLOTS)
]
# What a hospital adds to a message to prove its slot.
IDENTITY = [(HOSPITALS[slot].address, ORGANISATIONS[slot], proof_of(REGISTRY, slot)) for slot in range(SLOTS)]


def twice(types: list[str], values: list[Any]) -> bytes:
    return keccak(keccak(encode(types, values)))


def named(name: str, digest: bytes) -> bytes:
    """The leaf of a named digest in an annex, and the annex itself where nothing else is named."""
    return keccak(keccak(keccak(text=name) + digest))


def pair(left: bytes, right: bytes) -> bytes:
    """The node over two of OpenZeppelin's leaves."""
    return keccak(min(left, right) + max(left, right))


# --- A chain of its own, without any code of the engine ---------------------------------------------------------------


def type_of(item: dict) -> str:
    if not item["type"].startswith("tuple"):
        return item["type"]
    return "(" + ",".join(type_of(part) for part in item["components"]) + ")" + item["type"][5:]


def signature_of(item: dict) -> str:
    return item["name"] + "(" + ",".join(type_of(part) for part in item["inputs"]) + ")"


def by_name(item: dict, value: Any) -> Any:
    """Turn a decoded tuple into a dictionary by the names of the ABI."""
    if not item["type"].startswith("tuple") or item["type"] != "tuple":
        return value
    return {part["name"]: by_name(part, v) for part, v in zip(item["components"], value, strict=True)}


class Contract:
    def __init__(self, tester: EthereumTester, name: str, sender: str, types: list[str], values: list[Any]) -> None:
        self.tester, self.abi = tester, ARTEFACTS[name]["abi"]
        self.functions = {item["name"]: item for item in self.abi if item["type"] == "function"}
        # What the RoundLedger refuses comes through the contracts that ask it.
        known = (*self.abi, *ARTEFACTS["RoundLedger"]["abi"])
        self.errors = {keccak(text=signature_of(i))[:4]: i for i in known if i["type"] == "error"}
        data = ARTEFACTS[name]["bytecode"] + encode(types, values).hex()
        sent = tester.send_transaction({"from": sender, "gas": 7_000_000, "data": data})
        self.address = to_checksum_address(tester.get_transaction_receipt(sent)["contract_address"])

    def data(self, name: str, *arguments: Any) -> str:
        item = self.functions[name]
        types = [type_of(part) for part in item["inputs"]]
        return "0x" + (keccak(text=signature_of(item))[:4] + encode(types, arguments)).hex()

    def send(self, sender: str, name: str, *arguments: Any) -> dict:
        transaction = {"from": sender, "to": self.address, "gas": 1_000_000, "data": self.data(name, *arguments)}
        receipt = self.tester.get_transaction_receipt(self.tester.send_transaction(transaction))
        if receipt["status"] != 1:
            raise AssertionError(f"{name}: {self.refusal(sender, name, *arguments)}")
        return receipt

    def view(self, name: str, *arguments: Any) -> Any:
        outputs = self.functions[name]["outputs"]
        sender = self.tester.get_accounts()[0]
        answer = self.tester.call({"from": sender, "to": self.address, "data": self.data(name, *arguments)})
        values = decode([type_of(part) for part in outputs], bytes(HexBytes(answer)))
        values = tuple(by_name(part, value) for part, value in zip(outputs, values, strict=True))
        return values[0] if len(values) == 1 else values

    def refusal(self, sender: str, name: str, *arguments: Any) -> tuple[str, tuple]:
        """Return the error, with its arguments, of a call that must fail."""
        with pytest.raises(TransactionFailed) as refused:
            self.tester.call({"from": sender, "to": self.address, "data": self.data(name, *arguments)})
        # The tester hands the revert data on as the text of a bytes literal.
        text = str(refused.value)
        data = ast.literal_eval(text) if text.startswith(("b'", 'b"')) else decode_hex(text)
        item = self.errors[data[:4]]
        return item["name"], decode([type_of(part) for part in item["inputs"]], data[4:])

    def events(self) -> Iterator[tuple[str, dict, int]]:
        """All events so far: name, arguments, time of the block."""
        known = {keccak(text=signature_of(i)): i for i in self.abi if i["type"] == "event"}
        for log in self.tester.get_logs(from_block=0, address=self.address):
            topics = [bytes(HexBytes(topic)) for topic in log["topics"]]
            item = known[topics[0]]
            inputs = item["inputs"]
            types = [p["type"] for p in inputs if p["indexed"]]
            indexed = [decode([kind], topic)[0] for kind, topic in zip(types, topics[1:], strict=True)]
            plain = list(decode([type_of(p) for p in inputs if not p["indexed"]], bytes(HexBytes(log["data"]))))
            values = {p["name"]: by_name(p, (indexed if p["indexed"] else plain).pop(0)) for p in inputs}
            yield item["name"], values, self.tester.get_block_by_number(log["block_number"])["timestamp"]


UPDATE = (
    "schema:uint16 federation:bytes32 round:uint64 slot:uint32 parentModel:bytes32 parentHead:bytes32 update:bytes32 "
    "samples:bytes32 metrics:bytes32 privacy:bytes32 configHash:bytes32 nonce:uint64 deadline:uint64"
)
REQUEST = (
    "federation:bytes32 slot:uint32 class_:uint8 generator:uint8 quantity:uint32 realFloor:uint32 realCount:bytes32 "
    "settings:bytes32 policyVersion:uint32 nonce:uint64 deadline:uint64"
)
STRUCTS = {
    "ModelUpdate": UPDATE,
    "Receipt": "federation:bytes32 round:uint64 slot:uint32 leaf:bytes32",
    "Availability": "federation:bytes32 round:uint64 slot:uint32 leaf:bytes32",
    "MaskOpening": "federation:bytes32 round:uint64 slot:uint32 opening:bytes32",
    "KeyRotation": "federation:bytes32 slot:uint32 from:address to:address round:uint64",
    "SyntheticRequest": REQUEST,
    "SyntheticPreview": "request:bytes32 generated:uint32 batch:bytes32 evidence:bytes32",
    "SyntheticReview": "request:bytes32 approve:bool granted:uint32 reason:bytes32 deadline:uint64",
    "SyntheticReport": (
        "request:bytes32 generated:uint32 batch:bytes32 evidence:bytes32 aucBp:uint16 nndrBp:uint16 "
        "distanceBp:uint16 duplicates:uint32 repeated:uint32 spreadBp:uint16 utilityBp:int16 recognisedBp:uint16"
    ),
}


@dataclass
class World:
    """All contracts on one chain, and the accounts of every role."""

    tester: EthereumTester
    accounts: dict[str, str]
    keys: dict[str, bytes]
    rounds: Contract = field(init=False)
    reputations: Contract = field(init=False)
    synthetic: Contract = field(init=False)
    studies: Contract = field(init=False)
    headers: list[tuple] = field(default_factory=list)
    nonce: int = 0

    def __getattr__(self, role: str) -> str:
        try:
            return self.__dict__["accounts"][role]
        except KeyError:
            raise AttributeError(role) from None

    def message(self, contract: Contract, kind: str, values: tuple) -> Any:
        fields = [part.split(":") for part in STRUCTS[kind].split()]
        domain = {
            "name": "PulseLedger",
            "version": "2",
            "chainId": self.tester.backend.chain.chain_id,
            "verifyingContract": contract.address,
        }
        types = {kind: [{"name": name, "type": type_} for name, type_ in fields]}
        return encode_typed_data(domain, types, {name: v for (name, _), v in zip(fields, values, strict=True)})

    def digest(self, contract: Contract, kind: str, values: tuple) -> bytes:
        message = self.message(contract, kind, values)
        return keccak(b"\x19" + message.version + message.header + message.body)

    def sign(self, contract: Contract, kind: str, values: tuple, key: bytes) -> bytes:
        return bytes(Account.sign_message(self.message(contract, kind, values), key).signature)

    def state(self) -> dict:
        return self.rounds.view("federationState", FEDERATION)

    def open_round(self) -> None:
        state = self.state()
        number = state["progress"]["round"] + 1
        self.rounds.send(self.coordinator, "openRound", FEDERATION, number, state["model"], 0)

    def header(self, leaves: list[bytes] | None = None, annex: bytes = ZERO) -> tuple:
        state = self.state()
        number = state["progress"]["round"] + 1
        root = root_of(leaves or [keccak(text=f"leaf {number} {slot}") for slot in range(SLOTS)])
        model = keccak(text=f"model {number}")
        return number, state["head"], root, state["model"], model, QUORUM, annex

    def seal(self, header: tuple, following: int = 0) -> dict:
        submissions = self.state()["progress"]["submissions"]
        receipt = self.rounds.send(self.coordinator, "sealRound", FEDERATION, header, submissions, following)
        self.headers.append(header)
        return receipt

    def status(self, number: int) -> int:
        return self.rounds.view("roundStatus", FEDERATION, number)

    def wait(self, seconds: int) -> None:
        self.tester.time_travel(self.tester.get_block_by_number("latest")["timestamp"] + seconds)

    def update(self, slot: int, key: bytes | None = None, **changes: Any) -> tuple:
        """Arguments of `submitUpdate`."""
        state = self.state()
        values = {
            "schema": 2,
            "federation": FEDERATION,
            "round": state["progress"]["round"] + 1,
            "slot": slot,
            "parentModel": state["model"],
            "parentHead": state["head"],
            "update": keccak(text=f"update {slot}"),
            "samples": keccak(text="samples"),
            "metrics": keccak(text="metrics"),
            "privacy": ZERO,
            "configHash": CONFIG,
            "nonce": 1,
            "deadline": 0,
        }
        record = tuple((values | changes).values())
        signature = self.sign(self.rounds, "ModelUpdate", record, key or HOSPITALS[slot].key)
        return record, signature, *IDENTITY[slot]

    def dispute(self, header: tuple, leaves: list[bytes], slot: int, key: bytes | None = None) -> tuple:
        """Arguments of `dispute`: a coordinator promised another leaf than the sealed one."""
        receipt = (FEDERATION, header[0], slot, keccak(text="promised"))
        signature = self.sign(self.rounds, "Receipt", receipt, key or self.keys["coordinator"])
        return FEDERATION, [header], receipt, signature, leaves[slot], proof_of(leaves, slot)

    def rotation(self, slot: int, old: bytes, new: bytes, signer: bytes | None = None) -> tuple:
        """Arguments of `rotateKey`."""
        number = self.state()["progress"]["round"] + 1
        record = (FEDERATION, slot, Account.from_key(old).address, Account.from_key(new).address, number)
        signatures = [self.sign(self.rounds, "KeyRotation", record, key) for key in (signer or old, new)]
        return record, ORGANISATIONS[slot], proof_of(REGISTRY, slot), *signatures

    def request(
        self, slot: int, quantity: int, floor: int, key: bytes | None = None, class_: int = 2, generator: int = 2
    ) -> tuple:
        """Arguments of `requestSynthetic`."""
        self.nonce += 1
        version = self.synthetic.view("policyVersion", FEDERATION)
        count, settings = keccak(text="count"), keccak(text="settings")
        values = (FEDERATION, slot, class_, generator, quantity, floor, count, settings, version, self.nonce, 0)
        signature = self.sign(self.synthetic, "SyntheticRequest", values, key or HOSPITALS[slot].key)
        return values, signature, *IDENTITY[slot]

    def ask(self, slot: int, quantity: int, floor: int, class_: int = 2) -> bytes:
        arguments = self.request(slot, quantity, floor, class_=class_)
        self.synthetic.send(self.stranger, "requestSynthetic", *arguments)
        return self.digest(self.synthetic, "SyntheticRequest", arguments[0])

    def preview(self, id: bytes, generated: int, slot: int = 1) -> tuple:
        """Arguments of `previewSynthetic`."""
        values = (id, generated, keccak(text="preview"), keccak(text="seen"))
        return id, values, self.sign(self.synthetic, "SyntheticPreview", values, HOSPITALS[slot].key)

    def review(self, id: bytes, granted: int, key: bytes | None = None) -> tuple:
        """Arguments of `reviewSynthetic`; 0 denies."""
        values = (id, granted > 0, granted, keccak(text="reason"), 0)
        signature = self.sign(self.synthetic, "SyntheticReview", values, key or self.keys["reviewer"])
        return id, values, signature, self.reviewer

    def report(self, id: bytes, generated: int, slot: int = 1, key: bytes | None = None, duplicates: int = 0) -> tuple:
        """Arguments of `reportSynthetic`."""
        batch, evidence = keccak(text="batch"), keccak(text="evidence")
        values = (id, generated, batch, evidence, 6000, 9000, 10_000, duplicates, 0, 9000, -5, 9000)
        signature = self.sign(self.synthetic, "SyntheticReport", values, key or HOSPITALS[slot].key)
        return id, values, signature

    def set_policy(self, automatic: bool, quota: int = 100, preview: int = 0) -> None:
        minimum = [0, 0, 6, 6, 6, 50, 0, 0]
        policy = (
            0b110,
            0b100100,
            automatic,
            preview,
            quota,
            20_000,
            6_667,
            3600,
            7_500,
            5_000,
            30_000,
            1000,
            2000,
            1500,
            -100,
            2500,
            minimum,
        )
        self.synthetic.send(self.admin, "setPolicy", FEDERATION, policy, POLICY)


@pytest.fixture(scope="module")
def deployed() -> World:
    tester = EthereumTester(PyEVMBackend())
    roles = ("admin", "coordinator", "reviewer", "auditor", "registrar", "hospital", "stranger")
    keys = dict(zip(roles, (key.to_bytes() for key in tester.backend.account_keys), strict=False))
    world = World(tester, dict(zip(roles, tester.get_accounts(), strict=False)), keys)
    kinds = ["address", "address", "address", "uint48"]
    holders = [world.admin, world.coordinator, world.auditor]
    world.rounds = Contract(tester, "RoundLedger", world.admin, kinds, [*holders, 60])
    address = world.rounds.address
    world.reputations = Contract(tester, "ReputationLedger", world.admin, ["address"], [address])
    world.synthetic = Contract(tester, "SyntheticLedger", world.admin, ["address", "uint48"], [address, 60])
    world.committees = Contract(tester, "CommitteeLedger", world.admin, ["address"], [address])
    world.masks = Contract(tester, "MaskLedger", world.admin, ["address", "uint32"], [address, 3600])
    world.successions = Contract(tester, "SuccessionLedger", world.admin, ["address"], [address])
    world.studies = Contract(tester, "StudyLedger", world.admin, kinds[:2], [world.admin, world.registrar])
    world.rounds.send(world.admin, "grantRole", REVIEWER_ROLE, world.reviewer)
    world.synthetic.send(world.admin, "setReviewer", world.reviewer, keccak(text="university"))
    arguments = (FEDERATION, CONFIG, root_of(REGISTRY), GENESIS, SLOTS, QUORUM, WINDOW, STALENESS)
    world.rounds.send(world.coordinator, "openFederation", *arguments)
    return world


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    snapshot = deployed.tester.take_snapshot()
    yield deployed
    deployed.tester.revert_to_snapshot(snapshot)
    deployed.headers.clear()


# --- Heads and gas ----------------------------------------------------------------------------------------------------

HEAD_TYPES = ["bytes32", "uint256", "address", "bytes32", "uint64", *["bytes32"] * 3, "uint32", "bytes32"]


def genesis_head(world: World) -> bytes:
    types = ["uint256", "address", *["bytes32"] * 4, "uint32", "uint32"]
    place = [world.tester.backend.chain.chain_id, world.rounds.address]
    return keccak(encode(types, [*place, FEDERATION, CONFIG, root_of(REGISTRY), GENESIS, SLOTS, QUORUM]))


def head_after(world: World, header: tuple) -> bytes:
    number, previous, *rest = header
    place = [world.tester.backend.chain.chain_id, world.rounds.address]
    return keccak(encode(HEAD_TYPES, [previous, *place, FEDERATION, number, *rest]))


def test_heads_equal_the_independent_ones(world: World):
    head = genesis_head(world)
    assert world.rounds.view("head", FEDERATION) == head
    world.open_round()
    for number in range(1, 11):
        header = world.header(annex=keccak(text=f"annex {number}"))
        assert header[:2] == (number, head)
        world.seal(header)
        head = head_after(world, header)
        assert world.rounds.view("head", FEDERATION) == world.rounds.view("headAt", FEDERATION, number) == head
        state = world.state()
        assert (state["model"], state["progress"]["round"]) == (header[4], number)


def test_a_round_costs_the_same_for_any_number_of_hospitals(world: World):
    for slots in (3, 100, 1000):
        federation, model = keccak(text=f"federation {slots}"), GENESIS
        arguments = (federation, CONFIG, keccak(text="registry"), GENESIS, slots, 1, WINDOW, STALENESS)
        world.rounds.send(world.coordinator, "openFederation", *arguments)
        world.rounds.send(world.coordinator, "openRound", federation, 1, GENESIS, 2**32)
        gas = []
        for number in range(1, 11):
            head = world.rounds.view("head", federation)
            new = [keccak(text=f"{what} {number}") for what in ("root", "model", "annex")]
            header = (number, head, new[0], model, new[1], slots, new[2])
            arguments = (federation, header, 0, 2**32 + number)
            gas.append(world.rounds.send(world.coordinator, "sealRound", *arguments)["gas_used"])
            model = new[1]
        # The ring of heads is filled when the federation is opened.
        assert max(gas) <= 60_000
        assert max(gas) - min(gas) < 200
    snapshot = json.loads((ROOT / "contracts/snapshots/rounds.json").read_text())
    costs = {name: int(cost) for name, cost in snapshot.items() if "sealRound" in name}
    assert len(costs) == 9
    assert max(costs.values()) <= 75_000
    # A few zero bytes of call data more or less, by the digests.
    assert abs(gas[8] - costs["1000 hospitals, 4 sealRound 9, steady"]) < 200


# --- Who may call what ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One function: the role that may call it (None: anyone, with evidence) and arguments that then succeed.

    `prepare` brings the world to where the call makes sense and returns the arguments; `forge` returns, after
    `prepare`, the same call without the evidence.
    """

    contract: str
    function: str
    role: str | None
    prepare: Callable[[World], tuple]
    forge: Callable[[World, tuple], tuple] | None = None


def opened(world: World) -> tuple:
    world.open_round()
    return FEDERATION, world.header(), 0, 0


def sealed(world: World, leaves: list[bytes] | None = None, annex: bytes = ZERO) -> tuple:
    world.open_round()
    world.seal(world.header(leaves, annex))
    return world.headers[-1]


def too_old(world: World) -> tuple:
    """A sealed round whose slot 1 holds an update that begins from a model of nobody's."""
    world.open_round()
    record, signature, *_ = world.update(1, parentModel=CONFIG)
    digest = world.digest(world.rounds, "ModelUpdate", record)
    leaf = keccak(b"\0" + (2).to_bytes(2, "big") + (1).to_bytes(4, "big") + digest + signature)
    leaves = [LEAVES[0], leaf, LEAVES[2]]
    header = world.header(leaves)
    world.seal(header)
    return FEDERATION, [header], record, signature, proof_of(leaves, 1)


LEAVES = [keccak(text="leaf 0"), EMPTY, keccak(text="leaf 2")]
VERDICT = (0, 0b111, 0b101, 10)  # word, participated, accepted, threshold
VERDICT_TYPES = ["uint64", "uint32", "uint16", "uint16", "uint16"]


REWARD = twice(["uint32", "uint256"], [1, 30])  # all that is given out: 30 points to hospital 1


def verdict_root(number: int, verdict: tuple = VERDICT) -> bytes:
    return twice(VERDICT_TYPES, [number, *verdict])


def judged(world: World) -> tuple:
    scores = verdict_root(1)
    header = sealed(world, annex=named("scores", scores))
    return FEDERATION, header, scores, [], *VERDICT, []


def sat(world: World) -> tuple:
    """Judge 2 gives the updates of hospitals 0 and 1 60 % and 29.99 % of one class."""
    shares = (2999 << 16 | 6000).to_bytes(32, "big")
    said = b"".join(n.to_bytes(32, "big") for n in (1, 50, 1, 0, 0, 1, 0, 2, 2, 0, 1)) + shares
    header = sealed(world, annex=named("committee", keccak(said)))
    return FEDERATION, header, (1, 50, 1, 0, 0, [2], [], [0, 1], [shares]), []


def disputed(world: World) -> tuple:
    header = sealed(world, LEAVES)
    world.rounds.send(world.stranger, "dispute", *world.dispute(header, LEAVES, 1))
    return FEDERATION, header, True


def overspent(world: World, is_open: bool = False) -> tuple:
    """Hospital 1 has taken 13 samples of a budget of 12."""
    account, kinds = (keccak(text="terms"), [10, 2], keccak(text="said"), [13, 0]), ["bytes32", "uint64[2]"]
    if not is_open:
        world.open_round()
    record, signature, *_ = world.update(1, privacy=keccak(encode(kinds, account[2:])))
    place = b"\0" + (2).to_bytes(2, "big") + (1).to_bytes(4, "big")
    leaves = [LEAVES[0], keccak(place + world.digest(world.rounds, "ModelUpdate", record) + signature), LEAVES[2]]
    world.seal(world.header(leaves, named("privacy", keccak(encode(kinds, account[:2])))))
    return FEDERATION, [world.headers[-1]], (record, signature, account, proof_of(leaves, 1), [])


def within(arguments: tuple) -> tuple:
    """The same with another account than was signed."""
    *before, (record, signature, account, *where) = arguments
    return *before, (record, signature, (*account[:3], [14, 0]), *where)


def window_over(world: World) -> tuple:
    sealed(world, annex=pair(named("rewards", REWARD), named("scores", verdict_root(1))))
    world.wait(WINDOW + 1)
    return (FEDERATION,)


def claim(world: World, account: str | None = None, cumulative: int = 30) -> tuple:
    """Arguments of `claimReward`, for the last round; its annex names rewards and scores."""
    holder, organisation, proof = IDENTITY[1]
    siblings = [named("scores", verdict_root(world.headers[-1][0]))]
    claimed = (1, account or holder, organisation, cumulative)
    return FEDERATION, world.headers[-1], REWARD, siblings, claimed, proof, []


def rewarded(world: World) -> tuple:
    world.rounds.send(world.stranger, "finalizeRound", *window_over(world))
    return claim(world)


def paused(world: World) -> tuple:
    world.rounds.send(world.admin, "pause")
    return ()


def submission(world: World) -> tuple:
    world.open_round()
    return world.update(1)


def submitted(world: World) -> tuple:
    world.rounds.send(world.stranger, "submitUpdate", *submission(world))
    return FEDERATION, 1


def stuck(world: World) -> tuple:
    model, now = world.state()["model"], world.tester.get_block_by_number("latest")["timestamp"]
    number = world.state()["progress"]["round"] + 1
    world.rounds.send(world.coordinator, "openRound", FEDERATION, number, model, now + 60)
    world.wait(62)
    return (FEDERATION,)


def marked(world: World) -> tuple:
    sealed(world)
    return (FEDERATION,)


def elsewhere(world: World, arguments: tuple) -> tuple:
    return (keccak(text="another federation"),)


def transfer(contract: str, delay: int) -> Callable[[World], tuple]:
    def prepare(world: World) -> tuple:
        getattr(world, contract).send(world.admin, "beginDefaultAdminTransfer", world.hospital)
        world.wait(delay + 2)
        return ()

    return prepare


def pending(world: World, preview: int = 0) -> bytes:
    world.set_policy(automatic=False, preview=preview)
    return world.ask(1, 12, 10)


def approved(world: World) -> bytes:
    id = pending(world)
    world.synthetic.send(world.stranger, "reviewSynthetic", *world.review(id, 9))
    return id


def present(world: World) -> tuple:
    """Hospital 0 has an update in the last round, of which its coordinator says that it holds three."""
    world.open_round()
    *first, _, annex = world.header(LEAVES)
    world.seal((*first, SLOTS, annex))
    return FEDERATION, world.headers[-1], 0, LEAVES[0], proof_of(LEAVES, 0)


def challenged(world: World) -> tuple:
    arguments = present(world)
    world.masks.send(world.auditor, "challengeUpdate", *arguments)
    return FEDERATION, arguments[1][0], 0


def opening(world: World, number: int, key: bytes = HOSPITALS[0].key) -> tuple:
    """Arguments of `answerChallenge`."""
    record = (FEDERATION, number, 0, keccak(text="opening"))
    return record, world.sign(world.masks, "MaskOpening", record, key), *IDENTITY[0]


def answered(world: World) -> tuple:
    of = challenged(world)
    world.masks.send(world.stranger, "answerChallenge", *opening(world, of[1]))
    return *of, True, keccak(text="why")


def silent(world: World) -> tuple:
    of = challenged(world)
    world.wait(3601)
    return of


def over(world: World) -> tuple:
    return FEDERATION, sealed(world)[0], world.state()["head"], keccak(text="closing")


def registered(world: World) -> tuple:
    world.studies.send(world.registrar, "registerStudy", CONFIG, POLICY, 2)
    return CONFIG, 1, 0, 1, POLICY


def expired(world: World) -> tuple:
    id = pending(world)
    world.wait(3601)
    return (id,)


def kept(world: World) -> tuple:
    """A federation that is entrusted to an account, in the place of a contract."""
    world.rounds.send(world.coordinator, "entrust", FEDERATION, world.hospital)
    return FEDERATION, world.stranger


def appointed(world: World) -> tuple:
    world.rounds.send(world.coordinator, "entrust", FEDERATION, world.successions.address)
    world.successions.send(world.coordinator, "appoint", FEDERATION, [world.hospital], 60)
    return (FEDERATION,)


def left(world: World) -> tuple:
    appointed(world)
    world.wait(61)
    return FEDERATION, 0


def rows() -> Iterator[Row]:
    stranger = bytes([99]) * 32
    other = (keccak(text="other"), CONFIG, root_of(REGISTRY), GENESIS, SLOTS, QUORUM, WINDOW, STALENESS)
    yield Row("rounds", "openFederation", "coordinator", lambda w: other)
    yield Row("rounds", "openRound", "coordinator", lambda w: (FEDERATION, 1, GENESIS, 0))
    yield Row("rounds", "sealRound", "coordinator", opened)
    yield Row("rounds", "finalizeRound", None, window_over, elsewhere)
    yield Row("rounds", "markRound", None, marked, elsewhere)
    yield Row("rounds", "abortRound", None, stuck, elsewhere)
    yield Row("rounds", "refuseUpdate", "coordinator", submitted)
    yield Row("rounds", "closeFederation", "coordinator", over)
    yield Row("rounds", "resolveDispute", "auditor", disputed)
    yield Row("rounds", "setHospital", "admin", lambda w: (FEDERATION, 1, w.stranger, 1, CONFIG))
    yield Row("rounds", "pause", "admin", lambda w: ())
    yield Row("rounds", "unpause", "admin", paused)
    yield Row("rounds", "submitUpdate", None, submission, lambda w, a: w.update(1, stranger))
    yield Row(
        "rounds",
        "dispute",
        None,
        lambda w: w.dispute(sealed(w, LEAVES), LEAVES, 1),
        lambda w, a: w.dispute(w.headers[-1], LEAVES, 1, stranger),
    )
    yield Row("rounds", "disputeUpdate", None, too_old, lambda w, a: (*a[:3], bytes(65), a[4]))
    yield Row("rounds", "voidOverspent", None, overspent, lambda w, a: within(a))
    yield Row(
        "rounds",
        "rotateKey",
        None,
        lambda w: w.rotation(1, HOSPITALS[1].key, stranger),
        lambda w, a: w.rotation(1, HOSPITALS[1].key, stranger, signer=stranger),
    )
    yield Row("reputations", "updateReputation", "coordinator", judged)
    yield Row("reputations", "claimReward", None, rewarded, lambda w, a: claim(w, account=w.stranger))

    yield Row("committees", "judgeRound", None, sat, lambda w, a: (*a[:2], (1, 49, *a[2][2:]), []))

    policy = (0b110, 0b100, True, *[1] * 13, [0] * 8)
    yield Row("synthetic", "setPolicy", "admin", lambda w: (FEDERATION, policy, POLICY))
    yield Row("synthetic", "setReviewer", "admin", lambda w: (w.stranger, CONFIG))
    yield Row(
        "synthetic", "requestSynthetic", None, lambda w: w.request(1, 5, 10), lambda w, a: w.request(1, 5, 10, stranger)
    )
    yield Row(
        "synthetic",
        "previewSynthetic",
        None,
        lambda w: w.preview(pending(w, preview=9), 9),
        lambda w, a: w.preview(a[0], 9, slot=2),
    )
    yield Row(
        "synthetic",
        "reviewSynthetic",
        None,
        lambda w: w.review(pending(w), 9),
        lambda w, a: w.review(a[0], 9, stranger),
    )
    yield Row(
        "synthetic",
        "reportSynthetic",
        None,
        lambda w: w.report(approved(w), 9),
        lambda w, a: w.report(a[0], 9, key=stranger),
    )
    yield Row("synthetic", "expireSynthetic", None, expired, lambda w, a: (w.ask(1, 12, 10),))
    yield Row("masks", "challengeUpdate", "auditor", present)
    yield Row(
        "masks",
        "answerChallenge",
        None,
        lambda w: opening(w, challenged(w)[1]),
        lambda w, a: opening(w, a[0][1], stranger),
    )
    yield Row("masks", "decideChallenge", "auditor", answered)
    yield Row("masks", "expireChallenge", None, silent, lambda w, a: (*a[:2], 1))
    yield Row("rounds", "entrust", "coordinator", lambda w: (FEDERATION, w.successions.address))
    yield Row("rounds", "handOver", "hospital", kept)
    yield Row("successions", "appoint", "coordinator", lambda w: (FEDERATION, [w.hospital], 60))
    yield Row("successions", "reportAlive", "coordinator", appointed)
    yield Row("successions", "takeOver", "hospital", left)
    yield Row("studies", "registerStudy", "registrar", lambda w: (CONFIG, POLICY, 2))
    yield Row("studies", "recordTrial", "registrar", registered)

    for contract, role, holder, delay in (
        ("rounds", COORDINATOR_ROLE, "coordinator", 60),
        ("studies", REGISTRAR_ROLE, "registrar", 86_400),
    ):
        yield Row(contract, "grantRole", "admin", lambda w, role=role: (role, w.stranger))
        yield Row(contract, "revokeRole", "admin", lambda w, role=role, holder=holder: (role, getattr(w, holder)))
        yield Row(contract, "renounceRole", holder, lambda w, role=role, holder=holder: (role, getattr(w, holder)))
        yield Row(contract, "beginDefaultAdminTransfer", "admin", lambda w: (w.stranger,))
        yield Row(contract, "cancelDefaultAdminTransfer", "admin", lambda w: ())
        yield Row(contract, "changeDefaultAdminDelay", "admin", lambda w: (3,))
        yield Row(contract, "rollbackDefaultAdminDelay", "admin", lambda w: ())
        yield Row(contract, "acceptDefaultAdminTransfer", "hospital", transfer(contract, delay))


ROWS = list(rows())
ATTRIBUTES = dict(
    zip(NAMES, ("rounds", "reputations", "synthetic", "committees", "masks", "successions", "studies"), strict=True)
)


def test_every_function_that_writes_has_a_row():
    writes = {
        (ATTRIBUTES[name], item["name"])
        for name in NAMES
        for item in ARTEFACTS[name]["abi"]
        if item["type"] == "function" and item["stateMutability"] not in ("view", "pure")
    }
    assert {(row.contract, row.function) for row in ROWS} == writes
    assert len(ROWS) == len(writes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.contract}-{row.function}")
def test_nobody_else_may_call(world: World, row: Row):
    contract = getattr(world, row.contract)
    arguments = row.prepare(world)
    refused = (row.forge(world, arguments) if row.forge else arguments) if row.role is None else arguments
    accepted = []
    for role, account in world.accounts.items():
        if role == row.role:
            continue
        try:
            error, _ = contract.refusal(account, row.function, *refused)
        except pytest.fail.Exception:
            accepted.append(role)
            continue
        if row.role is not None:
            assert error in (
                "AccessControlUnauthorizedAccount",
                "AccessControlBadConfirmation",
                "AccessControlInvalidDefaultAdmin",
                "NotEntrustable",
                "NotKeeper",
                "NotLeader",
                "NotSuccessor",
            )
    assert accepted == []
    # The refusals above were for want of the role or the evidence, not because the call could not succeed.
    contract.send(world.accounts[row.role or "stranger"], row.function, *arguments)


def test_every_error_is_provoked_by_the_contract_tests():
    """Each error that is our own appears in a forge test, which names it with its arguments."""
    tests = "".join(path.read_text() for path in (ROOT / "contracts/test").glob("*.t.sol"))
    for source in (
        "IRoundLedger",
        "IReputationLedger",
        "Annex",
        "ISyntheticLedger",
        "ICommitteeLedger",
        "IMaskLedger",
        "ISuccessionLedger",
        "StudyLedger",
    ):
        text = (ROOT / f"contracts/src/{source}.sol").read_text()
        names = re.findall(r"^    error (\w+)\(", text, flags=re.MULTILINE)
        assert names
        assert [name for name in names if f"{source}.{name}.selector" not in tests] == []


# --- Signatures -------------------------------------------------------------------------------------------------------


def test_digests_are_those_of_an_independent_implementation(world: World):
    """Every signed struct: `encode_typed_data` of eth_account, the contract, and the leaf or record it derives."""
    arguments = submission(world)
    world.rounds.send(world.stranger, "submitUpdate", *arguments)
    record, signature = arguments[:2]
    digest = world.digest(world.rounds, "ModelUpdate", record)
    [event] = [values for name, values, _ in world.rounds.events() if name == "UpdateSubmitted"]
    assert event["leaf"] == keccak(b"\0" + (2).to_bytes(2, "big") + (1).to_bytes(4, "big") + digest + signature)
    new = bytes([98]) * 32
    world.rounds.send(world.stranger, "rotateKey", *world.rotation(1, HOSPITALS[1].key, new))
    world.rounds.send(world.stranger, "rotateKey", *world.rotation(0, HOSPITALS[0].key, HOSPITALS[2].key))
    assert world.rounds.view("hospital", FEDERATION, 1)["account"] == Account.from_key(new).address.lower()

    id = approved_by_other_slot(world)
    world.synthetic.send(world.stranger, "reportSynthetic", *world.report(id, 4, slot=2))
    records = [v["record"] for name, v, _ in world.synthetic.events() if name == "SyntheticStatusChanged"]
    review = world.digest(world.synthetic, "SyntheticReview", world.review(id, 9)[1])
    report = world.digest(world.synthetic, "SyntheticReport", world.report(id, 4, slot=2)[1])
    assert records == [id, review, report]


def approved_by_other_slot(world: World) -> bytes:
    world.set_policy(automatic=False)
    id = world.ask(2, 12, 10)
    world.synthetic.send(world.stranger, "reviewSynthetic", *world.review(id, 9))
    return id


def test_a_signature_counts_in_one_place_only(world: World):
    """The same record signed for another chain, contract, name or version is refused."""
    arguments = submission(world)
    fields = [part.split(":") for part in UPDATE.split()]
    types = {"ModelUpdate": [{"name": name, "type": kind} for name, kind in fields]}
    values = {name: value for (name, _), value in zip(fields, arguments[0], strict=True)}
    right = {
        "name": "PulseLedger",
        "version": "2",
        "chainId": world.tester.backend.chain.chain_id,
        "verifyingContract": world.rounds.address,
    }
    wrong = {"name": "Other", "version": "1", "chainId": 1, "verifyingContract": world.synthetic.address}
    for name, value in wrong.items():
        signed = Account.sign_message(encode_typed_data({**right, name: value}, types, values), HOSPITALS[1].key)
        refused = (arguments[0], bytes(signed.signature), *arguments[2:])
        assert world.rounds.refusal(world.stranger, "submitUpdate", *refused)[0] == "SignatureInvalid"
    world.rounds.send(world.stranger, "submitUpdate", *arguments)


# --- Disputes, reputation, quota --------------------------------------------------------------------------------------


@pytest.mark.parametrize("voided", [True, False])
def test_a_receipt_for_a_missing_update_stops_the_federation(world: World, voided: bool):
    disputed(world)
    assert (world.status(1), world.status(2)) == (DISPUTED, NONE)
    assert world.rounds.refusal(world.coordinator, "openRound", FEDERATION, 2, world.headers[0][4], 0) == (
        "FederationDisputed",
        (FEDERATION, 1),
    )
    head = world.rounds.view("head", FEDERATION)
    world.rounds.send(world.auditor, "resolveDispute", FEDERATION, world.headers[0], voided)
    assert world.status(1) == (VOID if voided else FINAL)
    assert world.rounds.view("head", FEDERATION) == head
    assert world.state()["model"] == (GENESIS if voided else world.headers[0][4])
    world.open_round()
    world.seal(world.header())
    assert world.state()["progress"]["round"] == 2


def test_a_direct_submission_cannot_be_left_out(world: World):
    world.rounds.send(world.stranger, "submitUpdate", *submission(world))
    header = world.header(LEAVES)
    seal = (FEDERATION, header, 0, 0)
    assert world.rounds.refusal(world.coordinator, "sealRound", *seal) == ("SubmissionsMissed", (FEDERATION, 1, 1, 0))
    world.seal(header)
    missing = (FEDERATION, [header], (FEDERATION, 1, 1, ZERO), b"", EMPTY, proof_of(LEAVES, 1))
    world.rounds.send(world.stranger, "dispute", *missing)
    assert world.status(1) == DISPUTED


def test_a_refused_submission_counts_again_with_an_auditors_word(world: World):
    world.rounds.send(world.coordinator, "refuseUpdate", *submitted(world))
    kept = world.rounds.view("submission", FEDERATION, 1, GENESIS, 1)
    header = world.header(LEAVES)
    world.seal(header)
    record = (FEDERATION, 1, 1, kept["leaf"])
    proof = (FEDERATION, 1, 1, ZERO), EMPTY, proof_of(LEAVES, 1)
    for key in (None, world.keys["coordinator"], HOSPITALS[1].key):
        word = b"" if key is None else world.sign(world.rounds, "Availability", record, key)
        refused = (FEDERATION, [header], proof[0], word, *proof[1:])
        assert world.rounds.refusal(world.stranger, "dispute", *refused)[0] == "SignatureInvalid"
    word = world.sign(world.rounds, "Availability", record, world.keys["auditor"])
    world.rounds.send(world.stranger, "dispute", FEDERATION, [header], proof[0], word, *proof[1:])
    assert world.status(1) == DISPUTED


def test_an_old_round_is_disputed_with_the_headers_after_it(world: World):
    header = sealed(world, LEAVES)
    for _ in range(9):
        world.seal(world.header())
    assert world.status(1) == SEALED
    federation, _, *rest = world.dispute(header, LEAVES, 1)
    alone = (federation, [header], *rest)
    assert world.rounds.refusal(world.stranger, "dispute", *alone) == ("HeadNotKept", (FEDERATION, 1))
    world.rounds.send(world.stranger, "dispute", federation, world.headers[:7], *rest)
    assert world.status(1) == DISPUTED


@pytest.mark.parametrize(("voided", "counted"), [(True, 0), (False, 1)])
def test_a_direct_submission_counts_while_its_model_stands(world: World, voided: bool, counted: int):
    header = sealed(world, LEAVES)
    world.rounds.send(world.stranger, "submitUpdate", *world.update(2))
    world.rounds.send(world.stranger, "dispute", *world.dispute(header, LEAVES, 1))
    world.rounds.send(world.auditor, "resolveDispute", FEDERATION, header, voided)
    assert world.state()["progress"]["submissions"] == counted
    kept = world.rounds.view("submission", FEDERATION, 2, world.state()["model"], 2)
    assert any(kept["leaf"]) == (counted == 1)
    world.open_round()
    if voided:
        world.rounds.send(world.stranger, "submitUpdate", *world.update(2))
    else:
        again = world.rounds.refusal(world.stranger, "submitUpdate", *world.update(2))
        assert again == ("AlreadySubmitted", (FEDERATION, 2, 2))


# Reputation of slots 0, 1, 2 by hand, from 10 each: verdicts A accepted, R rejected, - not judged.
BY_HAND = [
    ("AR-", 10, (11, 0, 10)),  # accepted at h: up; rejected at h: 0; not judged: as it was
    ("RAR", 5, (10, 1, 9)),  # rejected above h: down; accepted below h, serving a penalty: up
    ("ARA", 10, (11, 2, 10)),  # rejected below h: up as well
    ("--A", 100, (11, 2, 11)),  # accepted below h
]


def test_reputation_follows_the_table(world: World):
    world.open_round()
    for number, (verdicts, threshold, expected) in enumerate(BY_HAND, start=1):
        participated = sum(1 << slot for slot, v in enumerate(verdicts) if v != "-")
        accepted = sum(1 << slot for slot, v in enumerate(verdicts) if v == "A")
        verdict = (0, participated, accepted, threshold)
        scores = verdict_root(number, verdict)
        world.seal(world.header(annex=named("scores", scores)))
        arguments = (FEDERATION, world.headers[-1], scores, [], *verdict, [])
        world.reputations.send(world.coordinator, "updateReputation", *arguments)
        assert tuple(world.reputations.view("reputation", FEDERATION, slot) for slot in range(SLOTS)) == expected


def test_rewards_are_claimed_once_and_only_from_a_final_round_whose_annex_names_them(world: World):
    window_over(world)
    number, names = world.headers[-1][0], named("rewards", REWARD)
    final = ("RoundNotFinal", (FEDERATION, number, SEALED))
    assert world.reputations.refusal(world.stranger, "claimReward", *claim(world)) == final
    world.rounds.send(world.stranger, "finalizeRound", FEDERATION)
    annex = world.headers[-1][6]
    federation, header, _, siblings, claimed, proof, _ = claim(world)
    other = twice(["uint32", "uint256"], [1, 31])
    refused = (federation, header, other, siblings, (*claimed[:3], 31), proof, [])
    wrong = ("AnnexProofInvalid", (annex, keccak(text="rewards"), other))
    assert world.reputations.refusal(world.stranger, "claimReward", *refused) == wrong
    # The digest of another subject is no root of rewards, though it is in the annex.
    scores = verdict_root(number)
    refused = (federation, header, scores, [names], claimed, proof, [])
    wrong = ("AnnexProofInvalid", (annex, keccak(text="rewards"), scores))
    assert world.reputations.refusal(world.stranger, "claimReward", *refused) == wrong
    world.reputations.send(world.stranger, "claimReward", *claim(world))
    assert world.reputations.view("claimed", FEDERATION, 1) == 30
    nothing = ("NothingToClaim", (FEDERATION, 1, 30, 30))
    assert world.reputations.refusal(world.stranger, "claimReward", *claim(world)) == nothing


def test_verdicts_count_for_the_sealed_round_that_names_them(world: World):
    federation, header, scores, siblings, *verdict, proof = judged(world)
    changed = (*header[:6], named("scores", keccak(text="others")))
    refused = (federation, changed, scores, siblings, *verdict, proof)
    expected = (federation, 1, head_after(world, header), head_after(world, changed))
    assert world.reputations.refusal(world.coordinator, "updateReputation", *refused) == ("HeadMismatch", expected)
    later = (2, *header[1:])
    refused = (federation, later, scores, siblings, *verdict, proof)
    unsealed = ("RoundNotSealed", (federation, 2, OPEN))
    assert world.reputations.refusal(world.coordinator, "updateReputation", *refused) == unsealed
    arguments = (federation, header, scores, siblings, *verdict, proof)
    world.reputations.send(world.coordinator, "updateReputation", *arguments)
    again = ("ReputationOutOfOrder", (federation, 0, 1, 1))
    assert world.reputations.refusal(world.coordinator, "updateReputation", *arguments) == again


def test_the_quota_is_exact_in_any_order(world: World):
    """Random requests, reviews, reports and expiries against accounts kept here by the rule of the policy."""
    draw = random.Random(7)
    world.set_policy(automatic=False)
    counted: dict[bytes, int] = {}
    open_requests: dict[bytes, tuple[int, int, int, int]] = {}
    granted: dict[bytes, int] = {}
    places = {}

    def used(slot: int, class_: int) -> int:
        return sum(n for id, n in counted.items() if places[id] == (slot, class_))

    for _ in range(70):
        action = draw.choice(["ask", "ask", "review", "review", "report", "wait"])
        if action == "ask":
            slot, class_ = draw.randrange(2), draw.choice([1, 2])
            quantity, floor = draw.randrange(1, 70), draw.choice([1, 6, 10, 30, 50])
            id = world.ask(slot, quantity, floor, class_)
            places[id], counted[id] = (slot, class_), 0
            # The real floor 1 is below what SMOTE needs; otherwise only a full quota or share denies.
            left = min(100 - used(slot, class_), 6667 * floor // 3333 - used(slot, class_))
            expected = PENDING if floor >= 6 and left > 0 else DENIED
            assert world.synthetic.view("requestState", id)["status"] == expected
            if expected == PENDING:
                open_requests[id] = (slot, class_, quantity, floor)
        elif action == "review" and open_requests:
            id, (slot, class_, quantity, floor) = open_requests.popitem()
            left = min(100, 6667 * floor // 3333) - used(slot, class_)
            allowed = max(0, min(quantity, 2 * floor, left))
            assert world.synthetic.view("allowance", id)[0] == allowed
            amount = draw.randint(0, allowed)
            world.synthetic.send(world.stranger, "reviewSynthetic", *world.review(id, amount))
            counted[id] = amount
            if amount:
                granted[id] = amount
        elif action == "report" and granted:
            id, amount = granted.popitem()
            good, generated = draw.random() < 0.7, draw.randint(0, amount)
            report = world.report(id, generated, places[id][0], duplicates=0 if good else 1000)
            world.synthetic.send(world.stranger, "reportSynthetic", *report)
            counted[id] = generated if good and generated else amount
        elif action == "wait" and draw.random() < 0.3:
            world.wait(3601)
            for id in (*open_requests, *granted):
                world.synthetic.send(world.stranger, "expireSynthetic", id)
                counted.setdefault(id, 0)
            open_requests.clear()
            granted.clear()
        for slot in range(2):
            for class_ in (1, 2):
                assert world.synthetic.view("used", FEDERATION, slot, class_) == used(slot, class_) <= 100
    statuses = {world.synthetic.view("requestState", id)["status"] for id in counted}
    assert {DENIED, ACCEPTED, REJECTED, EXPIRED} <= statuses


def test_a_reviewer_of_the_same_organisation_is_refused(world: World):
    id = pending(world)
    review = world.review(id, 9)
    world.synthetic.send(world.admin, "setReviewer", world.reviewer, ORGANISATIONS[1])
    expected = ("ReviewerNotIndependent", (id, world.reviewer.lower(), ORGANISATIONS[1]))
    assert world.synthetic.refusal(world.stranger, "reviewSynthetic", *review) == expected
    refused = world.rounds.refusal(world.admin, "grantRole", REVIEWER_ROLE, world.coordinator)
    assert refused[0] == "RolesConflict"


# --- The state can be rebuilt from the events -------------------------------------------------------------------------


def last_request(world: World) -> bytes:
    return [values["id"] for name, values, _ in world.synthetic.events() if name == "SyntheticRequested"][-1]


def play(world: World) -> None:
    """A history that emits every event."""
    rounds, synthetic = world.rounds, world.synthetic
    rounds.send(world.coordinator, "entrust", FEDERATION, world.stranger)
    world.open_round()
    scores = verdict_root(1)
    world.seal(world.header(LEAVES, named("scores", scores)))
    arguments = (FEDERATION, world.headers[0], scores, [], *VERDICT, [])
    world.reputations.send(world.coordinator, "updateReputation", *arguments)
    rounds.send(world.stranger, "submitUpdate", *world.update(1))
    rounds.send(world.stranger, "submitUpdate", *world.update(2))
    world.seal(world.header(LEAVES))
    rounds.send(world.stranger, "dispute", *world.dispute(world.headers[1], LEAVES, 1))
    rounds.send(world.auditor, "resolveDispute", FEDERATION, world.headers[1], True)
    world.open_round()
    rounds.send(world.stranger, "submitUpdate", *world.update(0))
    world.seal(world.header(LEAVES), following=KEEP_CLOSED)
    rounds.send(world.stranger, "dispute", *world.dispute(world.headers[2], LEAVES, 1))
    rounds.send(world.auditor, "resolveDispute", FEDERATION, world.headers[2], False)
    rounds.send(world.stranger, "abortRound", *stuck(world))
    world.open_round()
    rounds.send(world.stranger, "submitUpdate", *world.update(1))
    rounds.send(world.coordinator, "refuseUpdate", FEDERATION, 1)
    annex = pair(named("rewards", REWARD), named("scores", verdict_root(4)))
    world.seal(world.header(annex=annex), following=2**33)
    rounds.send(world.stranger, "markRound", FEDERATION)
    world.wait(WINDOW + 1)
    rounds.send(world.stranger, "finalizeRound", FEDERATION)
    world.reputations.send(world.stranger, "claimReward", *claim(world))
    rounds.send(world.stranger, "rotateKey", *world.rotation(2, HOSPITALS[2].key, bytes([97]) * 32))
    rounds.send(world.admin, "setHospital", FEDERATION, 0, world.hospital, 2, CONFIG)
    rounds.send(world.stranger, "submitUpdate", *world.update(1))
    rounds.send(world.stranger, "voidOverspent", *overspent(world, is_open=True))
    world.open_round()
    rounds.send(world.admin, "pause")
    rounds.send(world.admin, "unpause")
    rounds.send(world.admin, "revokeRole", AUDITOR_ROLE, world.auditor)

    id = approved(world)
    synthetic.send(world.stranger, "reportSynthetic", *world.report(id, 4))
    synthetic.send(world.stranger, "reviewSynthetic", *world.review(world.ask(1, 7, 10), 5))
    world.wait(3601)
    synthetic.send(world.stranger, "expireSynthetic", last_request(world))
    world.ask(1, 7, 1)
    world.ask(1, 3, 10)
    world.set_policy(automatic=False, preview=9)
    world.wait(61)
    synthetic.send(world.stranger, "previewSynthetic", *world.preview(world.ask(1, 7, 10), 9))

    registered(world)
    world.studies.send(world.registrar, "recordTrial", CONFIG, 1, 0, 1, POLICY)
    world.studies.send(world.registrar, "recordTrial", CONFIG, 2, 1, 1, POLICY)
    world.studies.send(world.registrar, "recordTrial", CONFIG, 3, 0, 4, POLICY)


def rebuild_rounds(events: list[tuple[str, dict, int]]) -> dict:
    """State of the federation from the events alone; times are those of the blocks."""
    s: dict[str, Any] = {"submitted": {}, "void": set(), "hospitals": {}}
    s |= {"finalized": 0, "disputed": 0, "closing": ZERO, "roles": set(), "paused": False}
    p: dict[str, Any] = {"round": 0, "deadline": 0, "sealedAt": 0, "submissions": 0, "phase": 0}
    for name, e, time in events:
        if name == "FederationOpened":
            s |= {"head": e["head"], "model": e["genesisModel"]}
            s |= {key: e[key] for key in ("configHash", "registryRoot", "staleness")}
            p |= {key: e[key] for key in ("slots", "quorum", "window")}
        elif name == "RoundOpened":
            p |= {"phase": 1, "deadline": e["deadline"]}
        elif name == "RoundSealed":
            s |= {"head": e["head"], "model": e["header"]["model"]}
            p |= {"round": e["round"], "sealedAt": time, "submissions": 0, "phase": 0}
            if e["next"] != KEEP_CLOSED:
                p |= {"phase": 1, "deadline": e["next"]}
        elif name == "UpdateSubmitted":
            s["submitted"][e["round"], e["record"]["parentModel"], e["slot"]] = {"leaf": e["leaf"], "refused": False}
            p["submissions"] += 1
        elif name == "UpdateRefused":
            s["submitted"][e["round"], s["model"], e["slot"]]["refused"] = True
        elif name == "RoundAborted":
            p["phase"] = ABORTED
        elif name == "CoordinatorChanged":
            s["coordinator"] = e["coordinator"]
        elif name == "FederationEntrusted":
            s["keeper"] = e["keeper"]
        elif name == "RoundMarked":
            assert e["until"] == p["sealedAt"] + WINDOW
        elif name == "RoundDisputed":
            s["disputed"], p["phase"] = e["round"], 2
        elif name == "DisputeResolved":
            p["phase"] = 3 if any(s["closing"]) else 0
            if e["voided"]:
                s["void"] |= set(range(e["round"], p["round"] + 1))
                p["submissions"] *= e["model"] == s["model"]
                s["model"] = e["model"]
            else:
                s["finalized"] = e["round"]
        elif name == "BudgetExceeded":
            assert e["spent"][0] > sum(e["budget"])
        elif name == "RoundFinalized":
            s["finalized"] = e["round"]
        elif name == "FederationClosed":
            s["closing"], p["phase"] = e["closing"], 3
        elif name == "HospitalSet":
            rotated = s["hospitals"].get(e["slot"], {"rotated": 0})["rotated"]
            entry = {key: e[key] for key in ("account", "status", "organisation")}
            s["hospitals"][e["slot"]] = {**entry, "rotated": rotated}
        elif name == "KeyRotated":
            entry = {"account": e["to"], "status": 1, "organisation": e["organisation"], "rotated": e["round"]}
            s["hospitals"][e["slot"]] = entry
        elif name == "RoleGranted":
            s["roles"].add((e["role"], e["account"]))
        elif name == "RoleRevoked":
            s["roles"].remove((e["role"], e["account"]))
        elif name in ("Paused", "Unpaused"):
            s["paused"] = name == "Paused"
        else:
            raise AssertionError(f"no rule for {name}")
    s["progress"] = p
    return s


def test_the_rounds_can_be_rebuilt_from_the_events(world: World):
    play(world)
    assert world.status(world.state()["progress"]["round"] + 1) == OPEN
    last = world.state()["progress"]["round"]
    world.rounds.send(
        world.coordinator, "closeFederation", FEDERATION, last, world.state()["head"], keccak(text="closing")
    )
    events = list(world.rounds.events())
    own = set(re.findall(r"^    event (\w+)\(", (ROOT / "contracts/src/IRoundLedger.sol").read_text(), re.MULTILINE))
    assert own <= {name for name, _, _ in events}
    rebuilt = rebuild_rounds(events)
    state = world.state()
    assert {key: rebuilt[key] for key in state} == state
    assert rebuilt["paused"] == world.rounds.view("paused")
    assert last == 5
    for number in range(1, last + 1):
        final = number <= rebuilt["finalized"]
        assert world.status(number) == (VOID if number in rebuilt["void"] else FINAL if final else SEALED)
    assert {world.status(number) for number in range(1, last + 2)} == {NONE, FINAL, VOID}
    models = [GENESIS, *(header[4] for header in world.headers)]
    for slot in range(SLOTS):
        unset = {"account": "0x" + "00" * 20, "status": 0, "organisation": ZERO, "rotated": 0}
        assert world.rounds.view("hospital", FEDERATION, slot) == rebuilt["hospitals"].get(slot, unset)
        for number in range(1, last + 2):
            for model in models:
                kept = world.rounds.view("submission", FEDERATION, number, model, slot)
                nothing = {"leaf": ZERO, "refused": False}
                assert kept == rebuilt["submitted"].get((number, model, slot), nothing)
    for role in (ADMIN_ROLE, COORDINATOR_ROLE, REVIEWER_ROLE, AUDITOR_ROLE):
        for account in world.accounts.values():
            assert world.rounds.view("hasRole", role, account) == ((role, account.lower()) in rebuilt["roles"])


def test_reputations_and_rewards_can_be_rebuilt_from_the_events(world: World):
    play(world)
    reputation, claimed, seen = {}, dict.fromkeys(range(SLOTS), 0), set()
    for name, e, _ in world.reputations.events():
        seen.add(name)
        if name == "ReputationChanged":
            for lane in range(16):
                reputation[16 * e["index"] + lane] = e["values"] >> 16 * lane & 0xFFFF
        else:
            assert e["amount"] == e["cumulative"] - claimed[e["slot"]]
            claimed[e["slot"]] = e["cumulative"]
    text = (ROOT / "contracts/src/IReputationLedger.sol").read_text()
    assert set(re.findall(r"^    event (\w+)\(", text, re.MULTILINE)) == seen
    for slot in range(SLOTS):
        assert world.reputations.view("reputation", FEDERATION, slot) == reputation[slot]
        assert world.reputations.view("claimed", FEDERATION, slot) == claimed[slot]


def test_the_requests_can_be_rebuilt_from_the_events(world: World):
    play(world)
    requests: dict[bytes, dict] = {}
    used: dict[tuple, int] = {}
    policies, reviewers, decisions = [], {}, ZERO
    seen = set()
    for name, e, time in world.synthetic.events():
        seen.add(name)
        if name == "PolicySet":
            policies.append({"policy": e["policy"], "digest": e["digest"], "effectiveAt": e["effectiveAt"]})
        elif name == "ReviewerSet":
            reviewers[e["reviewer"]] = e["organisation"]
        elif name == "SyntheticRequested":
            keep = ("federation", "slot", "class_", "generator", "quantity", "realFloor", "policyVersion")
            state = {key: e["request"][key] for key in keep}
            state |= {"account": e["account"], "organisation": e["organisation"], "expiresAt": 0, "counted": 0}
            state |= {"previewed": 0, "preview": ZERO}
            requests[e["id"]] = state
        elif name == "SyntheticPreviewed":
            requests[e["id"]] |= {"previewed": e["preview"]["generated"], "preview": e["preview"]["batch"]}
        elif name == "SyntheticStatusChanged":
            state = requests[e["id"]]
            place = (state["slot"], state["class_"])
            used[place] = used.get(place, 0) - state["counted"] + e["counted"]
            state |= {"status": e["status"], "counted": e["counted"]}
            if e["status"] in (PENDING, PREVIEWED, APPROVED):
                state["expiresAt"] = time + policies[state["policyVersion"] - 1]["policy"]["expirySeconds"]
            chain = [decisions, e["id"], e["status"], e["counted"], e["record"]]
            decisions = keccak(encode(["bytes32", "bytes32", "uint8", "uint32", "bytes32"], chain))
            assert e["decisions"] == decisions
        else:
            assert name in ("SyntheticReviewed", "SyntheticReported", "EIP712DomainChanged")
    text = (ROOT / "contracts/src/ISyntheticLedger.sol").read_text()
    assert set(re.findall(r"^    event (\w+)\(", text, re.MULTILINE)) <= seen
    assert {state["status"] for state in requests.values()} == {PENDING, PREVIEWED, DENIED, ACCEPTED, EXPIRED}
    for id, state in requests.items():
        assert world.synthetic.view("requestState", id) == state
    for (slot, class_), amount in used.items():
        assert world.synthetic.view("used", FEDERATION, slot, class_) == amount
    assert world.synthetic.view("decisions", FEDERATION) == decisions
    assert world.synthetic.view("organisationOf", world.reviewer) == reviewers[world.reviewer.lower()]
    for version, policy in enumerate(policies, start=1):
        assert world.synthetic.view("policyAt", FEDERATION, version) == policy


def test_the_studies_can_be_rebuilt_from_the_events(world: World):
    play(world)
    state: dict[str, Any] = {}
    stages: dict[int, int] = {}
    for name, e, _ in world.studies.events():
        if name == "StudyRegistered":
            place = [world.tester.backend.chain.chain_id, world.studies.address]
            types = ["uint256", "address", "bytes32", "bytes32", "uint32"]
            head = keccak(encode(types, [*place, CONFIG, e["design"], e["trials"]]))
            state = {"head": head, "sequence": 0, "trials": e["trials"], "begun": 0, "ended": 0}
        elif name == "TrialRecorded":
            values = [state["head"], e["sequence"], e["trial"], e["stage"], e["digest"]]
            state["head"] = keccak(encode(["bytes32", "uint64", "uint32", "uint8", "bytes32"], values))
            state["sequence"] += 1
            state["begun" if e["stage"] == 1 else "ended"] += 1
            stages[e["trial"]] = e["stage"]
            assert (e["sequence"], e["head"]) == (state["sequence"], state["head"])
    assert world.studies.view("studyState", CONFIG) == state
    assert state["sequence"] == 3
    assert {trial: world.studies.view("trialStage", CONFIG, trial) for trial in range(3)} == {**stages, 2: 0}


# --- Transactions and the build ---------------------------------------------------------------------------------------


def test_transactions_equal_those_of_an_independent_signer():
    from engine.ledger.chain.transactions import decode_transaction, sign_transaction

    key, to = b"\x07" * 32, Account.from_key(b"\x08" * 32).address
    fields = {"chainId": 1337, "nonce": 5, "gas": 100_000, "value": 0, "data": "0x1234", "to": to}
    typed = Account.sign_transaction({**fields, "type": 2, "maxFeePerGas": 30, "maxPriorityFeePerGas": 2}, key)
    assert sign_transaction(key, 1337, 5, to, b"\x12\x34", 100_000, 2, 30) == bytes(typed.raw_transaction)
    assert TypedTransaction.from_bytes(HexBytes(typed.raw_transaction)).as_dict()["nonce"] == 5
    plain = Account.sign_transaction({**fields, "gasPrice": 30}, key)
    assert sign_transaction(key, 1337, 5, to, b"\x12\x34", 100_000, None, 30) == bytes(plain.raw_transaction)
    expected = {"chain_id": 1337, "nonce": 5, "fee": 30, "gas": 100_000, "to": to, "data": b"\x12\x34"}
    for raw, tip in ((bytes(typed.raw_transaction), 2), (bytes(plain.raw_transaction), None)):
        assert decode_transaction(raw) == {**expected, "tip": tip}


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_build_belongs_to_the_sources(name: str):
    artefact = ARTEFACTS[name]
    assert f"contracts/src/{name}.sol" in artefact["sources"]
    for path, digest in artefact["sources"].items():
        if path.startswith("contracts/"):
            assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest
    packages = json.loads((ROOT / "contracts/package.json").read_text())["devDependencies"]
    assert artefact["compiler"]["version"].split("+")[0] == packages["solc"]
    assert artefact["compiler"]["settings"] == {
        "optimizer": {"enabled": True, "runs": 200},
        "evmVersion": "cancun",
        "metadata": {"bytecodeHash": "none"},
    }
    # What a chain takes as the code of one contract (EIP-170).
    assert len(decode_hex(artefact["deployedBytecode"])) < 24_576


def test_what_npm_installs_is_pinned():
    packages = json.loads((ROOT / "contracts/package.json").read_text())["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in packages.values())
    text = (ROOT / "contracts/package-lock.json").read_text()
    # What is installed is fixed by its digest; where it comes from is the reader's own setting.
    assert '"resolved"' not in text
    for name, package in json.loads(text)["packages"].items():
        # Parts of another package come under its digest, and a binary for another platform is never installed here.
        foreign = package.get("optional") and "integrity" not in package and "os" in package
        if name and not package.get("inBundle") and not foreign:
            assert package["integrity"].startswith("sha512-"), name


@pytest.mark.long  # the compiler runs in Node; whether what is committed is of these sources is told above
def test_a_fresh_build_equals_the_committed_one():
    if shutil.which("node") is None:
        pytest.skip("node is not installed (apt-get install nodejs)")
    if not (ROOT / "contracts/node_modules/solc").is_dir():
        pytest.skip("the compiler is not installed: run `npm ci` in contracts/")
    build = ["node", str(ROOT / "contracts/build.mjs"), "--check"]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
