"""RoundLedger against an independent computation of its heads; every guard refuses, and says what it refused."""

import ast
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from eth_abi import decode, encode
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from eth_utils import decode_hex, keccak
from hexbytes import HexBytes

ROOT = Path(__file__).parents[1]
ARTEFACT = json.loads((ROOT / "engine/ledger/RoundLedger.json").read_text())
FEDERATION, CONFIG, REGISTRY, GENESIS = (bytes([n]) * 32 for n in (0xF1, 0xC1, 0xA1, 0x60))
SEAL_TYPES = ["bytes32", "uint64", "bytes32", "bytes32", "bytes32", "uint32", "uint32"]
ROLE = keccak(text="COORDINATOR_ROLE")


class Contract:
    """The contract on a chain of its own, called through the plain tester, without any code of the engine."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.admin, self.coordinator, self.stranger = self.tester.get_accounts()[:3]
        self.chain_id = self.tester.backend.chain.chain_id
        arguments = encode(["address", "address"], [self.admin, self.coordinator]).hex()
        sent = self.tester.send_transaction(
            {"from": self.admin, "gas": 3_000_000, "data": ARTEFACT["bytecode"] + arguments}
        )
        self.address = self.tester.get_transaction_receipt(sent)["contract_address"]

    def data(self, name: str, *arguments: object) -> str:
        types = [i["type"] for item in ARTEFACT["abi"] if item.get("name") == name for i in item["inputs"]]
        return "0x" + (keccak(text=f"{name}({','.join(types)})")[:4] + encode(types, arguments)).hex()

    def send(self, name: str, *arguments: object, sender: str | None = None) -> dict:
        sent = self.tester.send_transaction(
            {
                "from": sender or self.coordinator,
                "to": self.address,
                "gas": 300_000,
                "data": self.data(name, *arguments),
            }
        )
        return self.tester.get_transaction_receipt(sent)

    def call(self, name: str, *arguments: object, sender: str | None = None) -> bytes:
        answer = self.tester.call(
            {"from": sender or self.coordinator, "to": self.address, "data": self.data(name, *arguments)}
        )
        return bytes(HexBytes(answer))

    def state(self, federation: bytes = FEDERATION) -> tuple:
        return decode(["bytes32", "bytes32", "bytes32", "bytes32", "uint64"], self.call("federationState", federation))

    def refusal(self, name: str, *arguments: object, sender: str | None = None) -> bytes:
        """Return the revert data of a call that must fail, and check that sending it changes nothing."""
        transaction = {"from": sender or self.coordinator, "to": self.address, "data": self.data(name, *arguments)}
        with pytest.raises(TransactionFailed) as refused:
            self.tester.call(transaction)
        before = self.state()
        self.tester.send_transaction({**transaction, "gas": 300_000})
        assert self.state() == before
        # The tester hands the revert data on as the text of a bytes literal.
        text = str(refused.value)
        return ast.literal_eval(text) if text.startswith(("b'", 'b"')) else decode_hex(text)


def first_head(contract: Contract, federation: bytes = FEDERATION) -> bytes:
    values = [contract.chain_id, contract.address, federation, CONFIG, REGISTRY, GENESIS]
    return keccak(encode(["uint256", "address", "bytes32", "bytes32", "bytes32", "bytes32"], values))


def later_head(contract: Contract, head: bytes, *seal: object) -> bytes:
    types = ["bytes32", "uint256", "address", *SEAL_TYPES]
    return keccak(encode(types, [head, contract.chain_id, contract.address, *seal]))


def model(number: int) -> bytes:
    return GENESIS if number == 0 else keccak(text=f"model {number}")


def seal(number: int, federation: bytes = FEDERATION, count: int = 3, slots: int = 5) -> tuple:
    return federation, number, keccak(text=f"root {number}"), model(number - 1), model(number), count, slots


@pytest.fixture(scope="module")
def deployed() -> Contract:
    return Contract()


@pytest.fixture
def contract(deployed: Contract):
    snapshot = deployed.tester.take_snapshot()
    deployed.send("openFederation", FEDERATION, CONFIG, REGISTRY, GENESIS)
    yield deployed
    deployed.tester.revert_to_snapshot(snapshot)


def expect_error(data: bytes, signature: str, *arguments: object) -> None:
    types = signature[signature.index("(") + 1 : -1].split(",")
    assert data[:4] == keccak(text=signature)[:4]
    assert data[4:] == encode(types, arguments)


def test_head_equals_the_independent_one_after_every_seal(contract: Contract):
    head = first_head(contract)
    assert contract.state() == (head, GENESIS, CONFIG, REGISTRY, 0)
    for number in range(1, 6):
        arguments = seal(number, count=number)
        receipt = contract.send("sealRound", *arguments)
        head = later_head(contract, head, *arguments)
        assert receipt["status"] == 1
        assert contract.state() == (head, model(number), CONFIG, REGISTRY, number)
        assert contract.call("head", FEDERATION) == head
        [log] = receipt["logs"]
        topic = keccak(text="RoundSealed(bytes32,uint64,bytes32,bytes32,bytes32,uint32,uint32,bytes32)")
        assert [bytes(HexBytes(t)) for t in log["topics"]] == [topic, FEDERATION, encode(["uint64"], [number])]
        fields = decode(["bytes32", "bytes32", "bytes32", "uint32", "uint32", "bytes32"], bytes(HexBytes(log["data"])))
        assert fields == (*arguments[2:], head)
    assert receipt["gas_used"] <= 75_000


def test_opening_emits_everything_the_state_needs(deployed: Contract):
    snapshot = deployed.tester.take_snapshot()
    [log] = deployed.send("openFederation", FEDERATION, CONFIG, REGISTRY, GENESIS)["logs"]
    topic = keccak(text="FederationOpened(bytes32,bytes32,bytes32,bytes32,bytes32)")
    assert [bytes(HexBytes(t)) for t in log["topics"]] == [topic, FEDERATION]
    assert bytes(HexBytes(log["data"])) == CONFIG + REGISTRY + GENESIS + first_head(deployed)
    deployed.tester.revert_to_snapshot(snapshot)


def test_federations_do_not_touch_each_other(contract: Contract):
    other = b"\xf2" * 32
    contract.send("openFederation", other, CONFIG, REGISTRY, GENESIS)
    assert contract.call("head", other) == first_head(contract, other) != contract.call("head", FEDERATION)
    before = contract.state()
    contract.send("sealRound", *seal(1, other))
    assert contract.state(other)[4] == 1
    assert contract.state() == before
    assert contract.state(b"\xf3" * 32) == (bytes(32),) * 4 + (0,)


@pytest.mark.parametrize("number", [0, 2, 2**64 - 1])
def test_only_the_next_round_can_be_sealed(contract: Contract, number: int):
    arguments = (FEDERATION, number, *seal(1)[2:])
    data = contract.refusal("sealRound", *arguments)
    expect_error(data, "RoundOutOfOrder(bytes32,uint64,uint64)", FEDERATION, 1, number)


def test_a_sealed_round_cannot_be_sealed_again(contract: Contract):
    contract.send("sealRound", *seal(1))
    data = contract.refusal("sealRound", *seal(1))
    expect_error(data, "RoundOutOfOrder(bytes32,uint64,uint64)", FEDERATION, 2, 1)


def test_a_round_must_start_from_the_last_model(contract: Contract):
    contract.send("sealRound", *seal(1))
    arguments = (*seal(2)[:3], GENESIS, *seal(2)[4:])
    data = contract.refusal("sealRound", *arguments)
    signature = "ParentModelMismatch(bytes32,uint64,bytes32,bytes32)"
    expect_error(data, signature, FEDERATION, 2, model(1), GENESIS)


@pytest.mark.parametrize(("count", "slots"), [(0, 5), (6, 5), (1, 0)])
def test_the_count_lies_between_one_and_the_slots(contract: Contract, count: int, slots: int):
    data = contract.refusal("sealRound", *seal(1, count=count, slots=slots))
    expect_error(data, "CountOutOfRange(bytes32,uint64,uint32,uint32)", FEDERATION, 1, count, slots)


def test_zero_root_and_zero_models_are_refused(contract: Contract):
    arguments = seal(1)
    data = contract.refusal("sealRound", *arguments[:2], bytes(32), *arguments[3:])
    expect_error(data, "RootIsZero(bytes32,uint64)", FEDERATION, 1)
    data = contract.refusal("sealRound", *arguments[:4], bytes(32), *arguments[5:])
    expect_error(data, "ModelIsZero(bytes32,uint64)", FEDERATION, 1)
    other = b"\xf2" * 32
    data = contract.refusal("openFederation", other, CONFIG, REGISTRY, bytes(32))
    expect_error(data, "ModelIsZero(bytes32,uint64)", other, 0)


def test_a_federation_opens_once_and_must_be_open(contract: Contract):
    data = contract.refusal("openFederation", FEDERATION, REGISTRY, CONFIG, GENESIS)
    expect_error(data, "FederationAlreadyOpen(bytes32)", FEDERATION)
    other = b"\xf2" * 32
    data = contract.refusal("sealRound", *seal(1, other))
    expect_error(data, "FederationUnknown(bytes32)", other)


@pytest.mark.parametrize("name", ["openFederation", "sealRound"])
def test_a_caller_without_the_role_is_refused(contract: Contract, name: str):
    arguments = seal(1) if name == "sealRound" else (b"\xf2" * 32, CONFIG, REGISTRY, GENESIS)
    # The admin may hand out roles, which does not make it a coordinator.
    for caller in (contract.stranger, contract.admin):
        data = contract.refusal(name, *arguments, sender=caller)
        expect_error(data, "AccessControlUnauthorizedAccount(address,bytes32)", caller, ROLE)


def test_the_admin_moves_the_role(contract: Contract):
    data = contract.refusal("grantRole", ROLE, contract.stranger, sender=contract.stranger)
    expect_error(data, "AccessControlUnauthorizedAccount(address,bytes32)", contract.stranger, bytes(32))
    contract.send("grantRole", ROLE, contract.stranger, sender=contract.admin)
    contract.send("revokeRole", ROLE, contract.coordinator, sender=contract.admin)
    contract.refusal("sealRound", *seal(1))
    assert contract.send("sealRound", *seal(1), sender=contract.stranger)["status"] == 1


def test_transactions_equal_those_of_an_independent_signer():
    from engine.ledger.chain import decode_transaction, sign_transaction

    key, to = b"\x07" * 32, Account.from_key(b"\x08" * 32).address
    fields = {"chainId": 1337, "nonce": 5, "gas": 100_000, "value": 0, "data": "0x1234", "to": to}
    typed = Account.sign_transaction({**fields, "type": 2, "maxFeePerGas": 30, "maxPriorityFeePerGas": 2}, key)
    assert sign_transaction(key, 1337, 5, to, b"\x12\x34", 100_000, 2, 30) == bytes(typed.raw_transaction)
    assert TypedTransaction.from_bytes(HexBytes(typed.raw_transaction)).as_dict()["nonce"] == 5
    plain = Account.sign_transaction({**fields, "gasPrice": 30}, key)
    assert sign_transaction(key, 1337, 5, to, b"\x12\x34", 100_000, None, 30) == bytes(plain.raw_transaction)
    for raw in (bytes(typed.raw_transaction), bytes(plain.raw_transaction)):
        assert decode_transaction(raw) == {"chain_id": 1337, "nonce": 5, "to": to, "data": b"\x12\x34"}


def test_the_committed_build_belongs_to_the_source():
    source = (ROOT / "contracts/RoundLedger.sol").read_bytes()
    assert ARTEFACT["sources"]["contracts/RoundLedger.sol"] == hashlib.sha256(source).hexdigest()
    packages = json.loads((ROOT / "contracts/package.json").read_text())["devDependencies"]
    assert ARTEFACT["compiler"]["version"].split("+")[0] == packages["solc"]
    assert ARTEFACT["compiler"]["settings"] == {
        "optimizer": {"enabled": True, "runs": 200},
        "evmVersion": "cancun",
        "metadata": {"bytecodeHash": "none"},
    }
    # A contract may hold 24,576 bytes of code.
    assert len(decode_hex(ARTEFACT["deployedBytecode"])) < 12_000
    locked = json.loads((ROOT / "contracts/package-lock.json").read_text())["packages"]
    for name, package in locked.items():
        # What is installed is fixed by its digest; where it comes from is the reader's own setting.
        assert not name or package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def test_a_fresh_build_equals_the_committed_one():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (ROOT / "contracts/node_modules/solc").is_dir():
        pytest.skip("the compiler is not installed: run `npm ci` in contracts/")
    build = ["node", str(ROOT / "contracts/build.mjs"), "--check"]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
