"""Keys, salts and signatures of hospitals. Imports neither web3 nor eth_account, so that a hospital starts quickly."""

import hashlib
from functools import lru_cache

from coincurve import PrivateKey, PublicKey

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.typed import Domain, Record, checksum_address, digest

# Order of secp256k1. Of the two valid s of a signature only the one in the lower half is accepted, so that nobody can
# turn a signature into another valid one.
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

SALT_SAMPLES, SALT_METRICS, SALT_REAL_COUNT, SALT_PRIVACY, SALT_SCORES, SALT_MASKS = 1, 2, 3, 4, 5, 6


def hospital_key(seed: int, federation: bytes, slot: int) -> bytes:
    """Derive the 32-byte key of a simulated hospital from the seed of the run.

    Whoever knows the seed knows the keys: this serves experiments that must repeat. A real hospital draws its own key.
    """
    attempt = 0
    while True:
        text = f"PulseLedger hospital key 1|{seed}|{federation.hex()}|{slot}|{attempt}"
        key = hashlib.sha256(text.encode()).digest()
        if 0 < int.from_bytes(key, "big") < CURVE_ORDER:
            return key
        attempt += 1


def reviewer_key(seed: int, federation: bytes) -> bytes:
    """Derive the key of the simulated reviewer of a federation; as public as the seed, see `hospital_key`."""
    return hashlib.sha256(f"PulseLedger reviewer key 1|{seed}|{federation.hex()}".encode()).digest()


def salt(key: bytes, federation: bytes, round: int, purpose: int) -> bytes:
    """Derive the salt of one commitment, 32 bytes that only the holder of the key can know.

    Args:
        purpose: one of the six above; a request for synthetic data takes its nonce as round.
    """
    return keccak(b"PulseLedger salt 1" + key + federation + round.to_bytes(8, "big") + bytes([purpose]))


def address(key: bytes) -> str:
    """Return the checksum address of a 32-byte private key.

    Raises:
        LedgerError: the key is not a valid secp256k1 scalar.
    """
    return _address(_private(key).public_key)


def sign(record: Record, domain: Domain, key: bytes) -> bytes:
    """Sign a record for one chain and contract; the same arguments give the same 65 bytes.

    Raises:
        LedgerError: the key is not a valid secp256k1 scalar.
    """
    return sign_digest(digest(record, domain), key)


def sign_digest(digest: bytes, key: bytes) -> bytes:
    """Sign 32 bytes: r, s in the lower half, v as 27 or 28."""
    compact = _private(key).sign_recoverable(digest, hasher=None)
    return compact[:64] + bytes([27 + compact[64]])


def recover(record: Record, signature: bytes, domain: Domain) -> str:
    """Return the checksum address that signed.

    Raises:
        LedgerError: the signature is malformed: not 65 bytes, s in the upper half, v neither 27 nor 28, or no point.
    """
    return recover_digest(digest(record, domain), signature)


def recover_digest(digest: bytes, signature: bytes) -> str:
    """Return the checksum address that signed a 32-byte digest; raises LedgerError as `recover` does."""
    if not isinstance(signature, bytes) or len(signature) != 65:
        raise LedgerError("the signature is not 65 bytes long")
    if signature[64] not in (27, 28):
        raise LedgerError(f"the signature's recovery byte is {signature[64]}, expected 27 or 28")
    if int.from_bytes(signature[32:64], "big") > CURVE_ORDER // 2:
        raise LedgerError("the signature's s is in the upper half of the curve order")
    compact = signature[:64] + bytes([signature[64] - 27])
    try:
        return _address(PublicKey.from_signature_and_message(compact, digest, hasher=None))
    except Exception as error:  # the library raises ValueError or bare Exception, by version
        raise LedgerError("the signature belongs to no key") from error


def require_signer(where: str, record: Record, signature: bytes, domain: Domain, expected: str) -> None:
    """Refuse a signature that is not that of an account.

    Raises:
        LedgerError: it is malformed, or somebody else's; the message begins with `where`.
    """
    require_digest_signer(where, digest(record, domain), signature, domain, expected)


def require_digest_signer(where: str, digest: bytes, signature: bytes, domain: Domain, expected: str) -> None:
    """As `require_signer`, where the digest is known."""
    try:
        signer = recover_digest(digest, signature)
    except LedgerError as error:
        raise LedgerError(f"{where}: {error}") from error
    if signer != expected:
        raise LedgerError(
            f"{where}: signed by {signer} for chain {domain.chain_id} and contract {domain.contract}, expected {expected}"
        )


@lru_cache(maxsize=1024)  # making one costs as much as signing with it
def _private(key: bytes) -> PrivateKey:
    if not isinstance(key, bytes) or len(key) != 32 or not 0 < int.from_bytes(key, "big") < CURVE_ORDER:
        raise LedgerError("the private key is not a valid secp256k1 scalar of 32 bytes")
    return PrivateKey(key)


def _address(public: PublicKey) -> str:
    return checksum_address(keccak(public.format(compressed=False)[1:])[-20:])
