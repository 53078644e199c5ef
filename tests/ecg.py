"""Small WFDB records in any form: Gaussian beats at known places, nobody's data."""

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wfdb

WIDTHS = {"V": 0.045, "E": 0.045, "r": 0.045, "F": 0.03, "L": 0.03, "R": 0.028, "B": 0.03}  # s; others 0.012


def turn(name: str) -> float:
    """Where the slow wave of a record begins, in turns: no two records have the same signal."""
    return zlib.crc32(name.encode()) % 97 / 97


def wave(
    seconds: float, rate: float, times: Sequence[float], symbols: str | Sequence[str], shift: float = 0.0
) -> np.ndarray:
    """float64[samples], mV: an R wave of 1 mV at each time, upside down for V, and a T wave after it.

    Args:
        shift: of a slow wave of 0.01 mV below, in turns.
    """
    axis = np.arange(round(seconds * rate)) / rate
    signal = 0.01 * np.sin(2 * np.pi * (0.3 * axis + shift))
    for time, symbol in zip(times, symbols, strict=True):
        size = -1.5 if symbol == "V" else 1.0
        signal += size * np.exp(-0.5 * ((axis - time) / WIDTHS.get(symbol, 0.012)) ** 2)
        signal += 0.2 * np.exp(-0.5 * ((axis - time - 0.28) / 0.05) ** 2)
    return signal


def beat_times(seconds: float, interval: float = 0.8, first: float = 0.8) -> np.ndarray:
    """Times of a regular rhythm whose windows of up to half a second lie inside of the record."""
    return np.arange(first, seconds - 0.7, interval)


def write(
    folder: Path,
    name: str,
    seconds: float = 20.0,
    rate: float = 360,
    symbols: str | None = None,
    leads: Sequence[str | None] = ("MLII", "V1"),
    unit: str = "mV",
    annotator: str = "atr",
    interval: float = 0.8,
    format: str = "16",
    comments: Sequence[str] = (),
    lost: tuple[float, float] | None = None,
    annotations: tuple[Sequence[int], Sequence[str]] | None = None,
    annotation_rate: float | None = None,
    **header: Any,
) -> np.ndarray:
    """Writes a record and its annotations; returns the samples of its beats.

    Args:
        symbols: of the beats, again and again; default: every seventh is V.
        leads: their names; the second has 3/4 of the first's size, and so on.
        unit: the file's numbers are in it, the wave is the same in mV.
        lost: from and to in seconds, marked as lost.
        annotations: samples and symbols in place of the beats'.
        annotation_rate: the annotations' own time base.
        header: more of `wfdb.wrsamp`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    times = beat_times(seconds, interval)
    pattern = symbols or "NNNNNNV"
    beats = [pattern[i % len(pattern)] for i in range(len(times))]
    signal = wave(seconds, rate, times, beats, turn(name))
    if lost is not None:
        signal[round(lost[0] * rate) : round(lost[1] * rate)] = np.nan
    factor = {"mV": 1.0, "uV": 1e3, "V": 1e-3, "nV": 1e6}.get(unit, 1.0)
    names = [lead or f"x{i}" for i, lead in enumerate(leads)]
    wfdb.wrsamp(
        name, rate, [unit] * len(leads), names,
        p_signal=np.stack([signal * factor * 0.75**i for i in range(len(leads))], 1),
        fmt=["16" if format in PACK else format] * len(leads), comments=list(comments), write_dir=str(folder),
        adc_gain=[header.pop("gain", 1000.0) / factor] * len(leads), baseline=[0] * len(leads), **header,
    )  # fmt: skip
    if format in PACK:
        repack(folder, name, format)
    if None in leads:
        rewrite(folder / f"{name}.hea", lambda line: re.sub(r" x\d$", "", line))
    samples = np.rint(times * (annotation_rate or rate)).astype(np.int64)
    at, marks = (samples, beats) if annotations is None else (np.asarray(annotations[0]), list(annotations[1]))
    wfdb.wrann(name, annotator, at, list(marks), fs=annotation_rate, write_dir=str(folder))
    return np.rint(times * rate).astype(np.int64)


def _triplets(digital: np.ndarray) -> np.ndarray:
    """int[n, 3]: ten-bit samples by threes, the last filled up with zeros."""
    flat = np.concatenate([digital.ravel(), np.zeros(-digital.size % 3, digital.dtype)])
    return flat.reshape(-1, 3).astype(np.int64) & 0x3FF


def _format_310(digital: np.ndarray) -> bytes:
    a, b, c = _triplets(digital).T
    return np.stack([a << 1, (a >> 7) | (c << 3), b << 1, (b >> 7) | (c >> 5 << 3)], 1).astype("u1").tobytes()


def _format_311(digital: np.ndarray) -> bytes:
    a, b, c = _triplets(digital).T
    return (a | (b << 10) | (c << 20)).astype("<u4").tobytes()


# Formats that `wfdb` reads and does not write: int[samples, leads] -> bytes, after the manual's section "signal(5)".
PACK: dict[str, Callable[[np.ndarray], bytes]] = {
    "8": lambda digital: np.diff(digital, axis=0, prepend=digital[:1]).astype("i1").tobytes(),
    "61": lambda digital: digital.astype(">i2").tobytes(),
    "160": lambda digital: (digital + 32768).astype("<u2").tobytes(),
    "310": _format_310,
    "311": _format_311,
}


def repack(folder: Path, name: str, format: str) -> None:
    """Writes the signals of a record of format 16 in one of `PACK`."""
    digital = wfdb.rdrecord(str(folder / name), physical=False).d_signal
    (folder / f"{name}.dat").write_bytes(PACK[format](digital.astype(np.int64)))
    rewrite(folder / f"{name}.hea", lambda line: line.replace(".dat 16 ", f".dat {format} "))


def rewrite(path: Path, line_of: Callable[[str], str]) -> None:
    """Changes a header line by line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line_of(line) + "\n" for line in lines), encoding="utf-8")


def retell(path: Path, old: str, new: str) -> None:
    """Changes a text in a header, which must be in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
