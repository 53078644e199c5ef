"""Evidence on synthetic data in a run's folder: quality reports and reviewers' reasons, against what was signed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.audit import limits, spec
from engine.audit.case import Case
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Record
from engine.audit.synthetic import request_of, requests, slot_of
from engine.encoding import read_json
from engine.files import read_text


def check(case: Case) -> Iterator[Told]:
    """Check the file behind every signed report and review that is there; count those that are not."""
    folder = files_of(case)
    if folder is None:
        return
    asked, missing, reasons = requests(case), 0, 0
    for step in case.steps:
        id, slot = request_of(step), slot_of(step, asked)
        if not isinstance(step.record, Record) or slot is None:
            continue
        if step.kind == "report":
            path = folder / "synthetic" / f"evidence-{id.hex()[:16]}.json"
            missing += not path.exists()
            if path.exists():
                yield from _check_report(path, slot, step.record)
        elif step.kind == "review":
            path = folder / "ledger" / "reviews" / f"{id.hex()}.json"
            reasons += not path.exists()
            if path.exists():
                yield from _check_reason(path, slot, step.record)
    if missing:
        yield Note(f"{missing} reports on the quality of synthetic beats are not in the folder", unchecked=True)
    if reasons:
        yield Note(f"the reasons of {reasons} reviews are not in the folder", unchecked=True)


def files_of(case: Case) -> Path | None:
    """The run's folder if there must be something on synthetic data in it."""
    folder = case.evidence.folder
    expected = folder is not None and ("synthesis" in case.result or (folder / "synthetic").is_dir())
    return folder if expected else None


def _check_report(path: Path, slot: int, signed: Record) -> Iterator[Told]:
    yield Count("evidence")
    content = _file_json(path)
    digest = spec.json_hash(content)
    if digest != signed["evidence"]:
        message = "the quality report in the folder is not the one that the hospital signed"
        yield finding("synthetic", "evidence", signed["evidence"], digest, message, hospital=slot)
        return
    for name, value in quality_numbers(content).items():
        if signed[name] != value:
            message = f"{name} of the signed report does not follow from the quality report"
            yield finding("synthetic", name, value, signed[name], message, hospital=slot)


def _check_reason(path: Path, slot: int, signed: Record) -> Iterator[Told]:
    yield Count("reasons")
    content = _file_json(path)
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
    ratio, near, change = look("privacy", "nndr"), look("privacy", "near"), look("utility", "change")
    return {
        "auc_bp": 10_000 if None in kinds else max(round(auc * 10_000) for auc in kinds),
        "nndr_bp": 0 if ratio is None else min(round(ratio * 10_000), 65_535),
        "duplicates": look("synthetic") if near is None else near,
        "utility_bp": -10_000 if change is None else round(change * 10_000),
    }


def _file_json(path: Path) -> Any:
    """The JSON of a file; None if there is none that can be read."""
    try:
        return read_json(read_text(path, limits.FILE))
    except (OSError, ValueError):
        return None
