"""The Solidity contracts in py-evm, and their calls and answers as the chaincode takes and gives them."""

import ast
import datetime
import json
from dataclasses import fields
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
from engine.ledger.signing import address
from engine.ledger.subjects.updates import Header
from engine.ledger.typed import Domain

ARTEFACTS = Path(__file__).parents[2] / "engine/ledger/artefacts"
WHO = ("admin", "coordinator", "auditor", "second", "stranger", "heir")
KEYS = {name: keccak(b"fabric vector " + name.encode()) for name in WHO}
NOBODY = "0x" + "00" * 20
ROLES = {keccak(name.encode()): name for name in ("COORDINATOR_ROLE", "REVIEWER_ROLE", "AUDITOR_ROLE")}
ATTRIBUTES = x509.ObjectIdentifier("1.2.3.4.5.6.7.8.1")  # where Fabric's authority puts them
CALLS: list[dict[str, Any]] = []


class Role(str):
    """A role: its name for the chaincode, the hash of that for the contract."""


def plain(value: Any) -> str:
    """As the chaincode takes it: text, or JSON text."""
    said = _said(value)
    return said if isinstance(said, str) else json.dumps(said)


def _said(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return hexed(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_said(one) for one in value]
    names = {
        field.name: _camel(field.name)
        for field in fields(value)
        if not (isinstance(value, Header) and field.name == "head")
    }
    renamed = {"fromAddress": "from", "toAddress": "to"}
    return {renamed.get(camel, camel): _said(getattr(value, name)) for name, camel in names.items()}


def _camel(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


def solid(value: Any) -> Any:
    """As the contract takes it."""
    if isinstance(value, Role):
        return keccak(value.encode())
    if isinstance(value, Header):
        return value.abi
    if isinstance(value, list):
        return [solid(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return tuple(solid(getattr(value, field.name)) for field in fields(value))
    return value


class Chain:
    """RoundLedger and SuccessionLedger in py-evm."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.web3 = Web3(EthereumTesterProvider(self.tester))
        for key in KEYS.values():
            self.tester.add_account(hexed(key))
            self.web3.eth.send_transaction({"from": self.tester.get_accounts()[0], "to": address(key), "value": 10**20})
        self.errors: dict[bytes, dict[str, Any]] = {}
        roles = [address(KEYS[name]) for name in ("admin", "coordinator", "auditor")]
        self.rounds = self.deployed("RoundLedger", *roles, 0)
        self.succession = self.deployed("SuccessionLedger", self.rounds.address)
        self.domain = Domain(self.web3.eth.chain_id, self.rounds.address)
        role = keccak(b"COORDINATOR_ROLE")
        self.rounds.functions.grantRole(role, address(KEYS["second"])).transact({"from": address(KEYS["admin"])})

    def deployed(self, name: str, *values: Any) -> Any:
        artefact = json.loads((ARTEFACTS / f"{name}.json").read_text())
        made = self.web3.eth.contract(abi=artefact["abi"], bytecode=artefact["bytecode"])
        done = made.constructor(*values).transact({"from": address(KEYS["admin"])})
        self.errors |= {keccak(_signature(one).encode())[:4]: one for one in artefact["abi"] if one["type"] == "error"}
        return self.web3.eth.contract(
            self.web3.eth.get_transaction_receipt(done)["contractAddress"], abi=artefact["abi"]
        )

    def call(self, federation: bytes, caller: str, name: str, *values: Any, why: str = "") -> None:
        """One call, written down with its answer and the state of a federation; `why` is said by the test."""
        of, _, bare = name.rpartition(":")
        contract = self.succession if of == "SuccessionLedger" else self.rounds
        function = getattr(contract.functions, bare)(*map(solid, values))
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
        step["federation"], step["state"] = hexed(federation), self.state(federation)
        CALLS.append(step)

    def named(self, data: bytes) -> str:
        """A refusal as the chaincode writes it."""
        error = self.errors[data[:4]]
        types = [one["type"] for one in error["inputs"]]
        values = self.web3.codec.decode(types, data[4:])
        if error["name"] in ("AccessControlUnauthorizedAccount", "EnforcedPause"):
            return str(error["name"])
        if error["name"] == "RolesConflict":
            roles = {b"\0" * 32: "DEFAULT_ADMIN_ROLE"} | ROLES
            values = [values[0], *(roles[value] for value in values[1:])]
        shown = [hexed(v) if isinstance(v, bytes) else v.lower() if str(v).startswith("0x") else str(v) for v in values]
        return f"{error['name']}({','.join(shown)})"

    def state(self, federation: bytes) -> dict[str, Any] | None:
        """What is asked after each call."""
        head, model, config, registry, progress, final, disputed, closing, coordinator, staleness = (
            self.rounds.functions.federationState(federation).call()
        )
        if not progress[3]:
            return None
        last = progress[0]
        now = int(self.web3.eth.get_block("latest")["timestamp"])
        status = {str(r): self.rounds.functions.roundStatus(federation, r).call() for r in range(last + 3)}
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
            "line": self.line(federation),
            "asked": now,
        }

    def line(self, federation: bytes) -> dict[str, Any]:
        successors, patience, term, heard = self.succession.functions.succession(federation).call()
        places = range(term, len(successors))
        return {
            "successors": [one.lower() for one in successors],
            **{"patience": str(patience), "term": str(term), "heard": str(heard)},
            "from": {
                str(p): str(self.succession.functions.takeoverFrom(federation, p).call(block_identifier="latest"))
                for p in places
            },
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
