"""Fetching a known database from PhysioNet, file by file, each checked by its SHA-256."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.data.sources import Dataset
from engine.errors import DataError
from engine.files import write_text

if TYPE_CHECKING:
    import requests

SUMS = "SHA256SUMS.txt"


def published(dataset: Dataset, folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of a database: those that are known here, else those of the list that was fetched with it."""
    if dataset.digests:
        return dict(dataset.digests)
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return _sums(text)


def fetch(
    dataset: Dataset, folder: Path, progress: Callable[[str], None] = lambda text: None, timeout: float = 30.0
) -> int:
    """Downloads what is missing or wrong of a database into `folder`; returns the number of files that were fetched.

    Each file is checked against its published SHA-256 and only then takes its name, so an interrupted fetch goes on
    where it stopped, inside a file too, and what is there but differs is replaced. Where the digests are not known here,
    the server's own list is fetched first: it guards against damage on the way, not against the server.

    Raises:
        DataError: the server cannot be reached, or what it sends is not the published file.
    """
    import requests

    if dataset.digests and not _wanted(dataset, folder):
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}).") from None
    with requests.Session() as session:
        if not dataset.digests:
            dataset = replace(dataset, digests=_server_list(session, dataset, folder, timeout))
        missing = _wanted(dataset, folder)
        for position, name in enumerate(missing):
            progress(f"{position}/{len(missing)} {name}")
            _download(session, dataset, name, folder, timeout)
    progress(f"{len(missing)}/{len(missing)} done")
    return len(missing)


def _wanted(dataset: Dataset, folder: Path) -> list[str]:
    """Files that are not there or are not the published ones."""
    return [name for name, digest in dataset.digests.items() if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _server_list(session: "requests.Session", dataset: Dataset, folder: Path, timeout: float) -> dict[str, str]:
    try:
        with session.get(dataset.url + SUMS, timeout=timeout) as answer:
            answer.raise_for_status()
            listed = _sums(answer.text)
    except Exception as error:
        raise _unreachable(dataset, SUMS, error) from None
    if lacking := [name for name in dataset.files if name not in listed]:
        raise DataError(f"{dataset.url}{SUMS}: does not list {lacking[0]}, so it is not the list of {dataset.title}.")
    digests = {name: listed[name] for name in dataset.files}
    write_text(folder / SUMS, "".join(f"{digest} {name}\n" for name, digest in digests.items()))
    return digests


def _sums(text: str) -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    return {words[1].strip(): words[0].lower() for words in lines if len(words) == 2}


def _download(session: "requests.Session", dataset: Dataset, name: str, folder: Path, timeout: float) -> None:
    import requests

    part = folder / (name + ".part")
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        with session.get(dataset.url + name, headers=headers, stream=True, timeout=timeout) as answer:
            if answer.status_code != 416:  # else nothing is left to send: the digest below decides
                answer.raise_for_status()
                with part.open("ab" if answer.status_code == 206 else "wb") as file:
                    for block in answer.iter_content(1 << 16):
                        file.write(block)
    except requests.RequestException as error:
        raise _unreachable(dataset, name, error) from None
    except OSError as error:
        raise DataError(f"{part}: cannot be stored ({error.strerror}).") from None
    if _digest(part) != dataset.digests[name]:
        part.unlink()
        raise DataError(f"{dataset.url}{name}: is not the published file (SHA-256 differs); it was thrown away.")
    part.replace(folder / name)


def _unreachable(dataset: Dataset, name: str, error: Exception) -> DataError:
    return DataError(
        f"{dataset.url}{name}: cannot be fetched ({type(error).__name__}); "
        f"set data.folder or PULSELEDGER_DATA to a copy of {dataset.title}."
    )
