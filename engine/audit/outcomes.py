"""What the contract decided on requests for synthetic data, when its code was executed again or a node was asked.

Every decision is an event with the head of the chain of decisions after it. The links of that chain are computed here from
the steps in the journal, and every round must name a head of it; quotas, the result and the beats follow from the decisions.
"""

import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.execution import Event
from engine.audit.quality import GENERATORS, NUMBERS, class_name, evidence_name, repeats
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Record
from engine.audit.synthetic import request_of, requests, shown
from engine.encoding import canonical_json
from engine.ledger.format import DECISIONS

# as in SyntheticLedger.sol
STATUS = ("none", "pending", "previewed", "denied", "approved", "accepted", "rejected", "expired")
MOST = 20_000  # beats whose distances to each other are taken; a policy grants a thousand
APPROVED, ACCEPTED = STATUS.index("approved"), STATUS.index("accepted")


@dataclass(frozen=True)
class Outcome:
    """A request and what became of it.

    Attributes:
        granted: number of beats that were approved.
        counted: what it holds of the quota in the end.
    """

    request: Record
    status: int
    granted: int
    counted: int


def check(case: Case) -> Iterator[Told]:
    """Check all that follows from the contract's decisions."""
    if case.governance is None:
        yield from _check_rounds(case, [spec.ZERO])
        return
    state = case.chain.state
    if state is None:
        if case.steps:
            yield Note("what the contract decided on synthetic data was not checked", unchecked=True)
        return
    events = list(_decisions(case))
    yield from _check_links(case, events)
    chain = [spec.ZERO, *(event.values["decisions"] for _, event in events)]
    yield from _check_rounds(case, chain)
    if state.decisions != chain[-1]:
        message = "journal and chain disagree on the decisions; expected is the chain, found the journal"
        yield finding("synthetic", "decisions", state.decisions, chain[-1], message)
    found = outcomes(case)
    yield from _check_quotas(case, found, state.used)
    yield from _check_result(case, found)
    yield from _check_beats(case, found)


def outcomes(case: Case) -> dict[bytes, Outcome]:
    """What became of every request that the journal holds, by its id, as the contract decided."""
    found = {id: Outcome(record, 0, 0, 0) for id, record in requests(case).items()}
    for _, event in _decisions(case):
        id, status, counted = (event.values[name] for name in ("id", "status", "counted"))
        if id in found:
            granted = counted if status == APPROVED else found[id].granted
            found[id] = Outcome(found[id].request, status, granted, counted)
    return found


def _decisions(case: Case) -> Iterator[tuple[int, Event]]:
    """All changes of a request's status, each with the seq of its transaction."""
    for transaction in case.transactions:
        for event in case.chain.events.get(transaction.seq, ()):
            if event.name == "SyntheticStatusChanged" and event.values["federation"] == case.federation.id:
                yield transaction.seq, event


def _check_links(case: Case, events: Sequence[tuple[int, Event]]) -> Iterator[Told]:
    """Each link binds what was signed for it: the digest of the step that the transaction shows."""
    domain, signed = case.governance, dict[int, tuple[bytes, bytes]]()
    for step, transactions in shown(case):
        digest = step.record.digest(domain) if isinstance(step.record, Record) and domain is not None else spec.ZERO
        signed |= {t.seq: (digest if step.kind == "request" else request_of(step), digest) for t in transactions}
    before = spec.ZERO
    for seq, event in events:
        values = event.values
        id, digest = signed.get(seq, (values["id"], values["record"]))  # what no row holds is told elsewhere
        link = spec.next_decision(before, id, values["status"], values["counted"], digest)
        if link != values["decisions"]:
            message = f"the decision of transaction {seq} is not about what the journal holds"
            yield finding("synthetic", "decisions", values["decisions"], link, message)
        before = values["decisions"]


def _check_rounds(case: Case, chain: Sequence[bytes]) -> Iterator[Told]:
    """Rounds name heads of the chain of decisions, none an earlier one than the round before it."""
    places, last = {head: place for place, head in enumerate(chain)}, 0
    for number, entry in sorted(case.rounds.items()):
        head = entry.digests.get(DECISIONS, spec.ZERO)
        place = places.get(head, -1)
        if place < last:
            message = "the chain of decisions " + ("went back" if place >= 0 else "never had this value")
            yield finding("annex", DECISIONS, chain[-1], head, message, round=number)
        last = max(last, place)


def _check_quotas(case: Case, found: Mapping[bytes, Outcome], used: Mapping[tuple[int, int], int]) -> Iterator[Told]:
    counted: Counter[tuple[int, int]] = Counter()
    for outcome in found.values():
        counted[outcome.request["slot"], outcome.request["class_"]] += outcome.counted
    for (slot, class_), number in sorted(counted.items()):
        yield Count("quotas")
        if used.get((slot, class_)) != number:
            message = (
                f"journal and chain disagree on the quota of class {class_name(case, class_)}; expected is the chain"
            )
            yield finding("synthetic", "used", used.get((slot, class_)), number, message, hospital=slot)


def _check_result(case: Case, found: Mapping[bytes, Outcome]) -> Iterator[Told]:
    """What result.json says of each request."""
    if not case.result:
        return
    rows, reports = case.result.get("synthesis", []), reports_of(case)
    previews = {request_of(s): s.record for s in case.steps if s.kind == "preview" and isinstance(s.record, Record)}
    told = {str(row.get("request")): row for row in rows if isinstance(row, dict)} if isinstance(rows, list) else {}
    for id, outcome in found.items():
        row, request, report = told.pop(id.hex(), {}), outcome.request, reports.get(id)
        slot = request["slot"]
        expected: dict[str, Any] = {
            "hospital": slot,
            "organisation": case.federation.organisations[slot].hex() if slot in case.federation.slots else None,
            "class": class_name(case, request["class_"]),
            "generator": GENERATORS.get(request["generator"]),
            "wanted": request["quantity"],
            "real_floor": request["real_floor"],
            "granted": outcome.granted,
            "accepted": outcome.counted if outcome.status == ACCEPTED else 0,
            "status": STATUS[outcome.status],
            "record": canonical_json(plain(request)),
            "preview": _shown(previews.get(id)),
            "blind": False,
            "numbers": None if report is None else {name: report[name] for name in NUMBERS},
            "batch": None if report is None else report["batch"].hex(),
            "evidence": None if report is None else report["evidence"].hex(),
            "file": None if report is None else f"synthetic/{evidence_name(id)}",
        }
        for name, value in expected.items():
            if row.get(name) != value:
                message = f"{name} of a request in result.json is not what the ledger holds"
                yield finding("result", "synthesis", value, row.get(name), message, hospital=request["slot"])
    for unknown in told:
        yield finding("result", "synthesis", None, unknown, "the ledger holds no such request")


def _shown(record: Record | None) -> dict[str, Any] | None:
    """What result.json says of a preview."""
    if record is None:
        return None
    digests = {name: record[name].hex() for name in ("batch", "evidence")}
    name = f"synthetic/preview-{record['request'].hex()[:16]}.json"
    return {"generated": record["generated"], **digests, "file": name}


def reports_of(case: Case) -> dict[bytes, Record]:
    """The signed report on each request that has one."""
    return {request_of(s): s.record for s in case.steps if s.kind == "report" and isinstance(s.record, Record)}


def plain(record: Record) -> dict[str, Any]:
    """A record as the journal and the result hold it in JSON."""
    return {k: "0x" + v.hex() if isinstance(v, bytes) else v for k, v in record.values.items()}


# --- Beats ------------------------------------------------------------------------------------------------------------


def _check_beats(case: Case, found: Mapping[bytes, Outcome]) -> Iterator[Told]:
    """The beats in the folder are those of the accepted reports, in their order."""
    folder, reports = case.evidence.folder, reports_of(case)
    accepted: dict[int, list[Record]] = defaultdict(list)
    for id, outcome in found.items():
        report = reports.get(id)
        if outcome.status == ACCEPTED and report is not None:
            accepted[outcome.request["slot"]].append(report)
    for slot, batches in accepted.items():
        path = None if folder is None else case.evidence.file(f"synthetic/hospital-{slot}.npz")
        if path is None or not path.is_file():
            yield Note(f"the synthetic beats of hospital {slot} are not in the evidence", unchecked=True)
        else:
            yield from _check_batches(path, slot, batches)


def _check_batches(path: Path, slot: int, reports: Sequence[Record]) -> Iterator[Told]:
    message = "the synthetic beats in the folder are not those that the hospital signed for"
    try:
        parts = arrays_of(path)
    except Exception as error:  # the formats' readers raise many kinds for damaged files
        yield finding("synthetic", "batch", "readable arrays", type(error).__name__, message, hospital=slot)
        return
    start = 0
    for report in reports:
        yield Count("batches")
        batch = [part[start : start + report["generated"]] for part in parts]
        digest = batch_digest(*batch)
        if digest != report["batch"]:
            yield finding("synthetic", "batch", report["batch"], digest, message, hospital=slot)
        elif len(batch[0]) > MOST:
            yield Note(
                f"repetition among {len(batch[0])} beats of hospital {slot} was not counted again", unchecked=True
            )
        elif report["repeated"] not in (found := repeats(batch[0])):
            word = "repeated of the signed report does not follow from the beats"
            yield finding("synthetic", "repeated", found[0], report["repeated"], word, hospital=slot)
        start += report["generated"]
    if any(len(part) != start for part in parts):
        lengths = ", ".join(str(len(part)) for part in parts)
        yield finding("synthetic", "batch", f"{start} beats", lengths, message, hospital=slot)


def arrays_of(path: Path) -> list[np.ndarray]:
    """Windows, RR features and classes of a file of synthetic beats; raises many kinds of errors for damaged ones."""
    with zipfile.ZipFile(path) as archive:
        # stored entries only: what is not compressed cannot swell
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed")
    with np.load(path, allow_pickle=False) as arrays:
        return [np.atleast_1d(arrays[name]) for name in ("x", "rr", "y")]


def batch_digest(x: np.ndarray, rr: np.ndarray, y: np.ndarray) -> bytes:
    """Digest of a batch of synthetic beats: sizes (beats, leads, window, RR features) as uint32, then windows and RR features
    (float32), classes (int8)."""
    sizes = [*x.shape, rr.shape[1] if rr.ndim == 2 else 0]
    data = b"".join(size.to_bytes(4, "little") for size in sizes)
    for array, kind in ((x, "float32"), (rr, "float32"), (y, "int8")):
        if array.dtype != kind:
            return spec.sha256(b"")
        data += array.astype(array.dtype.newbyteorder("<")).tobytes()
    return spec.sha256(data)
