"""One file per run from which everything can be recomputed, alone and offline: `ledger/bundle.plb`, see `format`.

`result` of the manifest holds what a run reports and its closing binds, and `result_digest` the hash of that. What is sent
after the end of a run makes the file longer by the rows of those transactions and changes nothing else in it.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, json_hash, read_json
from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.chain.contracts import CONTRACTS, artefact_digest
from engine.ledger.format import BUNDLE, BUNDLE_FORMAT, CONFIG, MANIFEST, RUN, row_values, rows_name
from engine.ledger.store import read_only, table_rows
from engine.ledger.subjects.closing import bound

_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that the format knows


def write_bundle(folder: Path, result: Mapping[str, Any], config: str) -> None:
    """Write the bundle of the `ledger/` folder of a finished run.

    Args:
        result: as in result.json; what a closing binds of it is taken.
        config: YAML text.

    Raises:
        LedgerError: the journal is damaged, or the file cannot be written.
    """
    kept = bound(result)
    digests: dict[str, str] = {}
    with (
        whole(
            folder / BUNDLE, durable=True, mode=0o600, error=LedgerError
        ) as part,  # it holds what opens the commitments
        zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
        read_only(folder / RUN.file) as journal,
    ):

        def add(name: str, pieces: Iterable[bytes]) -> None:
            digest = hashlib.sha256()
            with archive.open(_entry(name), "w", force_zip64=True) as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            digests[name] = digest.hexdigest()

        add(CONFIG, [config.encode()])
        for name, table in sorted(RUN.tables.items()):
            rows = (row_values(dict(row)) for row in table_rows(journal, name, table))
            add(rows_name(name), (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
        for vectors in sorted((folder / "updates").glob("*.safetensors")):
            add(f"updates/{vectors.name}", _blocks(vectors))
        manifest = {
            "format": BUNDLE_FORMAT,
            "entries": digests,
            "contracts": {name: artefact_digest(name) for name in CONTRACTS},
            "result": kept,
            "result_digest": json_hash(kept).hex(),
        }
        archive.writestr(_entry(MANIFEST), canonical_json(manifest))


def write_public(bundle: Path, out: Path) -> None:
    """Write a bundle without what opens the commitments, to be handed on: salts, and the values behind them.

    Raises:
        LedgerError: there is no bundle, it is damaged, or the file cannot be written.
    """
    secret = rows_name("openings")
    try:
        with zipfile.ZipFile(bundle) as source, whole(out, durable=True, error=LedgerError) as part:
            manifest = read_json(source.read(MANIFEST).decode())
            manifest["entries"][secret] = hashlib.sha256(b"").hexdigest()
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for name in source.namelist():
                    if name in (secret, MANIFEST):
                        text = b"" if name == secret else canonical_json({**manifest, "public": True}).encode()
                        archive.writestr(_entry(name), text)
                        continue
                    with source.open(name) as read, archive.open(_entry(name), "w", force_zip64=True) as file:
                        shutil.copyfileobj(read, file, 1 << 20)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise LedgerError(f"{bundle}: is no bundle that can be handed on ({error})") from None


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # the same on every system
    return entry


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
