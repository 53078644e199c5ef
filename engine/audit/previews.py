"""Previews: what a reviewer was shown before he decided. Made before a grant, as it was signed, and never trained on.

The order follows from the steps of the journal alone; the beats, their quality report and its pictures from the run's folder.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from engine.audit import limits, spec
from engine.audit.case import Case
from engine.audit.outcomes import arrays_of, batch_digest, reports_of
from engine.audit.quality import check_quality, class_name, file_json
from engine.audit.report import Count, Note, Reading, Told, finding
from engine.audit.spec import Record
from engine.audit.synthetic import request_of, requests, slot_of
from engine.files import read_bytes


def check(case: Case) -> Iterator[Told]:
    """Check the order of previews and grants, then every preview in the folder, then that no beat of one was trained on."""
    yield from _check_order(case)
    shown = {request_of(s): s.record for s in case.steps if s.kind == "preview" and isinstance(s.record, Record)}
    if shown and case.evidence.folder is None:
        yield Note("a bundle has no previews of synthetic beats", unchecked=True)
    elif shown:
        seen: set[bytes] = set()
        asked, missing = requests(case), 0
        for id, record in shown.items():
            if id in asked:
                yield Count("previews")
                missing += yield from _check_beats(case, record, asked[id]["slot"], seen)
                missing += yield from _check_evidence(case, record, asked[id])
        yield from _check_trained(case, {asked[id]["slot"] for id in reports_of(case) if id in asked}, seen)
        if missing:
            yield Note(f"{missing} files of previews of synthetic beats are not in the folder", unchecked=True)


def _check_order(case: Case) -> Iterator[Told]:
    """Nobody approves before the preview that the policy of the request wants; no report is of the batch of the preview."""
    policies: list[Any] = []
    asked, shown = requests(case), dict[bytes, Record]()
    for step in case.steps:
        id, slot = request_of(step), slot_of(step, asked)
        if step.kind == "policy":
            policies.append(step.record.get("preview") if isinstance(step.record, Mapping) else None)
        if not isinstance(step.record, Record) or id not in asked:
            continue
        version = asked[id]["policy_version"]
        wanted = policies[version - 1] if 1 <= version <= len(policies) else None
        if step.kind == "preview":
            shown[id] = step.record
            if type(wanted) is int and step.record["generated"] > wanted:
                message = "a preview has more beats than the policy wants"
                yield finding("synthetic", "preview", wanted, step.record["generated"], message, hospital=slot)
        elif step.kind == "review" and step.record["approve"] and type(wanted) is int and wanted > 0:
            beats = shown[id]["generated"] if id in shown else None
            if not beats:
                message = "the request was granted before the preview that its policy wants"
                yield finding("synthetic", "preview", f"1 to {wanted} beats", beats, message, hospital=slot)
        elif step.kind == "report" and id in shown and step.record["batch"] == shown[id]["batch"] != spec.ZERO:
            message = "the batch that was reported for training is the preview"
            yield finding("synthetic", "batch", "another batch", step.record["batch"], message, hospital=slot)


def _check_beats(case: Case, record: Record, slot: int, seen: set[bytes]) -> Reading[int]:
    """Of one preview; takes its windows into `seen`. Returns how many files are missing."""
    path = case.evidence.file(f"synthetic/{_stem(record)}.npz")
    if not record["generated"]:
        return 0
    if not path.is_file():
        return 1
    message = "the beats of the preview in the folder are not those that the hospital signed for"
    try:
        x, rr, y = arrays_of(path)
    except Exception as error:  # the formats' readers raise many kinds for damaged files
        yield finding("synthetic", "preview", "readable arrays", type(error).__name__, message, hospital=slot)
        return 0
    digest = batch_digest(x, rr, y)
    if digest != record["batch"] or len(x) != record["generated"]:
        yield finding("synthetic", "preview", record["batch"], digest, message, hospital=slot)
    seen.update(_windows(x))
    return 0


def _check_evidence(case: Case, record: Record, request: Record) -> Reading[int]:
    """The quality report on one preview, and its pictures. Returns how many files are missing."""
    path, slot, missing = case.evidence.file(f"synthetic/{_stem(record)}.json"), request["slot"], 0
    if not path.is_file():
        return 1
    content = file_json(path)
    digest = spec.json_hash(content)
    if digest != record["evidence"] or not isinstance(content, dict):
        message = "the report on the preview in the folder is not the one that the hospital signed"
        yield finding("synthetic", "evidence", record["evidence"], digest, message, hospital=slot)
        return 0
    numbers = content.get("numbers")
    label = class_name(case, request["class_"])
    told = numbers if isinstance(numbers, dict) else {}
    yield from check_quality(content.get("quality"), slot, record["generated"], told, request, label)
    pictures = content.get("pictures")
    for name, known in sorted(pictures.items()) if isinstance(pictures, dict) else ():
        if name not in (f"{_stem(record)}.png", f"{_stem(record)}-real.png"):
            yield finding(
                "synthetic", "pictures", f"{_stem(record)}.png", name, "no such picture is made", hospital=slot
            )
            continue
        picture = case.evidence.file(f"synthetic/{name}")
        if not picture.is_file():
            missing += 1
        elif (found := spec.sha256(read_bytes(picture, limits.FILE)).hex()) != known:
            message = f"the picture {name} is not the one that the hospital signed"
            yield finding("synthetic", "pictures", known, found, message, hospital=slot)
    return missing


def _check_trained(case: Case, slots: set[int], seen: set[bytes]) -> Iterator[Told]:
    """No beat of a preview is among the beats that hospitals reported for training; whoever reported none has no file of them."""
    for slot in sorted(slots):
        path = case.evidence.file(f"synthetic/hospital-{slot}.npz")
        if not path.is_file():
            continue
        try:
            x, _, _ = arrays_of(path)
        except Exception:  # told where the beats are held against their reports
            continue
        if used := sum(window in seen for window in _windows(x)):
            message = f"{used} beats of previews were trained on"
            yield finding("synthetic", "preview", 0, used, message, hospital=slot)


def _stem(record: Record) -> str:
    return f"preview-{record['request'].hex()[:16]}"


def _windows(x: np.ndarray) -> Iterator[bytes]:
    return (spec.sha256(np.ascontiguousarray(window).tobytes()) for window in x)
