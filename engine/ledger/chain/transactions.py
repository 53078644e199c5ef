"""Signed Ethereum transactions: to make them, to read them."""

from typing import Any

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.chain.base import Chain
from engine.ledger.signing import recover_digest, sign_digest
from engine.ledger.typed import address_bytes, checksum_address


def sign_transaction(
    key: bytes,
    chain_id: int,
    nonce: int,
    to: str | None,
    data: bytes,
    gas: int,
    tip: int | None,
    fee: int,
) -> bytes:
    """Sign a transaction of type 2, or of the old type bound to the chain id when `tip` is None. Fees are in wei."""
    import rlp

    target = address_bytes(to) if to is not None else b""
    if tip is None:
        body = [nonce, fee, gas, target, 0, data]
        signature = sign_digest(keccak(rlp.encode([*body, chain_id, 0, 0])), key)
        v = signature[64] - 27 + 35 + 2 * chain_id
        return bytes(rlp.encode([*body, v, _integer(signature[:32]), _integer(signature[32:64])]))
    body = [chain_id, nonce, tip, fee, gas, target, 0, data, []]
    signature = sign_digest(keccak(b"\x02" + rlp.encode(body)), key)
    tail = [signature[64] - 27, _integer(signature[:32]), _integer(signature[32:64])]
    return b"\x02" + bytes(rlp.encode([*body, *tail]))


def decode_transaction(raw: bytes) -> dict[str, Any]:
    """Read chain_id (None if it is bound to none), nonce, tip (None in the old type), fee, gas, to (None: creates), data.

    Raises:
        LedgerError: it is not a transaction of the two types that `sign_transaction` makes.
    """
    import rlp

    try:
        if raw[:1] == b"\x02":
            chain, nonce, tip, fee, gas, to, _, data = rlp.decode(raw[1:])[:8]
            chain_id: int | None = _integer(chain)
        else:
            nonce, fee, gas, to, _, data, v = rlp.decode(raw)[:7]
            tip = None
            chain_id = (_integer(v) - 35) // 2 if _integer(v) >= 35 else None
        return {
            "chain_id": chain_id,
            "nonce": _integer(nonce),
            "tip": None if tip is None else _integer(tip),
            "fee": _integer(fee),
            "gas": _integer(gas),
            "to": checksum_address(bytes(to)) if to else None,
            "data": bytes(data),
        }
    except (rlp.exceptions.RLPException, ValueError, TypeError, IndexError) as error:
        raise LedgerError("the bytes are not a signed transaction of a known type") from error


def sender_of(raw: bytes) -> str:
    """Return the account that signed a transaction of one of these types.

    Raises:
        LedgerError: it is none, or its signature is no key's.
    """
    import rlp

    chain_id = decode_transaction(raw)["chain_id"]
    try:
        if raw[:1] == b"\x02":
            fields = rlp.decode(raw[1:])
            digest, v = keccak(b"\x02" + rlp.encode(fields[:9])), _integer(fields[9])
        else:
            fields = rlp.decode(raw)
            body = fields[:6] if chain_id is None else [*fields[:6], chain_id, 0, 0]
            digest, v = keccak(rlp.encode(body)), (_integer(fields[6]) - 1) % 2
        r, s = (bytes(part).rjust(32, b"\0") for part in fields[-2:])
    except (rlp.exceptions.RLPException, ValueError, TypeError, IndexError) as error:
        raise LedgerError("the bytes are not a signed transaction of a known type") from error
    return recover_digest(digest, r + s + bytes([27 + v % 2]))


def require_chain_id(raw: bytes, chain: Chain) -> None:
    """Refuse a transaction that was signed for another chain.

    Raises:
        LedgerError: it was.
    """
    found = decode_transaction(raw)["chain_id"]
    if found != chain.chain_id:
        raise LedgerError(f"the transaction is signed for chain {found}, the {chain.name} chain is {chain.chain_id}")


def created_contract(sender: str, raw: bytes) -> str:
    """Return the address of the contract that a transaction creates."""
    import rlp

    return checksum_address(keccak(rlp.encode([address_bytes(sender), decode_transaction(raw)["nonce"]]))[-20:])


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big")
