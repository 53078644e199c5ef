"""What somebody signed: read from a journal's JSON, and held against the signature."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load

from engine.audit import spec
from engine.audit.report import Reading, finding
from engine.audit.spec import Record
from engine.encoding import read_json, require_size
from engine.ledger.format import ABSENCES

Place = Mapping[str, Any]  # round and hospital of a finding
Absence = tuple[int, int, str, int, bytes]  # slot, job, kind, start, signature

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there


def read_object(text: Any, *names: str) -> dict[str, Any]:
    """Read a JSON object, with exactly these names if there are any; raises ValueError for anything else."""
    values = read_json(text)
    if not isinstance(values, dict):
        raise ValueError("not an object")
    if names and set(values) != set(names):
        raise ValueError(f"expected the fields {', '.join(names)}")
    return values


def read_yaml(text: str) -> dict[str, Any]:
    """Read a YAML mapping; {} out of anything else."""
    try:
        values = yaml.load(text, _YAML)
        require_size(values)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read_tensors(data: bytes) -> Mapping[str, np.ndarray]:
    """Read named tensors; raises ValueError, too, where words stand beside them, which no hash holds."""
    size = int.from_bytes(data[:8], "little")
    tensors = load(data)
    if "__metadata__" in read_json(data[8 : 8 + size].decode()):
        raise ValueError("it holds more than tensors")
    return tensors


def read_record(kind: str, text: Any, name: str, where: Place) -> Reading[Record | None]:
    """Read a signed record; tells which field is damaged."""
    try:
        values = read_object(text)
    except ValueError as error:
        yield finding(name, "record", "readable JSON", text, f"the record is damaged: {error}", **where)
        return None
    fields = spec.fields(kind)
    for unknown in sorted(values.keys() - fields.keys()):
        message = f"the record has no field {unknown}"
        yield finding(name, unknown, None, values[unknown], message, **where)
        return None
    read: dict[str, Any] = {}
    for key, (_, type_) in fields.items():
        value = spec.hash_of(values.get(key)) if type_ == "bytes32" else values.get(key)
        try:
            spec.encode(type_, value)
        except ValueError as error:
            message = f"{key} of the record is damaged: {error}"
            yield finding(name, key, type_, values.get(key), message, **where)
            return None
        read[key] = value
    return Record(kind, read)


def check_signature(digest: bytes, signature: bytes, who: str, record: str, field: str, where: Place) -> Reading[bool]:
    """Tell when a signature is not that of `who`; returns whether it is."""
    try:
        signer, problem = spec.signer(digest, signature), "this is not what the signer signed"
    except ValueError as error:
        signer, problem = "no valid signature", str(error)
    if signer != who:
        yield finding(record, field, who, signer, problem, **where)
    return signer == who


def read_absence(number: int, slot: int, row: Mapping[str, Any]) -> Reading[Absence | None]:
    """A row of the absences of a round."""
    job, kind, start = row["job"], row["kind"], row["start"]
    if kind in ABSENCES and all(type(value) is int and 0 <= value < 1 << 63 for value in (job, start)):
        return slot, job, kind, start, spec.hex_bytes(row["signature"])
    where = {"round": number, "hospital": slot}
    yield finding("absence", "absences", "a job", [job, kind, start], "an absence is damaged", **where)
    return None
