"""The end of a run: every hospital signs what came of it, the coordinator closes over all of it, on the chain.

A hospital's result names the last head and so the whole history: it is the signature under the last round, too. The
coordinator's closing names the hospitals' results by the root of a tree, and everything else that the run reports or
leaves behind by digests. Its own digest is on the chain right after the last seal, and nothing follows.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.encoding import canonical_json, hexed, json_hash, keccak, read_json
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data
from engine.ledger.delivery import Contradiction
from engine.ledger.format import ENDINGS, OF_LEDGER, UNBOUND, ZERO
from engine.ledger.signing import require_signer
from engine.ledger.subject import Subject
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.trees import EMPTY, root
from engine.ledger.typed import U8, U32, U64, Bytes32, Domain, Record, digest, record_from_json, record_to_json


@dataclass(frozen=True)
class HospitalResult(Record):
    """What one hospital signs at the end.

    Attributes:
        round: the last one, 0 if there was none.
        head: after it.
        content: SHA-256 of the canonical JSON of what it states, see `engine/statement.py`.
    """

    federation: Bytes32
    round: U64
    slot: U32
    head: Bytes32
    content: Bytes32


@dataclass(frozen=True)
class SignedResult:
    """A hospital's result, its signature, and what it states as canonical JSON."""

    record: HospitalResult
    signature: bytes
    content: str


@dataclass(frozen=True)
class RunClosing(Record):
    """What the coordinator signs at the end; a digest is zero where nothing of the kind was kept.

    Attributes:
        round, head: the last ones.
        state: position in `ENDINGS`.
        results: root of the positional tree over the hospitals' results, `EMPTY` where one is missing.
        missing: SHA-256 of the canonical JSON of the hospitals without a result: slot, as text, -> reason.
        result: of the bound part of result.json, see `bound`.
        predictions: of predictions.parquet, see `outputs.predictions_digest`.
        config: SHA-256 of config.yaml.
        data: of the beats.
        code: of the package's own sources, see `provenance.code_digest`.
    """

    federation: Bytes32
    round: U64
    head: Bytes32
    state: U8
    results: Bytes32
    missing: Bytes32
    result: Bytes32
    predictions: Bytes32
    config: Bytes32
    data: Bytes32
    code: Bytes32


def bound(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a result document (plain JSON values) a closing binds: all but `UNBOUND`, and without the ledger's part."""

    def without(value: Any, path: tuple[str, ...]) -> Any:
        match value:
            case dict():
                kept = ((name, child, (*path, name)) for name, child in value.items())
                return {name: without(child, there) for name, child, there in kept if ".".join(there) not in UNBOUND}
            case list() | tuple():
                return [without(child, (*path, "*")) for child in value]
        return value

    return without({name: value for name, value in document.items() if name != OF_LEDGER}, ())  # type: ignore[no-any-return]


def result_leaf(signed: SignedResult, domain: Domain) -> bytes:
    """Hash a signed result into the leaf of its slot."""
    return keccak(b"\x00" + signed.record.slot.to_bytes(4, "big") + digest(signed.record, domain) + signed.signature)


def text_digest(text: str) -> bytes:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).digest()


class Closing(Subject):
    """How an open federation ends.

    Attributes:
        record: of the closing, None while the run goes on.
    """

    def __init__(self, book: Book, registry: Registry, rounds: Rounds) -> None:
        self._book, self._registry, self._rounds = book, registry, rounds
        self.record: RunClosing | None = None

    @property
    def digest(self) -> bytes:
        """What the chain holds of the closing, zero while the run goes on."""
        return ZERO if self.record is None else digest(self.record, self._book.domain)

    def results(self) -> dict[int, SignedResult]:
        """What hospitals signed at the end, by slot."""
        return {
            row["slot"]: SignedResult(record_from_json(HospitalResult, row["record"]), row["signature"], row["content"])
            for row in self._book.store.rows("results")
        }

    def close(
        self, signed: Mapping[int, SignedResult], state: str, missing: Mapping[int, str], digests: Mapping[str, bytes]
    ) -> RunClosing:
        """Write down how the run ended and tell the chain; the same again does nothing, also by another version of the code.

        Args:
            missing: the hospitals without a result, and why.
            digests: those of the record that are not made here, by name; zero for any that is not named.

        Raises:
            LedgerError: a result is not the hospital's, one is neither there nor missing, or the run was closed
                with something else.
        """
        federation, domain = self._registry.federation, self._book.domain
        header = self._rounds.headers[-1]
        if set(signed) | set(missing) != set(range(len(federation.hospitals))) or set(signed) & set(missing):
            raise LedgerError("a run is closed with a result of every hospital, or the reason why it is missing")
        for slot, one in signed.items():
            expected = HospitalResult(federation.id, header.round, slot, header.head, text_digest(one.content))
            if one.record != expected:
                raise LedgerError(f"the result of hospital {slot} is not one of this run's last round")
            holder = self._registry.holder(slot, header.round)
            require_signer(f"the result of hospital {slot}", one.record, one.signature, domain, holder)
        leaves = [result_leaf(signed[s], domain) if s in signed else EMPTY for s in range(len(federation.hospitals))]
        lost = {str(slot): reason for slot, reason in sorted(missing.items())}
        names = ("result", "predictions", "config", "data", "code")
        record = RunClosing(
            federation=federation.id,
            round=header.round,
            head=header.head,
            state=ENDINGS.index(state),
            results=root(leaves),
            missing=json_hash(lost),
            **{name: digests.get(name, ZERO) for name in names},
        )
        if self.record is not None:
            self._require_same(self.record, record)
            return self.record
        rows = {
            "results": [
                (slot, record_to_json(one.record), one.signature, one.content) for slot, one in sorted(signed.items())
            ],
            "closings": [
                (
                    header.round,
                    record_to_json(record),
                    self._book.chain.sign_digest(digest(record, domain)),
                    canonical_json({"missing": lost}),
                )
            ],
        }
        arguments = (federation.id, header.round, header.head, digest(record, domain))
        data = call_data("closeFederation", *arguments)
        self._book.send(Call("close", header.round, domain.contract, data, rows))
        self.record = record
        return record

    def _require_same(self, before: RunClosing, record: RunClosing) -> None:
        """Of a run that was interrupted after its closing: what it leaves behind must be what it was closed over."""
        was, now = read_json(record_to_json(before)), read_json(record_to_json(record))
        others = [name for name in now if was[name] != now[name] and name != "code"]
        if not others:
            return
        by = " by another version of the program" if was["code"] != now["code"] else ""
        hint = "; only that version can go on with it" if by else ""
        names = ", ".join(others)
        raise LedgerError(f"the run in {self._book.path.parent} was closed before{by}, with another {names}{hint}")

    # --- What the book tells ------------------------------------------------------------------------------------------

    def reset(self) -> None:
        rows = self._book.store.rows("closings")
        self.record = record_from_json(RunClosing, rows[-1]["record"]) if rows else None

    def restored(self) -> None:
        held = self._rounds.state(self._book.domain.contract)["closing"]
        if held != self.digest:
            raise Contradiction(
                f"journal and chain contradict each other: the run was closed with {hexed(self.digest)} in "
                f"{self._book.path} and with {hexed(held)} in contract {self._book.domain.contract}"
            )
