"""The source of own parts: which files it is, its digest, and the copies of it in the folders of runs and studies.

Of FILE.py it is the file and what it imports from beside itself; of PACKAGE.MODULE it is the package. What is executed are
the bytes of the digest and no others: those that were read first, a folder's copy, or what came with a job.
"""

import ast
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.errors import ConfigError, DataError
from engine.files import read_bytes

FOLDER = "own"  # in the folder of a run or study
MOST_FILES, MOST_BYTES = 200, 4_000_000
OURS = ("engine", "sweeps", "pulseledger")


@dataclass(frozen=True)
class Source:
    """Bytes of an own part.

    Attributes:
        files: path below its folder, and content; in order of the paths.
        origin: that folder, for messages alone.
    """

    files: tuple[tuple[str, bytes], ...]
    origin: str

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, over names and bytes of all files."""
        found = hashlib.sha256(b"PulseLedger own part 1")
        for path, content in self.files:
            found.update(f"|{path}|{len(content)}|".encode() + content)
        return found.hexdigest()


_known: dict[str, Source] = {}  # by digest, of this process


def know(source: Source) -> str:
    """Makes a source known to this process; returns its digest."""
    _known.setdefault(source.digest, source)
    return source.digest


def known(digest: str) -> Source:
    """The source of a digest.

    Raises:
        ConfigError: nobody has given it to this process.
    """
    if digest not in _known:
        raise ConfigError(f"the source of an own part (digest {digest[:12]}) is not at hand; name its file again.")
    return _known[digest]


def of_digests(digests: Iterable[str]) -> tuple[Source, ...]:
    """Sources to send with a job; the receiver makes each `know`n."""
    return tuple(known(digest) for digest in dict.fromkeys(digests))


# --- Reading ----------------------------------------------------------------------------------------------------------


def of_file(path: Path) -> Source:
    """The source of a file: itself, and what it imports from beside itself, file by file.

    Raises:
        ConfigError: a file cannot be read or is no Python; a name beside it is also that of an installed module.
    """
    home, files = path.parent.absolute(), {}
    left = [path.absolute()]
    while left:
        one = left.pop()
        name = one.relative_to(home).as_posix()
        if name in files:
            continue
        files[name] = _content(one)
        for beside in _imported(one, files[name], home):
            left += _python(beside) if beside.is_dir() else [beside]
        _require_small(str(path), files)
    return Source(tuple(sorted(files.items())), str(home))


def of_module(dotted: str) -> Source:
    """The source of an importable module: its whole package. Nothing is imported to find it.

    Raises:
        ConfigError: there is no such module, or its package is too large for an own part.
    """
    top, *below = dotted.split(".")
    spec = None if top in OURS or top in sys.builtin_module_names else importlib.util.find_spec(top)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise ConfigError(f"{dotted}: there is no such module on the path of Python.")
    if not spec.submodule_search_locations:
        path = Path(spec.origin or "")
        if below or path.suffix != ".py":
            raise ConfigError(f"{dotted}: is no module written in Python.")
        return of_file(path)
    home = Path(next(iter(spec.submodule_search_locations)))
    files = {}
    for path in _python(home):
        files[path.relative_to(home.parent).as_posix()] = _content(path)
        _require_small(dotted, files)
    if path_of(files, dotted) is None:
        raise ConfigError(f"{dotted}: package {top} has no such module; it lies in {home}.")
    return Source(tuple(sorted(files.items())), str(home.parent))


def path_of(files: Iterable[str], dotted: str) -> str | None:
    """The file of a module."""
    stem, there = dotted.replace(".", "/"), set(files)
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in there), None)


def _content(path: Path) -> bytes:
    try:
        content = read_bytes(path, MOST_BYTES)
        ast.parse(content, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: is no Python ({error.msg}).") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: is no Python ({error}).") from None
    return content


def _imported(path: Path, content: bytes, home: Path) -> Iterator[Path]:
    """Files and packages beside `path`, or in `home`, that it imports."""
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            if not base.is_relative_to(home):
                raise ConfigError(f"{path}, line {node.lineno}: imports from above its own folder.")
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (there for name in names if (there := _beside(base, name.split(".")[0])))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for top in (name.split(".")[0] for name in names):
                if top not in OURS and (there := _beside(home, top)):
                    _require_one(path, node.lineno, top, there)
                    yield there


def _beside(folder: Path, name: str) -> Path | None:
    if (file := folder / f"{name}.py").is_file():
        return file
    return folder / name if (folder / name / "__init__.py").is_file() else None


def _require_one(path: Path, line: int, name: str, there: Path) -> None:
    spec = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    place = spec.origin if spec is not None else None
    if name in sys.stdlib_module_names or (place is not None and not Path(place).is_relative_to(there.parent)):
        raise ConfigError(
            f"{path}, line {line}: {name} is {there.name} beside it, and an installed module, too; rename the one beside it."
        )


def _python(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


def _require_small(name: str, files: dict[str, bytes]) -> None:
    if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES:
        raise ConfigError(
            f"{name}: is too large for an own part, which has at most {MOST_FILES} files of {MOST_BYTES:,} bytes in all."
        )


# --- Copies in a folder -----------------------------------------------------------------------------------------------


def hold(folder: Path, digests: Iterable[str]) -> None:
    """Keeps copies of sources in a run's or study's folder; those that are there already are what is executed.

    Raises:
        DataError: a copy was edited, or cannot be read or written.
        ConfigError: there is neither a copy nor anything to copy.
    """
    for digest in dict.fromkeys(digests):
        home = folder / FOLDER / digest
        if home.is_dir():
            _known[digest] = _copied(home)
        else:
            _copy(known(digest), home)


def recall(folder: Path, digests: Iterable[str]) -> None:
    """Makes known what a folder, that of a run or study or any other, has copies of.

    Raises:
        DataError: a copy was edited.
    """
    hold(folder, [digest for digest in digests if (folder / FOLDER / digest).is_dir()])


def _copied(home: Path) -> Source:
    try:
        paths = _python(home)
        files = {path.relative_to(home).as_posix(): read_bytes(path, MOST_BYTES) for path in paths[: MOST_FILES + 1]}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}).") from None
    found = Source(tuple(sorted(files.items())), str(home))
    if found.digest != home.name:
        names = ", ".join(list(files)[:3]) or "nothing"
        raise DataError(
            f"{home}: this own part ({names}) was edited since the work in this folder began; put it back, or begin in another "
            "folder."
        )
    return found


def _copy(source: Source, home: Path) -> None:
    part = home.with_name(f".{home.name}.{os.getpid()}")
    try:
        for path, content in source.files:
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_bytes(content)
        part.replace(home)
    except OSError as error:
        if not home.is_dir():  # otherwise another process was faster
            raise DataError(f"{home}: cannot be written ({error.strerror}).") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
