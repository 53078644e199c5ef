"""WFDB records on disk: finding them, fetching MIT-BIH, reading one lead with its annotated beats.

Nothing here knows of hospitals. Beats are mapped to the five classes of ANSI/AAMI EC57.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from engine.data.config import DataConfig
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import cache_folder

# ANSI/AAMI EC57. `e` and `j` (escape beats) are N here; putting them into S, as many repositories do, is wrong.
AAMI = {
    **dict.fromkeys("NLRej", "N"),
    **dict.fromkeys("AaJS", "S"),
    **dict.fromkeys("VE", "V"),
    "F": "F",
    **dict.fromkeys("/fQ", "Q"),
}
MITDB_URL = "https://physionet.org/files/mitdb/1.0.0/"
# Records 201 and 202 carry the same header line: they are one man.
MITDB_SAME_PATIENT = {"202": "201"}
SUFFIXES = (".hea", ".dat", ".atr")


@dataclass(frozen=True)
class Record:
    """One lead of one recording.

    Attributes:
        name: record name, such as "100".
        patient: id of the patient; two records may share one.
        sex: "M", "F" or "" when the header does not say.
        age: years, or -1 when the header does not say.
        lead: name of the lead that was read.
        sampling_rate: samples a second.
        signal: float32[samples], millivolt.
        peaks: int64[beats], sample of each annotated beat, ascending.
        symbols: one annotation symbol for each beat, only beats of the five classes.
    """

    name: str
    patient: str
    sex: str
    age: int
    lead: str
    sampling_rate: float
    signal: np.ndarray
    peaks: np.ndarray
    symbols: tuple[str, ...]


def mitdb_digests() -> dict[str, str]:
    """File name -> SHA-256 of the 48 x 3 files of MIT-BIH 1.0.0."""
    text = resources.files("engine.data").joinpath("mitdb_sha256.txt").read_text()
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def locate(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Path:
    """The folder that holds the records of `data`; writes or downloads them first where needed.

    Raises:
        DataError: a named folder is missing or holds no records, or the download failed.
    """
    if data.source == "simulated":
        return _simulated(data)
    if data.source == "folder":
        assert data.folder is not None
        return _checked_folder(Path(data.folder), "data.folder")
    if data.folder:
        return _checked_folder(Path(data.folder), "data.folder")
    if given := os.environ.get("PULSELEDGER_DATA"):
        return _checked_folder(Path(given), "PULSELEDGER_DATA")
    folder = cache_folder() / "mitdb"
    fetch_mitdb(folder, progress=progress)
    return folder


def record_names(folder: Path, data: DataConfig) -> list[str]:
    """The records of `folder` that `data` asks for, in order of their names.

    Raises:
        DataError: a wanted record is not there, or none is left.
    """
    # Annotations without a header count too: a lost header must not make a patient vanish unnoticed.
    there = sorted({path.stem for suffix in (".hea", ".atr") for path in folder.glob(f"*{suffix}")})
    if data.source == "mitdb" and data.records == "all":
        # exactly the 48, whatever else lies there; a missing one is noticed when it is read
        there = sorted({Path(name).stem for name in mitdb_digests()})
    wanted = there if data.records == "all" else list(data.records)
    unknown = [name for name in (*wanted, *data.exclude) if name not in there]
    if unknown:
        raise DataError(f"{folder}: has no record {unknown[0]!r}; it holds {_some(there)}.")
    names = [name for name in wanted if name not in data.exclude]
    if not names:
        raise DataError(f"{folder}: no record is left after data.records and data.exclude.")
    return names


def read_record(folder: Path, name: str, data: DataConfig) -> Record:
    """Reads one record with the `wfdb` package.

    Raises:
        DataError: a file is missing, cut short or not WFDB, or the lead is not there.
    """
    import wfdb

    for suffix in SUFFIXES:
        if not (folder / (name + suffix)).is_file():
            raise DataError(f"{folder / (name + suffix)}: is missing; a record needs .hea, .dat and .atr.")
    stem = str(folder / name)
    try:
        header = wfdb.rdheader(stem)
        leads = list(header.sig_name or [])
        length, rate = int(header.sig_len or 0), float(header.fs)
        if not leads or length <= 0 or rate <= 0:
            raise ValueError("no signal or no sampling rate")
    except Exception as error:
        raise DataError(f"{stem}.hea: is not a readable WFDB header ({_reason(error)}).") from None
    channel = _channel(leads, data, f"{stem}.hea")
    try:
        signal = wfdb.rdrecord(stem, channels=[channel]).p_signal[:, 0].astype(np.float32)
    except Exception as error:
        raise DataError(
            f"{stem}.dat: does not hold the {length} samples its header promises ({_reason(error)})."
        ) from None
    if len(signal) != length:
        raise DataError(f"{stem}.dat: holds {len(signal)} samples, its header promises {length}.")
    try:
        annotation = wfdb.rdann(stem, "atr")
        samples, symbols = np.asarray(annotation.sample, np.int64), list(annotation.symbol)
    except Exception as error:
        raise DataError(f"{stem}.atr: is not a readable WFDB annotation file ({_reason(error)}).") from None
    beat = np.array([symbol in AAMI for symbol in symbols], bool)
    if not beat.any():
        raise DataError(f"{stem}.atr: has no annotated beat of the classes N, S, V, F, Q.")
    if samples[beat].min() < 0 or samples[beat].max() >= length:
        raise DataError(
            f"{stem}.atr: has beats outside the {length} samples of the signal; do the files belong together?"
        )
    if (np.diff(samples[beat]) < 0).any():
        raise DataError(f"{stem}.atr: its beats are not in order of time; is the file damaged?")
    if not np.isfinite(signal).any():
        raise DataError(f"{stem}.dat: every sample of lead {leads[channel]} is marked as lost.")
    if not np.isfinite(signal).all():
        # WFDB marks lost samples as NaN; the median keeps them from shifting the record's scale.
        signal = np.where(np.isfinite(signal), signal, np.nanmedian(signal)).astype(np.float32)
    sex, age = _person(header.comments or [])
    return Record(
        name=name,
        patient=MITDB_SAME_PATIENT.get(name, name) if data.source == "mitdb" else name,
        sex=sex,
        age=age,
        lead=leads[channel],
        sampling_rate=rate,
        signal=signal,
        peaks=samples[beat],
        symbols=tuple(symbol for symbol, is_beat in zip(symbols, beat, strict=True) if is_beat),
    )


def file_digests(folder: Path, names: Iterable[str], data: DataConfig) -> dict[str, str]:
    """File name -> SHA-256 of the files of the named records; MIT-BIH's are checked against PhysioNet's list.

    Raises:
        DataError: a file is missing or differs from the published one.
    """
    published = mitdb_digests() if data.source == "mitdb" else {}
    digests = {}
    for name in names:
        for suffix in SUFFIXES:
            path = folder / (name + suffix)
            try:
                with path.open("rb") as file:
                    digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror}); a record needs .hea, .dat and .atr."
                ) from None
            if published and digests[path.name] != published.get(path.name):
                raise DataError(
                    f"{path}: differs from MIT-BIH 1.0.0 (SHA-256); fetch it again or use data.source: folder."
                )
    return digests


def fetch_mitdb(
    folder: Path, url: str = MITDB_URL, progress: Callable[[str], None] = lambda text: None, timeout: float = 30.0
) -> int:
    """Downloads what is missing of MIT-BIH into `folder`; returns the number of files that had to be fetched.

    Each file is checked against its published SHA-256 and only then takes its name, so an interrupted fetch goes on
    where it stopped, inside a file too.

    Raises:
        DataError: the server cannot be reached, or what it sends is not the published file.
    """
    import requests

    digests = mitdb_digests()
    missing = [name for name in digests if not (folder / name).is_file()]
    if not missing:
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}).") from None
    with requests.Session() as session:
        for position, name in enumerate(missing):
            progress(f"{position}/{len(missing)} {name}")
            part = folder / (name + ".part")
            start = part.stat().st_size if part.exists() else 0
            headers = {"Range": f"bytes={start}-"} if start else {}
            try:
                with session.get(url + name, headers=headers, stream=True, timeout=timeout) as answer:
                    if answer.status_code == 416:  # nothing is left to send: the digest below decides
                        pass
                    else:
                        answer.raise_for_status()
                        with part.open("ab" if answer.status_code == 206 else "wb") as file:
                            for block in answer.iter_content(1 << 16):
                                file.write(block)
            except requests.RequestException as error:
                raise DataError(
                    f"{url}{name}: cannot be fetched ({type(error).__name__}); "
                    "set data.folder or PULSELEDGER_DATA to a copy of MIT-BIH."
                ) from None
            except OSError as error:
                raise DataError(f"{part}: cannot be stored ({error.strerror}).") from None
            if hashlib.sha256(part.read_bytes()).hexdigest() != digests[name]:
                part.unlink()
                raise DataError(f"{url}{name}: is not the published file (SHA-256 differs); it was thrown away.")
            part.replace(folder / name)
    progress(f"{len(missing)}/{len(missing)} done")
    return len(missing)


def _simulated(data: DataConfig) -> Path:
    from engine.data import simulate

    # The generator's source is part of the key: another generator writes other records.
    settings = data.simulated
    key = json_hash([settings.model_dump(mode="json"), simulate.source_digest()]).hex()[:16]
    folder = cache_folder() / "simulated" / key
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


def _checked_folder(folder: Path, key: str) -> Path:
    for candidate in (folder, folder / "mitdb"):
        if any(candidate.glob("*.hea")):
            return candidate
    problem = "holds no WFDB header (*.hea)" if folder.is_dir() else "is not a folder"
    raise DataError(f"{key}: {folder} {problem}; give a folder of .hea, .dat and .atr files.")


def _channel(leads: list[str], data: DataConfig, path: str) -> int:
    if isinstance(data.lead, int):
        if not 0 <= data.lead < len(leads):
            raise DataError(f"{path}: has no lead number {data.lead}; it has {len(leads)}: {', '.join(leads)}.")
        return data.lead
    for name in (data.lead, data.lead_fallback):
        if name in leads:
            return leads.index(name)
    wanted = data.lead if data.lead_fallback is None else f"{data.lead} or {data.lead_fallback}"
    raise DataError(f"{path}: has no lead {wanted}; it has {', '.join(leads)} (data.lead, data.lead_fallback).")


def _person(comments: list[str]) -> tuple[str, int]:
    # MIT-BIH: the first comment starts with "69 M"; an unknown age is written -1.
    words = comments[0].split() if comments else []
    sex = words[1] if len(words) > 1 and words[1] in ("M", "F") else ""
    try:
        return sex, int(words[0]) if words else -1
    except ValueError:
        return sex, -1


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "none"
