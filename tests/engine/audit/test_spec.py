"""The audit's own hashes against published vectors, other libraries, and the code that writes the ledger."""

import numpy as np
import pytest
from eth_abi import encode as abi_encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import spec
from engine.audit.spec import Domain, Record
from engine.ledger import trees
from engine.model import model_hash, vector_hash

CHAIN, CONTRACT = 131277322940537, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
DOMAIN = Domain(CHAIN, CONTRACT)


def example(type_: str) -> object:
    bits = int("".join(c for c in type_ if c.isdigit()) or 0)
    if type_.startswith("uint"):
        return 2**bits - 3
    if type_.startswith("int"):
        return -(2 ** (bits - 1)) + 1
    return {"bytes32": b"\xfe" * 32, "bool": True, "address": CONTRACT}[type_]


def test_keccak_of_nothing():
    assert spec.keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums_of_eip_55(address: str):
    assert spec.write_address(bytes.fromhex(address[2:])) == address
    with pytest.raises(ValueError, match="checksum"):
        spec.read_address(address.swapcase().replace("0X", "0x"))


@pytest.mark.parametrize("kind", spec.TYPES)
def test_typed_digests_equal_those_of_eth_account(kind: str):
    members = [member.split(" ") for member in spec.TYPES[kind].split(",")]
    values = {name: example(type_) for type_, name in members}
    message = encode_typed_data(
        {"name": "PulseLedger", "version": "2", "chainId": CHAIN, "verifyingContract": CONTRACT},
        {kind: [{"name": name, "type": type_} for type_, name in members]},
        values,
    )
    digest = spec.typed_digest(kind, values, DOMAIN)
    account = Account.from_key(b"\x01" * 32)
    signed = account.sign_message(message)
    assert spec.signer(digest, signed.signature) == account.address
    with pytest.raises(KeyError):
        spec.typed_digest(kind, dict(list(values.items())[:-1]), DOMAIN)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint16", 65536),
        ("uint16", -1),
        ("int16", 32768),
        ("uint16", True),
        ("uint16", 1.0),
        ("bytes32", b"x"),
        ("bool", 1),
    ],
)
def test_a_value_outside_its_type_is_refused(kind: str, value: object):
    with pytest.raises(ValueError, match="not"):
        spec.encode(kind, value)


@pytest.mark.parametrize("damage", [lambda s: s[:-1], lambda s: s[:64] + b"\x1d", lambda s: bytes(64) + b"\x1b"])
def test_a_malformed_signature_is_refused(damage):
    signature = Account.unsafe_sign_hash(b"\x07" * 32, b"\x01" * 32).signature
    with pytest.raises(ValueError, match="signature"):
        spec.signer(b"\x07" * 32, damage(signature))


def test_a_high_s_is_refused():
    signature = Account.unsafe_sign_hash(b"\x07" * 32, b"\x01" * 32).signature
    order = 2 * spec.HALF_ORDER + 1
    high = order - int.from_bytes(signature[32:64], "big")
    with pytest.raises(ValueError, match="upper half"):
        spec.signer(b"\x07" * 32, signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]]))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20))
def test_the_tree_is_that_of_the_writer(leaves: list[bytes]):
    assert spec.tree_root(leaves) == trees.root(leaves)


def test_the_tree_of_three_by_hand():
    a, b, c = (bytes([n]) * 32 for n in (1, 2, 3))
    left, right = keccak(b"\x01" + a + b), keccak(b"\x01" + c + spec.EMPTY_SLOT)
    assert spec.tree_root([a, b, c]) == keccak(b"\x01" + left + right)


def test_names_in_json_follow_from_the_signed_type_and_lead_back_to_it():
    numbers = ["auc_bp", "nndr_bp", "distance_bp", "duplicates", "repeated", "spread_bp", "utility_bp", "recognised_bp"]
    assert list(spec.fields("SyntheticReport"))[4:] == numbers
    for kind, text in spec.TYPES.items():
        assert ",".join(f"{type_} {name}" for name, type_ in spec.fields(kind).values()) == text
    rotation = {"federation": b"\x01" * 32, "slot": 3, "from_": CONTRACT, "to": CONTRACT, "round": 7}
    record = Record("KeyRotation", rotation)
    assert record.members == {"from" if name == "from_" else name: value for name, value in rotation.items()}
    assert record.digest(DOMAIN) == spec.typed_digest("KeyRotation", record.members, DOMAIN)


def test_heads_are_the_contracts_abi_encoding():
    x = [bytes([n]) * 32 for n in range(10)]
    types = ["uint256", "address", "bytes32", "bytes32", "bytes32", "bytes32", "uint32", "uint32"]
    assert spec.first_head(DOMAIN, x[0], x[1], x[2], x[3], 5, 4) == keccak(
        abi_encode(types, [CHAIN, CONTRACT, x[0], x[1], x[2], x[3], 5, 4])
    )
    types = ["bytes32", "uint256", "address", "bytes32", "uint64", *["bytes32"] * 3, "uint32", "bytes32"]
    header = {"round": 7, "previousHead": x[0], "root": x[2], "parentModel": x[3], "model": x[4], "count": 5}
    assert spec.next_head(DOMAIN, x[1], {**header, "annex": x[6]}) == keccak(
        abi_encode(types, [x[0], CHAIN, CONTRACT, x[1], 7, x[2], x[3], x[4], 5, x[6]])
    )
    types = ["bytes32", "bytes32", "uint8", "uint32", "bytes32"]
    assert spec.next_decision(x[0], x[1], 3, 40, x[2]) == keccak(abi_encode(types, [x[0], x[1], 3, 40, x[2]]))
    types = ["uint256", "address", "bytes32", "bytes32", "uint32"]
    assert spec.study_head(DOMAIN, x[1], x[2], 9) == keccak(abi_encode(types, [CHAIN, CONTRACT, x[1], x[2], 9]))
    types = ["bytes32", "uint64", "uint32", "uint8", "bytes32"]
    assert spec.trial_head(x[0], 3, 2, 1, x[1]) == keccak(abi_encode(types, [x[0], 3, 2, 1, x[1]]))


def test_the_annex_by_hand():
    """Names in the order of their bytes, each leaf hashed twice, pairs sorted, the odd one moves up."""
    a, b, c = (bytes([n]) * 32 for n in (1, 2, 3))
    leaf = {name: keccak(keccak(keccak(text=name) + digest)) for name, digest in (("d", a), ("r", b), ("s", c))}
    assert spec.annex_root({}) == spec.annex_root({"s": bytes(32)}) == bytes(32)
    assert spec.annex_root({"d": a}) == leaf["d"]
    pair = keccak(b"".join(sorted((leaf["d"], leaf["r"]))))
    assert spec.annex_root({"s": c, "x": bytes(32), "r": b, "d": a}) == keccak(b"".join(sorted((pair, leaf["s"]))))


def test_model_hashes_are_those_of_the_writer():
    layout = [("b.weight", (2, 3)), ("a.bias", ()), ("c", (0, 4))]
    vector = np.array([0.0, -0.0, np.nan, np.inf, 1.5, -2.5, 3.25], np.float32)
    assert spec.flat_hash(vector, layout) == vector_hash(vector, layout)
    tensors = {"x": np.arange(6, dtype=">f8").reshape(2, 3).T, "y": np.array(True), "z": np.arange(3, dtype=np.uint8)}
    assert spec.tensors_hash(tensors) == model_hash(tensors)
    with pytest.raises(ValueError, match="expected 7"):
        spec.flat_hash(vector[:6], layout)


def test_commitments_by_hand():
    assert spec.commitment(b"\x05" * 32, 300) == keccak(b"\x05" * 32 + (300).to_bytes(32, "big"))
    assert spec.commitment(b"\x05" * 32, b"\x06" * 32) == keccak(b"\x05" * 32 + b"\x06" * 32)
