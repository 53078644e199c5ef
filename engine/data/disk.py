"""What lies on disk: where the records of a configuration are, and which records a folder holds."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.config import DataConfig
from engine.data.fetch import fetch, published
from engine.data.headers import find, segments_named
from engine.data.sources import DATASETS, MITDB, Dataset
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import cache_folder, own_cache

VARIABLE = "PULSELEDGER_DATA"
NO_ANNOTATIONS = {"hea", "dat", "mat", "edf", "xws", "txt", "md", "csv", "json", "part"}  # suffixes of other things


@dataclass(frozen=True)
class Found:
    """The records that were asked for.

    Attributes:
        folder: that was searched.
        names: path of each record below `folder`, without a suffix, in order.
        headers: where the header of each is, or should be.
        strays: what looks like records and is left out, in sentences without a full stop.
    """

    folder: Path
    names: tuple[str, ...]
    headers: tuple[Path, ...]
    strays: tuple[str, ...] = ()


def locate(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Path:
    """The folder that holds the records of `data`; writes or downloads them first where needed.

    ~ is the user's own; a folder that is still relative is meant from the working directory.

    Raises:
        DataError: a named folder is missing or holds no records, or the download failed.
    """
    if data.source == "simulated":
        return _simulated(data)
    if data.source == "folder":
        return _with_records([Path(data.folder or "")], "data.folder", deep=True)
    dataset = DATASETS[data.source]
    if data.folder:
        return _with_records([Path(data.folder), Path(data.folder) / dataset.name], "data.folder")
    given = os.environ.get(VARIABLE)
    if given and dataset is MITDB:
        return _with_records([Path(given), Path(given) / dataset.name], VARIABLE)
    if given:  # it need not have the other databases, too
        places = [Path(given).expanduser().absolute() / name for name in (dataset.name, dataset.folder)]
        if found := [place for place in places if find(place, f"{dataset.records[0]}.hea")]:
            return found[0]
    folder = cache_folder() / dataset.name
    fetch(dataset, folder, progress=progress)
    return folder


def records_in(folder: Path, data: DataConfig) -> Found:
    """The records of `folder` that `data` asks for, in order of their names.

    A file RECORDS says which there are. Without one it is the headers in the folder, or where it has none, those in the
    folders below it. A record may be asked for by its path or by its last part.

    Raises:
        DataError: a wanted record is not there, or none is left.
    """
    there, strays = _there(folder, data.annotator, data.source == "folder")
    dataset = DATASETS.get(data.source)
    if dataset is not None and data.records == "all":
        # exactly its own, whatever else lies there; a missing one is noticed when it is read
        there = {name: folder / f"{name}.hea" for name in dataset.records} | {
            name: path for name, path in there.items() if name in dataset.records
        }
    wanted = sorted(there) if data.records == "all" else [_named(name, there, folder) for name in data.records]
    left_out = {_named(name, there, folder) for name in data.exclude}
    names = [name for name in wanted if name not in left_out]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{folder}: data.records names {twice} twice.")
    if not names:
        raise DataError(f"{folder}: no record is left after data.records and data.exclude.")
    return Found(folder, tuple(names), tuple(there[name] for name in names), tuple(strays))


def file_digests(folder: Path, files: Iterable[Path], dataset: Dataset | None = None) -> dict[str, str]:
    """Path below `folder` -> SHA-256 in hex.

    Args:
        dataset: whose published digests they must have; None: any.

    Raises:
        DataError: a file cannot be read or differs from the published one.
    """
    expected = published(dataset, folder) if dataset is not None else {}
    digests: dict[str, str] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
        digests[_below(folder, path)] = digest
        if dataset is not None and expected and expected.get(path.name) != digest:
            raise DataError(
                f"{path}: differs from {dataset.title} (SHA-256); fetch it again with `pulseledger data fetch "
                f"{dataset.name}` or use data.source: folder."
            )
    return digests


def annotators(header: Path) -> list[str]:
    """Suffixes of the annotations that lie beside a header."""
    beside = (path for path in _files(header.parent) if path.stem == header.stem)
    return sorted({path.suffix[1:] for path in beside if path.suffix and path.suffix[1:].lower() not in NO_ANNOTATIONS})


def _there(folder: Path, annotator: str, deep: bool) -> tuple[dict[str, Path], list[str]]:
    """Every record -> its header, and what is left out: annotations without a header and, with `deep`, folders below."""
    if index := find(folder, "RECORDS"):
        return {_below(folder, path.with_suffix("")): path for path in _listed(folder, index)}, []
    headers, strays = _headers(folder), []
    if not headers:
        headers = sorted(_deeper(folder))
    elif deep:
        places = sorted(path for path in folder.iterdir() if path.is_dir() and _plain(path, folder) and _headers(path))
        strays = [f"{place.name}/ holds records that are left out, as {folder} has some of its own" for place in places]
    parts = {(path.parent, name) for path in headers for name in _segments(path) if name != path.stem}
    there = {_below(folder, path.with_suffix("")): path for path in headers if (path.parent, path.stem) not in parts}
    for place in sorted({folder, *(path.parent for path in headers)}):
        stems = {path.stem for path in headers if path.parent == place}
        files = _files(place)
        for path in (p for p in files if p.suffix.lower() == f".{annotator.lower()}" and p.stem not in stems):
            # With a signal beside it, it is a record that has lost its header: no patient may vanish unnoticed.
            if any(p.stem == path.stem and p.suffix.lower() in (".dat", ".mat") for p in files):
                there[_below(folder, path.with_suffix(""))] = path.with_suffix(".hea")
            else:
                strays.append(f"{_below(folder, path)} has no record beside it and is left out")
    return there, strays


def _listed(folder: Path, index: Path) -> Iterator[Path]:
    """The headers that a RECORDS file names; a line may name a folder with a RECORDS file of its own."""
    try:
        lines = index.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{index}: is not a readable list of records.") from None
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        path = (folder / line.removesuffix(".hea")).absolute()
        if ".." in Path(line).parts or Path(line).is_absolute():
            raise DataError(f"{index}: names {line}, which lies outside of its folder.")
        if path.is_dir() and not find(path.parent, f"{path.name}.hea"):
            below = find(path, "RECORDS")
            yield from _listed(path, below) if below else _headers(path)
        else:
            yield find(path.parent, f"{path.name}.hea") or path.with_name(f"{path.name}.hea")


def _segments(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return segments_named(file.read(1 << 20).decode("latin-1"))
    except OSError:
        return []


def _named(name: str, there: dict[str, Path], folder: Path) -> str:
    if name in there:
        return name
    ends = [path for path in there if path.rpartition("/")[2] == name]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise DataError(f"{folder}: has {len(ends)} records {name!r}, {_some(ends)}; give the path of one.")
    raise DataError(f"{folder}: has no record {name!r}; it holds {_some(sorted(there))}.")


def _plain(path: Path, folder: Path) -> bool:
    """Not hidden, and not the shadow of a file that a Mac leaves on a foreign disk (._100.hea)."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _plain(path, folder) and path.is_file())
    except OSError:
        return []


def _headers(folder: Path) -> list[Path]:
    """In a folder itself."""
    return [path for path in _files(folder) if path.suffix.lower() == ".hea"]


def _deeper(folder: Path) -> Iterator[Path]:
    """Headers in a folder and those below it, also where it is a link that leads there; none twice."""
    seen: set[str] = set()
    for place, folders, _ in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from _headers(Path(place))


def _below(folder: Path, path: Path) -> str:
    return path.absolute().relative_to(folder.absolute()).as_posix()


def _with_records(candidates: Sequence[Path], key: str, deep: bool = False) -> Path:
    """The first of the folders that holds a record; with `deep`, one below counts, too."""
    places = [place.expanduser().absolute() for place in candidates]
    for place in places:
        if find(place, "RECORDS") or _headers(place):
            return place
    first = places[0]
    if deep and any(_deeper(first)):
        return first
    problem = "holds no WFDB header (*.hea)" if first.is_dir() else "is not a folder"
    raise DataError(f"{key}: {first} {problem}; give a folder of WFDB records.")


def _simulated(data: DataConfig) -> Path:
    from engine.data import simulate

    # The generator's source is part of the key: another generator writes other records.
    settings = data.simulated
    key = json_hash([settings.model_dump(mode="json"), simulate.source_digest()]).hex()[:16]
    folder = own_cache("simulated") / key
    if not folder.is_dir():
        part = folder.with_name(f"{key}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            simulate.write_records(part, settings.patients, settings.seed, settings.minutes)
            part.replace(folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if not folder.is_dir():  # otherwise another process was faster
                raise DataError(f"{folder}: the simulated records cannot be stored ({error.strerror}).") from None
    return folder


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "none"
