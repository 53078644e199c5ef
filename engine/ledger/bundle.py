"""One file per run from which everything can be recomputed, alone and offline: `ledger/bundle.plb`.

A zip archive without compression; names are sorted and times fixed, so equal content gives equal bytes:

    manifest.json                  format, head, sha256 of every other entry, digests of the contracts' builds, `result`
    config.yaml                    the configuration of the run
    journal/<table>.jsonl          one JSON object a row and line; columns as in journal.py, BLOBs as 0x hex, in the
                                   order in which they were written
    updates/00000.safetensors      tensor "genesis": the parameters before round 1
    updates/00007.safetensors      tensors "slot-0003": the change that hospital 3 sent in round 7

`result` of the manifest holds what a run reports apart from times, and `result_digest` the hash of that.
"""

import hashlib
import json
import os
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, json_hash
from engine.errors import LedgerError
from engine.ledger.chain import CONTRACTS, artefact_digest
from engine.ledger.journal import FILE, TABLES, read_only

BUNDLE = "bundle.plb"
BUNDLE_FORMAT = 1
# What of result.json does not depend on how long something took.
RESULT_FIELDS = ("name", "config_hash", "config", "model_hash", "parameters", "cohort", "final", "validation")

_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that the format knows


def write_bundle(folder: Path, result: Mapping[str, Any], config: str) -> str:
    """Write the bundle of the `ledger/` folder of a finished run; returns its SHA-256 in hex.

    Args:
        result: as in result.json; only RESULT_FIELDS are taken.
        config: YAML text.

    Raises:
        LedgerError: the journal is damaged, or the file cannot be written.
    """
    folder = Path(folder)
    path, part = folder / BUNDLE, folder / f"{BUNDLE}.new"
    kept = {name: result[name] for name in RESULT_FIELDS if name in result}
    digests: dict[str, str] = {}
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

            def add(name: str, pieces: Iterable[bytes]) -> None:
                digest = hashlib.sha256()
                with archive.open(_entry(name), "w", force_zip64=True) as file:
                    for piece in pieces:
                        digest.update(piece)
                        file.write(piece)
                digests[name] = digest.hexdigest()

            add("config.yaml", [config.encode()])
            with read_only(folder / FILE) as connection:
                for table in sorted(TABLES):
                    rows = journal_rows(connection, table)
                    add(f"journal/{table}.jsonl", (json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows))
            for vectors in sorted((folder / "updates").glob("*.safetensors")):
                add(f"updates/{vectors.name}", _blocks(vectors))
            manifest = {
                "format": BUNDLE_FORMAT,
                "entries": digests,
                "contracts": {name: artefact_digest(name) for name in CONTRACTS},
                "result": kept,
                "result_digest": json_hash(kept).hex(),
            }
            archive.writestr(_entry("manifest.json"), canonical_json(manifest))
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        digest = file_digest(part)
        part.replace(path)
    except OSError as error:
        raise LedgerError(f"cannot write {path}: {error.strerror}") from error
    return digest


def journal_rows(connection: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table in the order in which they were written, BLOBs as 0x hex."""
    columns = TABLES[table]
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid"):
        values = ["0x" + value.hex() if isinstance(value, bytes) else value for value in row]
        yield dict(zip(columns, values, strict=True))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # the same on every system
    return entry


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()
