"""What an audit reads: the rows of a journal and the files beside it, from a run's folder or from one bundle file.

Nothing in here trusts what it reads. A bundle is somebody else's archive: names outside the format, compressed entries, entries that
are there twice and bytes that differ from the manifest are told, and whatever cannot be read comes out as None.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.encoding import read_json
from engine.errors import LedgerError
from engine.ledger.bundle import BUNDLE, journal_rows
from engine.ledger.journal import FILE, TABLES, read_only

Problem = tuple[str, str, Any, Any, str]  # record, field, expected, found, message

_NAMES = re.compile(rf"manifest\.json|config\.yaml|journal/({'|'.join(TABLES)})\.jsonl|updates/\d{{5,}}\.safetensors")
_LINE = 1 << 24  # bytes of the longest row that is read


class Evidence:
    """An open folder or bundle.

    Attributes:
        folder: of the run, None for a bundle alone.
        manifest: of the bundle; {} without one.
        problems: what is wrong with the archive itself.
    """

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            LedgerError: there is neither a bundle nor a journal.
        """
        self.problems: list[Problem] = []
        self.manifest: dict[str, Any] = {}
        self._zip: zipfile.ZipFile | None = None
        self.folder = None if path.is_file() else path
        with ExitStack() as stack:
            if self.folder is None:
                self._open_bundle(path, stack)
            else:
                self._journal = stack.enter_context(read_only(path / "ledger" / FILE))
                bundle = path / "ledger" / BUNDLE
                if bundle.exists():
                    self._compare_bundle(bundle)
            self._stack = stack.pop_all()

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table as mappings of all its columns; a damaged row is told and left out."""
        for number, row in enumerate(self._raw_rows(table), start=1):
            if not isinstance(row, dict) or set(row) != set(TABLES[table]):
                columns = ", ".join(TABLES[table])
                self.problems.append((table, "row", columns, row, f"row {number} of {table} is damaged"))
                continue
            yield row

    def vectors(self, number: int) -> bytes | None:
        """The archived vectors of a round, 0 for the genesis."""
        name = f"updates/{number:05d}.safetensors"
        try:
            if self.folder is not None:
                return (self.folder / "ledger" / name).read_bytes()
            assert self._zip is not None
            return self._zip.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
            return None

    def archived(self) -> list[str]:
        """File names of all archived vectors."""
        if self.folder is not None:
            return sorted(path.name for path in (self.folder / "ledger" / "updates").glob("*.safetensors"))
        assert self._zip is not None
        return sorted(name.removeprefix("updates/") for name in self._zip.namelist() if name.startswith("updates/"))

    def close(self) -> None:
        """Lets go of the files."""
        self._stack.close()

    def __enter__(self) -> "Evidence":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)  # turns what SQLite raised into one sentence

    def _raw_rows(self, table: str) -> Iterator[Any]:
        if self.folder is not None:
            yield from journal_rows(self._journal, table)
            return
        assert self._zip is not None
        try:
            with self._zip.open(f"journal/{table}.jsonl") as file:
                while line := file.readline(_LINE):
                    try:
                        yield read_json(line.decode())
                    except ValueError:
                        yield line[:100]
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            self.problems.append((table, "file", "readable rows", None, f"the rows of {table} cannot be read: {error}"))

    def _open_bundle(self, path: Path, stack: ExitStack) -> None:
        try:
            self._zip = stack.enter_context(zipfile.ZipFile(path))
            entries = self._zip.infolist()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise LedgerError(f"{path} is neither a run's folder nor a bundle: {error}") from error
        names = [entry.filename for entry in entries]
        for entry in entries:
            # stored entries only: what is not compressed cannot swell
            if not _NAMES.fullmatch(entry.filename) or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                self._tell(entry.filename, "a stored entry of the format", "another", "does not belong into a bundle")
            elif names.count(entry.filename) > 1 and entry is not entries[names.index(entry.filename)]:
                self._tell(entry.filename, "once", "twice", "is there twice")
        try:
            self.manifest = read_json(self._zip.read("manifest.json").decode())
            digests = self.manifest["entries"]
            if self.manifest["format"] != 1 or not isinstance(digests, dict):
                raise ValueError("another format")
        except (
            KeyError,
            TypeError,
            ValueError,
            OSError,
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
        ) as error:
            self.manifest = {}
            self._tell("manifest.json", "a manifest of format 1", None, f"cannot be read: {error}")
            return
        for name in sorted({*digests, *names} - {"manifest.json"}):
            found = self._digest(name) if name in names else None
            if found is None or found != digests.get(name):
                self._tell(name, digests.get(name), found, "is not what the manifest lists")

    def _compare_bundle(self, path: Path) -> None:
        """The bundle beside a journal must have come from it."""
        with Evidence(path) as bundle:
            self.manifest = bundle.manifest
            self.problems += [("bundle", *problem[1:]) for problem in bundle.problems]
        entries = self.manifest.get("entries", {})
        for table in TABLES:
            digest = hashlib.sha256()
            for row in journal_rows(self._journal, table):
                digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            name = f"journal/{table}.jsonl"
            if entries.get(name) != digest.hexdigest():
                self._tell(name, entries.get(name), digest.hexdigest(), "differs from the journal beside it")

    def _digest(self, name: str) -> str | None:
        assert self._zip is not None
        digest = hashlib.sha256()
        try:
            with self._zip.open(name) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
            return None
        return digest.hexdigest()

    def _tell(self, name: str, expected: Any, found: Any, what: str) -> None:
        self.problems.append(("bundle", name, expected, found, f"{name} {what}"))
