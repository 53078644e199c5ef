"""What an audit reads: the rows of a journal and the files beside it, from a run's folder or from one bundle file.

Nothing in here trusts what it reads. A bundle is somebody else's archive: names outside the format, compressed entries, entries that
are there twice and bytes that differ from the manifest are told, and whatever cannot be read comes out as None.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine.audit import limits
from engine.audit.report import Finding, finding
from engine.encoding import read_json
from engine.errors import LedgerError
from engine.files import read_bytes, read_text
from engine.ledger.format import (
    BUNDLE,
    BUNDLE_FORMAT,
    CONFIG,
    MANIFEST,
    RUN,
    Journal,
    row_values,
    rows_name,
    vectors_name,
)

_ROWS = "|".join(re.escape(rows_name(table)) for table in RUN.tables)
_NAMES = re.compile(rf"{re.escape(MANIFEST)}|{re.escape(CONFIG)}|{_ROWS}|updates/\d{{5,}}\.safetensors")

_BETWEEN = 64  # bytes before an entry at most, of what ZIP64 says of the one before it

# What the reader of an archive raises for one that is damaged.
_DAMAGED = (
    OSError,
    KeyError,
    ValueError,
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
    EOFError,
    struct.error,
)


class Evidence:
    """An open folder or bundle.

    Attributes:
        folder: of the run, None for a bundle alone.
        manifest: of the bundle; {} without one.
        problems: what is wrong with the archive itself, or with rows that were read so far.
    """

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            LedgerError: there is neither a bundle nor a journal.
        """
        self.problems: list[Finding] = []
        self.manifest: dict[str, Any] = {}
        self.folder = None if path.is_file() else path
        self._asked = {f"ledger/{name}" for name in (RUN.file, f"{RUN.file}-wal", f"{RUN.file}-shm", BUNDLE)}
        with ExitStack() as stack:
            if self.folder is None:
                self._size = path.stat().st_size
                self._zip = _archive(path, stack)
                self._check_entries()
            else:
                self._journal = stack.enter_context(opened(path / "ledger" / RUN.file, RUN))
                bundle = path / "ledger" / BUNDLE
                if bundle.is_file():
                    self._compare_bundle(bundle)
                elif os.path.lexists(bundle):
                    self._tell(BUNDLE, "a file", "something else", "cannot be read")
            self._stack = stack.pop_all()

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table as mappings of all its columns; a damaged row is told and left out."""
        columns = RUN.tables[table].columns
        for number, row in enumerate(self._raw_rows(table), start=1):
            limits.require(f"rows of {table}", number, limits.TRANSACTIONS if table == "transactions" else limits.ROWS)
            if isinstance(row, dict) and set(row) == set(columns):
                yield row
            else:
                message = f"row {number} of {table} is damaged"
                self.problems.append(finding(table, "row", ", ".join(columns), row, message))

    def vectors(self, number: int, most: int) -> bytes | None:
        """The archived vectors of a round, 0 for the genesis; None where there is no file of at most `most` bytes."""
        name = vectors_name(number)
        try:
            if self.folder is not None:
                return read_bytes(self.file(f"ledger/{name}"), most)
            return self._read(name, most)
        except _DAMAGED:
            return None

    def lost(self, number: int) -> bool:
        """Whether nothing is there in the place of the archived vectors of a round."""
        name = vectors_name(number)
        if self.folder is not None:
            return not os.path.lexists(self.folder / "ledger" / name)
        return name not in self._zip.namelist() and name not in self.manifest.get("entries", {})

    def text(self, name: str, most: int = limits.FILE) -> str:
        """A text of the run's folder; raises OSError or ValueError where there is none of at most `most` bytes, or no folder."""
        if self.folder is None:
            raise FileNotFoundError(name)
        return read_text(self.file(name), most)

    def file(self, name: str) -> Path:
        """Where something of the run's folder lies; what is never asked for is told to be unread."""
        assert self.folder is not None
        self._asked.add(name)
        return self.folder / name

    def unread(self) -> list[str]:
        """Files of the folder that nobody has asked for, in folders that were not asked for as a whole either."""
        return [] if self.folder is None else unread(self.folder, self._asked)

    @property
    def config(self) -> str:
        """The text of config.yaml; "" where there is none, or it is no text."""
        try:
            return (
                self.text(CONFIG, limits.CONFIG)
                if self.folder is not None
                else self._read(CONFIG, limits.CONFIG).decode()
            )
        except _DAMAGED:
            return ""

    def archived(self) -> list[str]:
        """File names of all archived vectors."""
        if self.folder is not None:
            names = sorted(path.name for path in (self.folder / "ledger" / "updates").glob("*.safetensors"))
            self._asked |= {f"ledger/updates/{name}" for name in names}
            return names
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
            yield from rows(self._journal, RUN, table)
            return
        try:
            with self._zip.open(self._stored(rows_name(table))) as file:
                while line := file.readline(limits.LINE):
                    try:
                        yield read_json(line.decode())
                    except ValueError:
                        yield line[:100]
        except _DAMAGED as error:
            message = f"the rows of {table} cannot be read: {error}"
            self.problems.append(finding(table, "file", "readable rows", None, message))

    def _check_entries(self) -> None:
        """A bundle holds the entries of its format, each once, and each as its manifest says."""
        entries, names = self._zip.infolist(), set[str]()
        for entry in entries:
            if not _NAMES.fullmatch(entry.filename) or not _is_stored(entry):
                self._tell(entry.filename, "a stored entry of the format", "another", "does not belong into a bundle")
            elif entry.filename in names:
                self._tell(entry.filename, "once", "twice", "is there twice")
            names.add(entry.filename)
        offset = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if not 0 <= entry.header_offset - offset <= (_BETWEEN if offset else 0):
                self._tell(
                    entry.filename, f"at byte {offset}", entry.header_offset, "does not follow on what is before it"
                )
            offset = entry.header_offset + 30 + len(entry.filename.encode()) + entry.file_size
        if self._zip.comment:
            self._tell(BUNDLE, "no comment", self._zip.comment, "has words behind its entries")
        # entries that lie over each other could hold more than the file
        limits.require("bytes", sum(entry.file_size for entry in entries if _is_stored(entry)), self._size)
        try:
            manifest = read_json(self._read(MANIFEST, limits.FILE).decode())
            digests = manifest["entries"]
            if manifest["format"] != BUNDLE_FORMAT or not isinstance(digests, dict):
                raise ValueError("another format")
            self.manifest = manifest
        except (*_DAMAGED, TypeError, ValueError) as error:
            self._tell(MANIFEST, f"a manifest of format {BUNDLE_FORMAT}", None, f"cannot be read: {error}")
            return
        for name in sorted({*digests, *names} - {MANIFEST}):
            found = self._digest(name) if name in names else None
            if found is None or found != digests.get(name):
                self._tell(name, digests.get(name), found, "is not what the manifest lists")

    def _compare_bundle(self, path: Path) -> None:
        """The bundle beside a journal must have come from it."""
        try:
            with Evidence(path) as bundle:
                self.manifest = bundle.manifest
                self.problems += bundle.problems
        except LedgerError as error:
            self._tell(BUNDLE, "a readable bundle", None, f"cannot be read: {error}")
            return
        entries = self.manifest.get("entries", {})
        for table in RUN.tables:
            digest = hashlib.sha256()
            for row in rows(self._journal, RUN, table):
                digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            name = rows_name(table)
            if entries.get(name) != digest.hexdigest():
                self._tell(name, entries.get(name), digest.hexdigest(), "differs from the journal beside it")

    def _digest(self, name: str) -> str | None:
        digest = hashlib.sha256()
        try:
            with self._zip.open(self._stored(name)) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except _DAMAGED:
            return None
        return digest.hexdigest()

    def _stored(self, name: str) -> zipfile.ZipInfo:
        """An entry that is as long as it says: what is compressed could swell, so it is not read at all."""
        entry = self._zip.getinfo(name)
        if not _is_stored(entry):
            raise ValueError("it is not stored as it is")
        return entry

    def _read(self, name: str, most: int) -> bytes:
        entry = self._stored(name)
        if entry.file_size > most:
            raise ValueError(f"it holds {entry.file_size} bytes, of at most {most}")
        return self._zip.read(entry)

    def _tell(self, name: str, expected: Any, found: Any, what: str) -> None:
        self.problems.append(finding("bundle", name, expected, found, f"{name} {what}"))


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1


def _archive(path: Path, stack: ExitStack) -> zipfile.ZipFile:
    try:
        return stack.enter_context(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise LedgerError(f"{path} is neither a run's folder nor a bundle: {error}") from error


def unread(folder: Path, asked: Collection[str], leave: Collection[str] = ()) -> list[str]:
    """Files below a folder that were not asked for, links as what they are, and not in the folders to `leave` alone.

    Of too many files the rest is one name.
    """
    found: list[str] = []
    for home, folders, files in os.walk(folder):
        where = Path(home).relative_to(folder)
        inside = [name for name in folders if (where / name).as_posix() not in (*asked, *leave)]
        links = [name for name in inside if (Path(home) / name).is_symlink()]
        folders[:] = sorted(set(inside) - set(links))
        found += [name for each in sorted(files + links) if (name := (where / each).as_posix()) not in asked]
        if len(found) > limits.FILES:
            return [*found[: limits.FILES], "and more"]
    return found


# --- Journals ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, journal: Journal) -> Iterator[sqlite3.Connection]:
    """Open a copy of a journal, with what its write-ahead log holds; the folder is not touched at all.

    SQLite itself would create files beside a journal that is in WAL mode, even for a reader.

    Raises:
        LedgerError: missing or damaged; also for what is found only while it is read.
    """
    if not path.is_file():
        raise LedgerError(f"there is no journal {path}")
    limits.require("bytes of a journal", path.stat().st_size, limits.JOURNAL)
    with tempfile.TemporaryDirectory() as folder, _in_one_sentence(path):
        copy = shutil.copyfile(path, Path(folder) / path.name)
        log = path.with_name(path.name + "-wal")
        if log.is_file():
            shutil.copyfile(log, copy.with_name(log.name))
        connection = sqlite3.connect(copy)
        try:
            # A damaged text must reach the audit as a wrong text, not as an error of the reader.
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.LINE)
            connection.execute("PRAGMA trusted_schema = OFF")
            _require_plain(connection, path, journal)
            yield connection
        finally:
            connection.close()


def _require_plain(connection: sqlite3.Connection, path: Path, journal: Journal) -> None:
    """A journal holds the tables and columns of its format, nothing beside them and nothing that computes: a view could have
    no end. One of another format is told as such when its rows are read."""
    kinds = {kind for (kind,) in connection.execute("SELECT type FROM sqlite_master")}
    computed = connection.execute(
        "SELECT count(*) FROM sqlite_master m, pragma_table_xinfo(m.name) c WHERE m.type = 'table' AND c.hidden != 0"
    ).fetchone()[0]
    if kinds - {"table", "index"} or computed:
        raise LedgerError(f"the journal {path} is damaged: it holds more than tables")
    if "meta" not in (
        names := [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    ):
        return
    if not [*connection.execute("SELECT * FROM meta WHERE key = 'format' AND value = ?", (str(journal.format),))]:
        return
    for name in names:
        known = journal.tables[name].columns if name in journal.tables else ()
        if more := {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (name,))} - {*known}:
            what = f"columns {', '.join(sorted(more))} of {name}" if known else f"a table {name}"
            raise LedgerError(f"the journal {path} is damaged: nobody reads {what}")


def rows(connection: sqlite3.Connection, journal: Journal, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table in the order in which they were written, BLOBs as 0x hex."""
    columns = tuple(journal.tables[table].columns)
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid"):
        yield row_values(dict(zip(columns, row, strict=True)))


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"the journal {path} is damaged: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise LedgerError(f"the journal {path} cannot be used: {error.strerror or error}") from error
