"""What of a study is anchored: its design before the first trial, and what each trial began and ended with.

All of it is plain data; the ledger anchors the SHA-256 of its canonical JSON. The audit builds it a second time from the
study's file, Optuna's database and the trials' folders.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.audit.evidence import opened
from engine.encoding import json_hash, read_json
from engine.errors import DataError, LedgerError
from engine.files import TABLE, read_bytes, read_text
from engine.ledger.format import RUN
from engine.result import PREDICTIONS, RESULT
from sweeps.definition import code
from sweeps.folder import repeat_folder
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial

STAGE = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED", "FAIL": "FAILED"}

# Where a study runs and who is told of it changes no number; `trials` is registered by itself.
_NOT_PART: Any = {
    "out": True,
    "concurrency": True,
    "execution": True,
    "ledger": {
        "url",
        "chain_id",
        "contract",
        "key_file",
        "confirmations",
        "timeout",
        "max_fee_gwei",
        "keystore",
        "successors",
        "patience",
    },
    "storage": True,
    "tracking": True,
    "trials": True,
    "data": {"folder"},
}
_LEDGER = ("head", "closing", "contract", "chain_id", "backend")  # of a run; its hospitals signed head and closing


def design(study: StudyConfig, records: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides what the study runs: its settings, the digest of each condition's records, and the code."""
    return {"study": study.model_dump(mode="json", exclude=_NOT_PART), "records": dict(records), "code": code()}


def begun(trial: StoredTrial) -> dict[str, Any]:
    """What a trial begins with: its number, condition, keys, and one whole configuration for each repeat."""
    return {
        "trial": trial.number,
        "condition": trial.condition,
        "baseline": trial.baseline,
        "keys": trial.keys,
        "config": list(trial.configs),
    }


def ended(trial: StoredTrial, home: Path) -> tuple[str, dict[str, Any]]:
    """How a finished trial ended, and with what: values, spread, constraints and results, or the reason.

    Args:
        home: the trial's folder.

    Raises:
        DataError: the trial is complete, but a result is missing or damaged; or it is pruned, and a ledger is damaged.
    """
    content: dict[str, Any] = {
        "reason": trial.reason,
        "rungs": {f"rung/{step}": asdict(rung) for step, rung in trial.rungs.items()},
    }
    if trial.state == "COMPLETE":
        content["values"] = list(trial.values)
        content["spread"] = {name: found._asdict() for name, found in trial.spread.items()}
        content["constraints"] = trial.constraints
        content["results"] = [repeat_result(repeat_folder(home, repeat)) for repeat in range(len(trial.configs))]
    elif trial.state == "PRUNED":
        content["pruned"] = trial.pruned
        content["heads"] = [last_head(repeat_folder(home, repeat)) for repeat in range(len(trial.configs))]
    else:
        content["failure"] = asdict(trial.failure)
    return STAGE[trial.state], content


def last_head(run: Path) -> str | None:
    """The head after the last round that a run's ledger holds, None without one; each hospital has signed the one before it."""
    path = run / "ledger" / RUN.file
    if not path.exists():
        return None
    try:
        with opened(path, RUN) as journal:
            row = journal.execute("SELECT hex(head) FROM rounds ORDER BY rowid DESC LIMIT 1").fetchone()
    except LedgerError as error:
        raise DataError(f"{error}.") from None
    return None if row is None else f"0x{row[0].lower()}"


def repeat_result(folder: Path) -> dict[str, Any]:
    """What is anchored of a repeat: model, configuration, the last head of its own ledger and what closes it, gradients,
    digest of the predictions, digest of all else but times.

    The file is read as it is, not through `Result`: what a later release makes of it may not change the digest.
    """
    path = folder / RESULT
    try:
        result = read_json(read_text(path))
        named = {name: result[name] for name in ("model_hash", "config_hash")}
        named |= {name: result["ledger"][name] for name in _LEDGER if name in result["ledger"]}
        gradients = {name: n for name, n in result["timing"].items() if name.endswith("evaluations")}
        predictions = hashlib.sha256(read_bytes(folder / PREDICTIONS, TABLE)).hexdigest()
        return {**named, **gradients, "predictions": predictions, "digest": json_hash(_timeless(result)).hex()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is not readable ({type(error).__name__}: {error}).") from None


def _timeless(value: Any) -> Any:
    """A result without what a repetition would give other values for."""
    if isinstance(value, dict):
        timed = {k for k in value if k.endswith(("seconds", "overhead_share")) and k != "expiry_seconds"}
        return {k: _timeless(v) for k, v in value.items() if k not in timed}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value
