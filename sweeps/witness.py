"""Who else has seen the head of a study's ledger: a proof of time that is attached to it, or another node of its chain.

Whoever runs a study holds all its keys and can run it again from the start, with another history that is whole in itself. A
witness outside shows that this head was there at a time, and so that the history behind it was not made later:

    pulseledger ledger stamp DIR                       writes the head as a file; have it stamped
    openssl ts -query -data FILE -sha256 -cert -out q.tsq    ... and send q.tsq to a time-stamp authority (RFC 3161)
    ots stamp FILE                                       or have it stamped by OpenTimestamps
    pulseledger ledger stamp DIR --file reply.tsr [--ca roots.pem]
    pulseledger ledger stamp DIR --rpc URL             asks another node of the study's chain

Stamped before the first trial, the head proves that the design was there before it. What no witness proves: that the study was
not run in secret before, or several times with other seeds of which this one was shown.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.audit.report import Count, Note, Report, Told, finding
from engine.audit.study import StudyCase, audit_records
from engine.errors import LedgerError
from engine.files import read_bytes, whole, write_text
from engine.ledger.chain.contracts import is_deployed, query

FOLDER = Path("ledger/witness")  # in the study's folder
LARGEST = 1_000_000  # bytes of a proof
# The header of a detached OpenTimestamps proof: magic, version 1, SHA-256; the digest of the file follows.
OPENTIMESTAMPS = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94\x01\x08"


@dataclass(frozen=True)
class Proof:
    """What a proof says: the digest of the file that was stamped, and the time if it names one ("" if not)."""

    kind: str
    digest: bytes
    time: str


def statement(head: str) -> bytes:
    """The file that is stamped: the head (0x hex) in a line."""
    return f"{head}\n".encode()


def heads(case: StudyCase) -> list[tuple[str, str]]:
    """Every head of a study's ledger with what it covers, in words, as the journal holds them."""
    first = [(_hex(one.head), f"registration {one.position}") for one in case.registrations]
    return [*first, *((_hex(one.row["head"]), f"record {one.seq}") for one in case.records)]


def write_head(folder: Path) -> dict[str, Any]:
    """Writes the newest head of a study as a file to be stamped.

    Raises:
        LedgerError: the study has no ledger, or its audit finds something.
        DataError: the file cannot be written.
    """
    head, covers = heads(_sound(folder))[-1]
    path = folder / FOLDER / f"head-{head[2:18]}.txt"
    path.parent.mkdir(exist_ok=True)
    write_text(path, statement(head).decode())
    return {"head": head, "covers": covers, "file": str(path)}


def attach(folder: Path, file: Path, ca: Path | None) -> dict[str, Any]:
    """Keeps a proof beside the ledger whose head it is about.

    Args:
        ca: PEM file with the certificates that the reader trusts; None leaves the signature unchecked.

    Raises:
        LedgerError: the file is no proof, is about no head of this study, or was not signed by whom the reader trusts.
        DataError: the file cannot be read or kept.
    """
    content = _content(file)
    proof = read_proof(content, str(file))
    match = _covered(proof, heads(_sound(folder)))
    if match is None:
        raise LedgerError(f"{file}: is about {proof.digest.hex()}, which is the digest of no head of this study")
    checked = ca is not None and verify(content, proof, ca, str(file))
    path = folder / FOLDER / f"{proof.digest.hex()[:16]}{file.suffix if file.suffix in ('.tsr', '.ots') else '.proof'}"
    path.parent.mkdir(exist_ok=True)
    with whole(path) as part:
        part.write_bytes(content)
    return {
        "head": match[0],
        "covers": match[1],
        "kind": proof.kind,
        "time": proof.time,
        "checked": checked,
        "file": str(path),
    }


def ask(folder: Path, url: str) -> dict[str, Any]:
    """Asks another node of the study's chain for its head.

    Raises:
        LedgerError: the study's chain is in its folder, the node is of another chain, or holds something else.
    """
    from engine.ledger.chain.rpc import RpcChain

    case = _sound(folder)
    assert case.domain is not None
    if case.backend.get("name") == "embedded":
        raise LedgerError(
            f"{folder}: the study's chain is embedded in its folder, no node has it; attach a proof with --file"
        )
    node, contract = RpcChain(url, case.domain.chain_id), case.domain.contract
    if not is_deployed(node.code(contract), "StudyLedger"):
        raise LedgerError(f"the node has no StudyLedger at {contract}")
    newest = {one.study: _hex(one.head) for one in case.registrations}
    newest |= {one.study: _hex(one.row["head"]) for one in case.records if one.study in newest}
    for study, head in newest.items():
        found = _hex(query(node, contract, "studyState", study, contract="StudyLedger")["head"])
        if found != head:
            raise LedgerError(f"the node's head of study {_hex(study)} is {found}, the journal's is {head}")
    return {"head": " ".join(newest.values()), "contract": contract, "chain_id": case.domain.chain_id, "node": True}


def check(folder: Path, case: StudyCase) -> Iterator[Told]:
    """Every proof that lies beside the ledger is about one of its heads. Whose signature it has is for its reader to check."""
    known = heads(case)
    for path in sorted((folder / FOLDER).glob("*")):
        if path.suffix == ".txt":
            continue
        try:
            proof = read_proof(_content(path), path.name)
        except LedgerError as error:
            yield finding("meta", f"witness/{path.name}", "a proof", None, str(error))
            continue
        match = _covered(proof, known)
        if match is None:
            message = "the proof is about no head of this study's ledger"
            yield finding("meta", f"witness/{path.name}", "the digest of a head", proof.digest, message)
            continue
        yield Count("witnesses")
        when = f" at {proof.time}" if proof.time else ""
        yield Note(
            f"{match[1]} of the study was there{when}, says {path.name} ({proof.kind}), whose signature is for its reader to check"
        )


def read_proof(content: bytes, name: str) -> Proof:
    """What a proof says.

    Raises:
        LedgerError: it is neither a reply of RFC 3161 nor an OpenTimestamps proof over SHA-256.
    """
    if content.startswith(OPENTIMESTAMPS):
        start = len(OPENTIMESTAMPS)
        return Proof("OpenTimestamps", content[start : start + 32], "")
    from rfc3161_client import decode_timestamp_response

    try:
        token = decode_timestamp_response(content).tst_info
        digest, time = bytes(token.message_imprint.message), token.gen_time.isoformat()
    except Exception as error:  # the library raises many kinds for damaged bytes
        raise LedgerError(f"{name}: is no time-stamp reply (RFC 3161) and no OpenTimestamps proof") from error
    return Proof("RFC 3161", digest, time)


def verify(content: bytes, proof: Proof, ca: Path, name: str) -> bool:
    """Whether a time-stamp authority under the certificates of `ca` signed; an OpenTimestamps proof cannot be checked here.

    Raises:
        LedgerError: somebody else signed, or the certificates cannot be read.
    """
    if proof.kind != "RFC 3161":
        return False
    from cryptography.x509 import load_pem_x509_certificates
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    try:
        roots = load_pem_x509_certificates(_content(ca))
    except ValueError:
        raise LedgerError(f"{ca}: holds no certificates in PEM form") from None
    try:
        reply = decode_timestamp_response(content)
        VerifierBuilder(roots=list(roots)).build().verify(reply, proof.digest)
    except Exception as error:
        raise LedgerError(f"{name}: is not signed by an authority of {ca} ({error})") from None
    return True


def _sound(folder: Path) -> StudyCase:
    report = Report()
    case = audit_records(folder / "ledger", report)
    if report.findings or not case.registrations:
        what = report.findings[0].message if report.findings else "the study was never registered"
        raise LedgerError(f"{folder}: its ledger does not hold ({what}); `pulseledger audit` says more")
    return case


def _covered(proof: Proof, known: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    made = (hashlib.sha256, hashlib.sha384, hashlib.sha512)
    return next(((h, what) for h, what in known for one in made if one(statement(h)).digest() == proof.digest), None)


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from None


def _hex(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
