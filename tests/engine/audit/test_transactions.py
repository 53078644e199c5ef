"""The coordinator's key can sign anything: whatever a transaction asks for beside what the journal holds is named."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from eth_abi import encode
from finished import audit, change, places
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import calls, challenges, registry, state, synthetic
from engine.encoding import keccak
from engine.ledger.chain.contracts import artefact, call_arguments, deploy_data
from engine.ledger.chain.embedded import WELL_KNOWN
from engine.ledger.chain.transactions import decode_transaction, sender_of, sign_transaction
from engine.ledger.format import BUNDLE, PURPOSES, RUN, rows_name

ROWS = (calls.check, registry.check, synthetic.check, challenges.check)


def transaction(folder: Path, purpose: str) -> tuple[int, int, dict[str, Any]]:
    """Number, round and content of the last transaction of a purpose."""
    connection = sqlite3.connect(folder / "ledger" / RUN.file)
    query = "SELECT seq, round, raw FROM transactions WHERE purpose = ? ORDER BY seq DESC"
    seq, number, raw = connection.execute(query, (purpose,)).fetchone()
    connection.close()
    return seq, number, {**decode_transaction(raw), "sender": sender_of(raw)}


def put(folder: Path, seq: int, content: dict[str, Any], data: bytes, to: str | None = None) -> None:
    """Put another transaction of the same account in the place of one, with everything that follows from its bytes."""
    to = content["to"] if to is None else to
    sending = (content["chain_id"], content["nonce"], to, data, content["gas"], content["tip"], content["fee"])
    raw = sign_transaction(WELL_KNOWN.key(content["sender"]), *sending)
    statement = (
        "UPDATE transactions SET raw = ?, hash = ?, receipt = json_set(receipt, '$.transaction', ?) WHERE seq = ?"
    )
    change(folder, statement, arguments=(raw, keccak(raw), "0x" + keccak(raw).hex(), seq))


def types(items: list[dict[str, Any]]) -> list[str]:
    """The types of arguments as the ABI encodes them."""
    return [
        f"({','.join(types(item['components']))}){item['type'][5:]}"
        if item["type"].startswith("tuple")
        else item["type"]
        for item in items
    ]


def plain(value: Any) -> Any:
    """A decoded value as the encoder takes it: structs are tuples."""
    return tuple(plain(item) for item in value.values()) if isinstance(value, dict) else value


def function_of(purpose: str) -> dict[str, Any]:
    known = PURPOSES[purpose]
    return next(i for i in artefact(known.contract)["abi"] if i["type"] == "function" and i["name"] == known.function)


def other(value: Any) -> Any:
    """A value of the same type that is not the same."""
    match value:
        case bool():
            return not value
        case int():
            return value ^ 1
        case bytes():
            return bytes([value[0] ^ 1, *value[1:]]) if value else b"\x01"
        case str():
            return "0x" + "09" * 20
        case dict():
            name = next(iter(value))
            return {**value, name: other(value[name])}
    return [*value[:-1], other(value[-1])] if value else [b"\x01" * 32]


# The auditor's key signs a decision on a dispute; here is none, nor an update that was shown directly, nor a stuck round, nor an old update, nor one
# beyond a budget (tests/engine/ledger/subjects), nor a committee, whose calls are changed in tests/engine/committee, nor a successor, for whom see tests/engine/test_failover.py.
ABSENT = (
    "entrust",
    "appoint",
    "alive",
    "take-over",
    "judge",
    "submit",
    "refuse",
    "abort",
    "mark",
    "dispute",
    "dispute-update",
    "overspent",
    "resolve",
)
SENT = [purpose for purpose, known in PURPOSES.items() if known.function and purpose not in ABSENT]
# (purpose, argument); of each call the first or, of every second one, the last in every suite
ARGUMENTS = [
    pytest.param(purpose, name, marks=[pytest.mark.long] * (name != names[-(number % 2)]))
    for number, purpose in enumerate(SENT)
    for names in [[item["name"] for item in function_of(purpose)["inputs"]]]
    for name in names
]


@pytest.fixture
def sent(folder: Path, challenged: Path, tmp_path: Path, purpose: str) -> Path:
    """A run that has made a call; one with a challenge that nobody answered is never clean."""
    if PURPOSES[purpose].contract != "MaskLedger":
        return folder
    return Path(shutil.copytree(challenged, tmp_path / "challenged"))


@pytest.mark.parametrize(("purpose", "argument"), ARGUMENTS)
def test_another_argument_of_any_call_is_found_and_named(sent: Path, purpose: str, argument: str):
    seq, number, content = transaction(sent, purpose)
    _, arguments = call_arguments(content["data"], PURPOSES[purpose].contract)
    arguments[argument] = other(arguments[argument])
    values = [plain(value) for value in arguments.values()]
    data = content["data"][:4] + encode(types(function_of(purpose)["inputs"]), values)
    assert data != content["data"]
    put(sent, seq, content, data)
    first = {"header": "round"} | ({"record": "federation"} if purpose == "answer" else {})  # what is changed in them
    named = {("transaction", first.get(argument, argument))}
    found = places(audit(sent, ROWS))
    if not {place[2:] for place in found if place[0] == number} & named:
        # what the journal does not hold shows in a row that nothing shows any more, or when it is executed again
        found |= places(audit(sent, [state.check]))
        named = {
            ("transaction", "status"),
            ("transaction", "gas"),
            ("rotation", "transaction"),
            ("synthetic", "record"),
        }
        assert {place[2:] for place in found} & named, found


def test_of_challenges_that_were_made_in_their_turn_only_silence_is_found(challenged: Path):
    report = audit(challenged)
    assert places(report) == {(3, 2, "masks", "challenge")}
    assert report.counts["challenges"] == 2


def test_a_challenge_in_a_round_that_is_no_number_ends_in_no_traceback(challenged: Path, tmp_path: Path):
    """A bundle's rows are JSON, so its author may write a list."""
    with ZipFile(challenged / "ledger" / BUNDLE) as bundle, ZipFile(tmp_path / BUNDLE, "w") as damaged:
        for name in bundle.namelist():
            lines = bundle.read(name)
            if name == rows_name("transactions"):
                rows = [json.loads(line) for line in lines.splitlines()]
                rows = [{**row, "round": [3]} if row["purpose"] in ("challenge", "answer") else row for row in rows]
                lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
            damaged.writestr(name, lines)
    found = places(audit(tmp_path / BUNDLE))
    assert (3, None, "transaction", "round") in found


def test_an_opening_by_another_key_a_turn_that_was_skipped_and_an_update_that_nobody_sent_are_named(
    challenged: Path, tmp_path: Path
):
    """As a node's journal may tell it, which is not executed again."""
    home, found = Path(shutil.copytree(challenged, tmp_path / "run")), {}
    for purpose, name in (("answer", "account"), ("answer", "signature"), ("challenge", "slot"), ("decide", "slot")):
        seq, _, content = transaction(home, purpose)
        _, arguments = call_arguments(content["data"], "MaskLedger")
        arguments[name] = 9 if name == "slot" else other(arguments[name])
        inputs = [plain(value) for value in arguments.values()]
        put(home, seq, content, content["data"][:4] + encode(types(function_of(purpose)["inputs"]), inputs))
        found[purpose, name] = places(audit(home, [challenges.check]))
        put(home, seq, content, content["data"])
    assert places(audit(home, [challenges.check])) == {(3, 2, "masks", "challenge")}
    assert (3, 1, "transaction", "account") in found["answer", "account"]
    assert (3, 1, "transaction", "signature") in found["answer", "signature"]
    # the update that is challenged is none of the round, and the silence after it was of no challenge
    assert {(3, 9, "transaction", "slot"), (3, 2, "transaction", "slot")} <= found["challenge", "slot"]
    assert (3, 9, "transaction", "slot") in found["decide", "slot"]


@pytest.mark.parametrize("purpose", SENT)
def test_a_call_of_another_contract_is_named(sent: Path, purpose: str):
    seq, number, content = transaction(sent, purpose)
    put(sent, seq, content, content["data"], to="0x" + "09" * 20)
    assert (number, None, "transaction", "to") in places(audit(sent, [calls.check]))


@pytest.mark.parametrize("purpose", SENT)
def test_a_call_of_another_function_is_named(sent: Path, purpose: str):
    seq, number, content = transaction(sent, purpose)
    (pause,) = (s for s in _selectors("RoundLedger") if s[0] == "pause")
    put(sent, seq, content, pause[1])
    assert (number, None, "transaction", "function") in places(audit(sent, [calls.check]))


def _selectors(contract: str) -> Iterator[tuple[str, bytes]]:
    for item in artefact(contract)["abi"]:
        if item["type"] == "function":
            yield item["name"], keccak(f"{item['name']}({','.join(types(item['inputs']))})".encode())[:4]


@pytest.mark.parametrize(
    ("purpose", "contract"),
    [
        ("deploy-synthetic", "SyntheticLedger"),
        ("deploy-reputation", "ReputationLedger"),
        ("deploy-masks", "MaskLedger"),
    ],
)
def test_a_contract_that_asks_another_one_is_named(sent: Path, purpose: str, contract: str):
    """A ledger of decisions or reputations that believes somebody else's rounds would run as well as ours."""
    seq, _, content = transaction(sent, purpose)
    rest = () if contract == "ReputationLedger" else (0,)
    put(sent, seq, content, deploy_data("0x" + "09" * 20, *rest, contract=contract))
    assert (0, None, "transaction", "contract") in places(audit(sent, [calls.check]))


@pytest.mark.parametrize("purpose", ["deploy", "deploy-synthetic", "deploy-reputation", "deploy-masks"])
def test_other_code_is_named(sent: Path, purpose: str):
    seq, _, content = transaction(sent, purpose)
    code = bytearray(content["data"])
    code[100] ^= 1
    put(sent, seq, content, bytes(code))
    assert (0, None, "transaction", "bytecode") in places(audit(sent, [calls.check]))


def test_a_contract_that_was_created_elsewhere_is_named(folder: Path):
    seq, _, content = transaction(folder, "deploy")
    put(folder, seq, {**content, "nonce": 99}, content["data"])
    assert (0, None, "transaction", "contract") in places(audit(folder, [calls.check]))


@settings(max_examples=25)
@given(data=st.data())
def test_random_bytes_in_a_transaction_never_pass_and_never_end_in_a_traceback(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    """A signature that belongs to no key, a list that is too short: the virtual machine's own readers raise many kinds."""
    folder = Path(shutil.copytree(original, tmp_path_factory.mktemp("random") / "run"))
    seq = data.draw(st.integers(1, 34))
    connection = sqlite3.connect(folder / "ledger" / RUN.file)
    (raw,) = connection.execute("SELECT raw FROM transactions WHERE seq = ?", (seq,)).fetchone()
    changed = bytearray(raw)
    changed[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    connection.execute("UPDATE transactions SET raw = ? WHERE seq = ?", (bytes(changed), seq))
    connection.commit()
    connection.close()
    assert not audit(folder, [state.check]).clean
