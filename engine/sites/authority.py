"""Who may speak: certificates of a small authority in the keystore's folder, for the coordinator and one for each hospital.

authority.pem            certificate that all others are checked against; goes to every hospital
authority.key            its key, encrypted with the keystore's password; stays with whoever keeps the registry
coordinator.pem          certificate and key of the coordinator; hospital-0002.pem those of a hospital, which takes it home
certificates.json        [{"who": "hospital 2", "serial": "..", "revoked": false}]; the coordinator takes no other

Elliptic curve P-256, for TLS 1.3 or 1.2. A certificate says in its name who it is for; what it is worth today stands in the list.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import LedgerError
from engine.files import read_bytes, whole
from engine.ledger.keyfiles import keystore_password, read_document, write_private_json

AUTHORITY, AUTHORITY_KEY, LIST = "authority.pem", "authority.key", "certificates.json"
COORDINATOR = "coordinator"
SERVER_NAME = "coordinator.pulseledger"  # that only the coordinator's certificate holds
DAYS, AUTHORITY_DAYS = 365, 3650
_MOST = 1 << 16  # bytes of a file


class Credentials(NamedTuple):
    """PEM: the authority's certificate, one's own, and its key."""

    authority: bytes
    certificate: bytes
    key: bytes


def hospital_name(slot: int) -> str:
    """Whom a hospital's certificate names."""
    return f"hospital {slot}"


def slot_of(name: str) -> int:
    """The hospital that a certificate names; raises LedgerError for anybody else."""
    word, _, number = name.partition(" ")
    if word != "hospital" or not number.isascii() or not number.isdigit() or str(int(number)) != number:
        raise LedgerError(f"a certificate names {name!r:.60}, who is no hospital")
    return int(number)


def certificate_path(folder: Path, who: str) -> Path:
    """Where a certificate lies with its key."""
    return folder / (f"{COORDINATOR}.pem" if who == COORDINATOR else f"hospital-{slot_of(who):04d}.pem")


def issue(folder: Path, who: Sequence[str], password: str | None = None, days: int = DAYS) -> None:
    """Issues a certificate to each, with a new key; the one that it had counts no more. Makes the authority where there is none.

    Args:
        who: "coordinator", or hospitals by `hospital_name`.
        password: None takes it from PULSELEDGER_KEYSTORE_PASSWORD.

    Raises:
        LedgerError: no password or a wrong one, or the folder cannot be written.
    """
    secret = keystore_password(password).encode()
    key, certificate = _authority(folder, secret)
    listed = _listed(folder)
    for name in who:
        path = certificate_path(folder, name)
        own = ec.generate_private_key(ec.SECP256R1())
        made = _signed(name, own.public_key(), key, certificate.subject, days, server=name == COORDINATOR)
        listed = [{**one, "revoked": True} if one["who"] == name else one for one in listed]
        listed.append({"who": name, "serial": f"{made.serial_number:x}", "revoked": False})
        _write_private(path, made.public_bytes(serialization.Encoding.PEM) + _pem(own))
    write_private_json(folder / LIST, listed)


def revoke(folder: Path, who: Sequence[str]) -> None:
    """From the coordinator's next look at its list on, nobody speaks by the certificates of these any more.

    Raises:
        LedgerError: one of them has none that counts, or the folder cannot be read or written.
    """
    listed = _listed(folder)
    for name in who:
        if not any(one["who"] == name and not one["revoked"] for one in listed):
            raise LedgerError(f"{folder / LIST}: {name} has no certificate that could be revoked")
    write_private_json(folder / LIST, [{**one, "revoked": one["revoked"] or one["who"] in who} for one in listed])


def valid(folder: Path) -> dict[str, str]:
    """Serial number, hex, of each certificate that counts -> whom it names. Raises LedgerError where the list is damaged."""
    return {one["serial"]: one["who"] for one in _listed(folder) if not one["revoked"]}


def credentials(folder: Path, who: str) -> Credentials:
    """What one needs to speak.

    Raises:
        LedgerError: a file is missing or holds something else.
    """
    path = certificate_path(folder, who)
    authority, own = _read(folder / AUTHORITY), _read(path)
    mark = b"-----BEGIN PRIVATE KEY-----"
    certificate, found, key = own.partition(mark)
    try:
        names = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        x509.load_pem_x509_certificate(authority)
    except ValueError:
        raise LedgerError(f"{path} or {AUTHORITY} beside it is damaged: it is no certificate") from None
    if not found or [str(one.value) for one in names] != [who]:
        raise LedgerError(f"{path} is not the certificate and key of {who}")
    return Credentials(authority, certificate, mark + key)


def hospital_in(folder: Path) -> int:
    """The hospital whose certificate lies in a folder of its own; raises LedgerError where there is none, or are several."""
    found = sorted(folder.glob("hospital-????.pem"))
    if len(found) != 1:
        raise LedgerError(f"{folder}: holds {len(found)} certificates hospital-NNNN.pem; a site has one, its own")
    number = found[0].stem.rpartition("-")[2]
    if not number.isdigit():
        raise LedgerError(f"{found[0]}: is the certificate of no hospital")
    return int(number)


def serial_of(certificate: bytes) -> str:
    """The serial number, hex, of a certificate in PEM; raises LedgerError where it is none."""
    try:
        return f"{x509.load_pem_x509_certificate(certificate).serial_number:x}"
    except ValueError:
        raise LedgerError("what was shown is no certificate") from None


def _authority(folder: Path, secret: bytes) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if not (folder / AUTHORITY_KEY).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PulseLedger federation")])
        made = _signed("", key.public_key(), key, name, AUTHORITY_DAYS, server=False)
        _write_private(folder / AUTHORITY_KEY, _pem(key, secret))
        _write_private(folder / AUTHORITY, made.public_bytes(serialization.Encoding.PEM))
    try:
        found = serialization.load_pem_private_key(_read(folder / AUTHORITY_KEY), secret)
        certificate = x509.load_pem_x509_certificate(_read(folder / AUTHORITY))
    except (ValueError, TypeError):
        raise LedgerError(
            f"{folder / AUTHORITY_KEY} cannot be opened: the password is wrong, or it is damaged"
        ) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise LedgerError(f"{folder / AUTHORITY_KEY} holds another kind of key")
    return found, certificate


def _signed(
    who: str,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    days: int,
    server: bool,
) -> x509.Certificate:
    """A certificate; of the authority itself where it names nobody."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) if who else issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hospitals differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not who, path_length=None if who else 0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if who:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    if server:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    return builder.sign(key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey, secret: bytes = b"") -> bytes:
    hidden = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def _listed(folder: Path) -> list[dict[str, Any]]:
    path = folder / LIST
    if not path.exists():
        return []
    found = read_document(path)
    right = isinstance(found, list) and all(
        isinstance(one, dict) and {"who", "serial", "revoked"} <= one.keys() for one in found
    )
    if not right:
        raise LedgerError(f"{path} is damaged: it is no list of certificates")
    return list(found)


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, durable=True, mode=0o600, error=LedgerError) as part:
        part.write_bytes(content)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, _MOST)
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from None
