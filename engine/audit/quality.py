"""Evidence on synthetic data in a run's folder: quality reports, real counts and reviewers' reasons, against what was signed."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.audit import limits, spec
from engine.audit.case import Case
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Record
from engine.audit.synthetic import request_of, requests, slot_of
from engine.data.config import CLASSES, labels_of
from engine.encoding import read_json
from engine.files import read_text

GENERATORS = {
    1: "oversample",
    2: "smote",
    3: "borderline",
    4: "adasyn",
    5: "timegan",
    6: "own",
}  # as in ISyntheticLedger.sol
NUMBERS = tuple(spec.fields("SyntheticReport"))[4:]  # of a report, that policy bounds
NEAR = 0.02  # as quality reports have it: nearer is a repetition, in root mean square over the beat's own deviation
LADDER = (1, 2, 6, 10, 20, 30, 50)  # and then 1, 2 and 5 times the powers of ten


def check(case: Case) -> Iterator[Told]:
    """Check the file behind every signed report, count and review that is there; count those that are not."""
    evidence, asked, missing = case.evidence, requests(case), 0
    if evidence.folder is None:
        if asked:
            yield Note("a bundle has no quality reports, counts of real beats and reasons", unchecked=True)
        return
    counts = {id: evidence.file(f"synthetic/count-{id.hex()[:16]}.json") for id in asked}
    if closed := sum(not path.exists() for path in counts.values()):
        yield Note(f"the real beats behind {closed} requests for synthetic ones are not opened", unchecked=True)
    for id, path in counts.items():
        if path.exists():
            yield from _check_count(path, asked[id])
    reasons = 0
    for step in case.steps:
        id, slot = request_of(step), slot_of(step, asked)
        if not isinstance(step.record, Record) or slot is None:
            continue
        if step.kind == "report":
            path = evidence.file(f"synthetic/{evidence_name(id)}")
            missing += not path.exists()
            if path.exists():
                yield from _check_report(path, slot, step.record, asked[id], class_name(case, asked[id]["class_"]))
        elif step.kind == "review":
            path = evidence.file(f"ledger/reviews/{id.hex()}.json")
            reasons += not path.exists()
            if path.exists():
                yield from _check_reason(path, slot, step.record)
    if missing:
        yield Note(f"{missing} reports on the quality of synthetic beats are not in the folder", unchecked=True)
    if reasons:
        yield Note(f"the reasons of {reasons} reviews are not in the folder", unchecked=True)


def class_name(case: Case, class_: int) -> str | None:
    """The class of a number, by the configuration in result.json."""
    classes: Any = case.result
    for key in ("config", "data", "classes"):
        classes = classes.get(key) if isinstance(classes, dict) else None
    named = isinstance(classes, list | str) and all(isinstance(name, str) for name in classes)
    labels = labels_of(classes) if named else CLASSES
    return labels[class_] if class_ < len(labels) else None


def evidence_name(request: bytes) -> str:
    """Name of the quality report on what was made for a request."""
    return f"evidence-{request.hex()[:16]}.json"


def repeats(x: np.ndarray) -> range:
    """How many windows are nearer to an earlier one than noise: one number, or the few that rounding leaves possible."""
    from scipy.spatial.distance import cdist

    if x.ndim < 2 or not x.size:
        return range(1)
    x, counts = np.asarray(x, np.float64).reshape(len(x), -1), []
    radius, before = NEAR * math.sqrt(x.shape[1]) * x.std(1), np.arange(len(x))
    for slack in (1 - 1e-9, 1 + 1e-9):
        counts.append(sum(bool((cdist(x[i : i + 1], x[:i]) <= slack * radius[i]).any()) for i in before[1:]))
    return range(counts[0], counts[1] + 1)


def real_floor(count: int) -> int:
    """The largest step of the ladder that does not exceed a count."""
    powers = (step * 10**power for power in range(2, 10) for step in (1, 2, 5))
    return max(step for step in (0, *LADDER, *powers) if step <= count)


def _check_count(path: Path, request: Record) -> Iterator[Told]:
    yield Count("real counts")
    content, where = file_json(path), {"hospital": request["slot"]}
    count, salt = (content.get(name) if isinstance(content, dict) else None for name in ("count", "salt"))
    whole = count if type(count) is int and 0 <= count < 2**32 else -1
    if whole < 0 or spec.commitment(spec.hex_bytes(salt), whole) != request["real_count"]:
        message = "the opened count of real beats is not the one that the hospital committed to"
        yield finding("synthetic", "real_count", request["real_count"], content, message, **where)
    elif real_floor(whole) != request["real_floor"]:
        message = "the floor of the request is not that of the real beats"
        yield finding("synthetic", "real_floor", real_floor(whole), request["real_floor"], message, **where)


def _check_report(path: Path, slot: int, signed: Record, request: Record, label: str | None) -> Iterator[Told]:
    yield Count("evidence")
    content = file_json(path)
    digest = spec.json_hash(content)
    if digest != signed["evidence"]:
        message = "the quality report in the folder is not the one that the hospital signed"
        yield finding("synthetic", "evidence", signed["evidence"], digest, message, hospital=slot)
        return
    yield from check_quality(content, slot, signed["generated"], signed.values, request, label)


def check_quality(
    content: Any, slot: int, generated: int, told: Mapping[str, Any], request: Record, label: str | None
) -> Iterator[Told]:
    """A quality report is about what was asked for, and the numbers that were told follow from it."""
    numbers = quality_numbers(content)
    if numbers:
        about = {"synthetic": generated, "label": label, "generator": GENERATORS.get(request["generator"])}
        for name, value in about.items():
            if content.get(name) != value:
                message = f"{name} of the quality report is not what was asked for and reported"
                yield finding("synthetic", name, value, content.get(name), message, hospital=slot)
        real = content.get("real")
        if type(real) is not int or real < 0 or real_floor(real) != request["real_floor"]:
            message = "the real beats of the quality report are not those of the request"
            yield finding("synthetic", "real", request["real_floor"], real, message, hospital=slot)
    elif generated:
        message = "beats were reported that the quality report says were not made"
        yield finding("synthetic", "generated", 0, generated, message, hospital=slot)
    for name, value in numbers.items():
        if told.get(name) != value:
            message = f"{name} of the signed report does not follow from the quality report"
            yield finding("synthetic", name, value, told.get(name), message, hospital=slot)


def _check_reason(path: Path, slot: int, signed: Record) -> Iterator[Told]:
    yield Count("reasons")
    content = file_json(path)
    reason = content.get("reason") if isinstance(content, dict) else None
    said = spec.sha256(reason.encode("utf-8", "replace")) if isinstance(reason, str) else None
    if said != signed["reason"]:
        message = "the reason in the folder is not the one that the reviewer signed"
        yield finding("synthetic", "reason", signed["reason"], said, message, hospital=slot)


def quality_numbers(report: Any) -> dict[str, int]:
    """The numbers of a signed report as they follow from the quality report (JSON); {} where nothing was made.

    A tier that is not computable counts as its worst value.
    """

    def look(*names: str) -> Any:
        value = report
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    if not isinstance(report, dict) or "failed" in report:
        return {}
    kinds = [look("discriminative", kind, "auc") for kind in ("gru", "linear")]
    near, change = look("privacy", "near"), look("utility", "change")

    def word(worst: int, *names: str) -> int:
        found = look(*names)
        return worst if found is None else min(round(found * 10_000), 65_535)

    return {
        "auc_bp": 10_000 if None in kinds else max(round(auc * 10_000) for auc in kinds),
        "nndr_bp": word(0, "privacy", "nndr"),
        "distance_bp": word(65_535, "variety", "distance"),
        "duplicates": look("synthetic") if near is None else near,
        "repeated": look("variety", "repeated"),
        "spread_bp": word(0, "variety", "spread"),
        "utility_bp": -10_000 if change is None else round(change * 10_000),
        "recognised_bp": word(0, "recognition", "share"),
    }


def file_json(path: Path) -> Any:
    """The JSON of a file; None if there is none that can be read."""
    try:
        return read_json(read_text(path, limits.FILE))
    except (OSError, ValueError):
        return None
