"""One WFDB record: its input leads in mV at the wanted rate, and its annotated beats.

Nothing here knows of hospitals, patients or databases.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import signals
from engine.data.config import DataConfig
from engine.data.disk import annotators
from engine.data.headers import Header, Part, at_hand, find, read_header, reason
from engine.errors import DataError

YEARS = r"(?:\s*(?:y|yrs?|years?)(?:\s+old)?\b)?"
YOUNGER = r"\s*(?:hours?|days?|weeks?|wks?|months?|mos?)\b"
APART = 0.1  # seconds: no heart beats twice within; MIT-BIH's nearest beats have 0.25 s between them
MOST_MV = 1e9  # of a signal: raw numbers without a gain stay far below, and squares of it fit into float32
MOST_OUTSIDE = 0.05  # share of beats after the end of the signal from which on the files do not belong together


@dataclass(frozen=True)
class Entry:
    """A record on disk.

    Attributes:
        name: its path below the folder of all, without a suffix.
        channels: index of each input lead that `data.lead` or `data.leads` chooses.
        annotations: their file.
    """

    name: str
    header: Header
    channels: tuple[int, ...]
    annotations: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, each once."""
        return (*self.header.files, self.annotations)


@dataclass(frozen=True)
class Record:
    """One recording.

    Attributes:
        name: record name, such as "100".
        sex: "M", "F" or "" when the header does not say.
        age: years, or -1 when the header does not say.
        leads: names of the leads that were read; "lead 0" where the header has no name.
        sampling_rate: Hz, of `signal` and `peaks`.
        native_rate: Hz, of the file.
        signal: float32[leads, samples], mV where the header's unit is a voltage; NaN where samples are lost.
        kinds: int8[leads, samples], what each sample is; see `signals.quality`.
        peaks: int64[beats], sample of each annotated beat, rising; beats after the end of the signal are kept.
        symbols: annotation symbol of each beat; "" where a beat has annotations of contradicting classes.
        others: annotation symbol -> number of annotations that are no beats.
        doubled: annotations of beats that were annotated already, at the same sample or up to `APART` before.
    """

    name: str
    sex: str
    age: int
    leads: tuple[str, ...]
    sampling_rate: float
    native_rate: float
    signal: np.ndarray
    kinds: np.ndarray
    peaks: np.ndarray
    symbols: tuple[str, ...]
    others: Mapping[str, int] = field(default_factory=dict)
    doubled: int = 0


def open_record(name: str, header: Path, data: DataConfig) -> Entry:
    """Finds the files of a record, reads its header and chooses its leads.

    Raises:
        DataError: a file is missing, the header is none, or a lead is not there.
    """
    if not header.is_file():
        raise DataError(f"{header}: is missing; a record needs a header, signals and annotations.")
    read = read_header(header)
    notes = find(header.parent, f"{header.stem}.{data.annotator}")
    if notes is None:
        there = annotators(header)
        hint = f"there are {', '.join(there)} (data.annotator)" if there else "a record needs them"
        raise DataError(f"{header.with_suffix('.' + data.annotator)}: is missing, which holds the annotations; {hint}.")
    return Entry(name, read, choose(read, data.inputs), notes)


def read_record(entry: Entry, data: DataConfig) -> Record:
    """Reads a record with the `wfdb` package.

    Raises:
        DataError: a file is damaged, or no beat is annotated.
    """
    header = entry.header
    read = [_lead(header, channel, data) for channel in entry.channels]
    signal, kinds = (np.stack(parts) for parts in zip(*read, strict=True))
    scale = 1.0 if data.rate is None else float(signals.ratio(header.rate, data.rate))
    sex, age = person(header.comments)
    return Record(
        name=entry.name,
        sex=sex,
        age=age,
        leads=tuple(_name(header, channel) for channel in entry.channels),
        sampling_rate=data.rate or header.rate,
        native_rate=header.rate,
        signal=signal,
        kinds=kinds,
        **_beats(entry, data, scale, signal.shape[1]),
    )


def _lead(header: Header, channel: int, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """One lead in mV at the wanted rate, NaN where it is lost: float32[samples]; and what each sample is: int8[samples]."""
    signal, unit = _signal(header, channel, data)
    kinds = signals.quality(signal, header.rate)
    if (kinds == signals.LOST).all():
        raise DataError(f"{header.path}: every sample of lead {_name(header, channel)} is marked as lost.")
    try:
        if data.filter.band is not None or data.filter.notch is not None:
            signal = signals.filtered(signals.bridged(signal, kinds), header.rate, data.filter)
        if data.rate is not None and data.rate != header.rate:
            by = signals.ratio(header.rate, data.rate)
            signal = signals.resampled(signals.bridged(signal, kinds), by)
            kinds = signals.resampled_kinds(kinds, by, len(signal))
    except DataError as error:
        raise DataError(f"{header.path}: {error}.") from None
    if unit != 1.0:
        signal = signal * unit
    highest = float(np.abs(signal[kinds != signals.LOST]).max())
    if not highest <= MOST_MV:  # numbers that float32, or their variance in it, cannot hold
        raise DataError(
            f"{header.path}: lead {_name(header, channel)} reaches {highest:.3g} mV, more than {MOST_MV:g}; its gain or unit in the "
            "header is wrong."
        )
    lead = signal.astype(np.float32)
    if (kinds == signals.LOST).any():
        lead[kinds == signals.LOST] = np.nan
    return lead, kinds


# --- Leads ------------------------------------------------------------------------------------------------------------


def choose(header: Header, inputs: Sequence[Sequence[str | int]]) -> tuple[int, ...]:
    """For each input the index of the first of its leads that the record has, and that no input before took.

    Raises:
        DataError: it has none of them.
    """
    taken: list[int] = []
    for wanted in inputs:
        there = [found for lead in wanted if (found := _find(header, lead, taken)) is not None]
        if not there:
            raise DataError(_no_lead(header, wanted, taken, "data.lead" if len(inputs) == 1 else "data.leads"))
        taken.append(there[0])
    return tuple(taken)


def _find(header: Header, wanted: str | int, taken: Sequence[int]) -> int | None:
    leads = header.leads
    if isinstance(wanted, int):
        return wanted if 0 <= wanted < len(leads) and wanted not in taken else None
    exact = [i for i, name in enumerate(leads) if name == wanted and i not in taken]
    alike = [i for i, name in enumerate(leads) if name and same_lead(name) == same_lead(wanted) and i not in taken]
    return next(iter((*exact, *alike)), None)


def _no_lead(header: Header, wanted: Sequence[str | int], taken: Sequence[int], key: str) -> str:
    leads = header.leads
    names = [name for name in leads if name]
    besides = f" besides {' and '.join(_name(header, i) for i in taken)}" if taken else ""
    if len(wanted) == 1 and isinstance(wanted[0], int):
        count = f"{len(leads)}: {', '.join(names)}" if names else str(len(leads))
        return f"{header.path}: has no lead number {wanted[0]}{besides}; it has {count} ({key})."
    wanted_names = " or ".join(f"number {w}" if isinstance(w, int) else w for w in wanted)
    has = f"it has {', '.join(names)} ({key})" if names else None
    unnamed = f"its {len(leads)} leads have no names: give {key} a number from 0"
    return f"{header.path}: has no lead {wanted_names}{besides}; {has or unnamed}."


def _name(header: Header, channel: int) -> str:
    return header.leads[channel] or f"lead {channel}"


def same_lead(name: str) -> str:
    """One name for the ways in which a lead is written: MLII, ML2, "Lead II", "ECG lead 2" and ii are "ii".

    "ECG 2" is not: it is the second channel of some device.
    """
    found = re.match(r"(?:ecg[\s_-]+(?=\D))?(lead[\s_-]*)?(.*)", name.strip().lower(), re.DOTALL)
    assert found is not None  # all of it may be empty
    digits = {"1": "i", "2": "ii", "3": "iii"} if found[1] else {}
    short = re.sub(r"[\s_-]", "", found[2])
    modified = {"ml1": "i", "mli": "i", "ml2": "ii", "mlii": "ii", "ml3": "iii", "mliii": "iii"}
    return modified.get(short) or digits.get(short) or short


# --- Signal -----------------------------------------------------------------------------------------------------------


def _signal(header: Header, channel: int, data: DataConfig) -> tuple[np.ndarray, float]:
    """float64[samples] of one lead in the header's unit, NaN where lost; and the factor to mV."""
    lead, units, pieces = header.leads[channel], set(), []
    for part in header.parts:
        at = [i for i, s in enumerate(part.signals) if s.lead == lead] if lead else []
        if (not lead and channel < len(part.signals)) or (lead and channel in at):
            at = [channel]
        if not at:
            pieces.append(np.full(part.length, np.nan))
            continue
        units.add(part.signals[at[0]].unit)
        pieces.append(_samples(part, at[0]))
    if len(units) != 1:
        raise DataError(f"{header.path}: lead {lead} has no one unit but {', '.join(sorted(units)) or 'none'}.")
    unit = units.pop()
    factor = signals.millivolts(unit)
    if factor is None and data.normalise == "none":
        raise DataError(
            f"{header.path}: lead {lead or channel} is in {unit}, which is no voltage, and data.normalise: none keeps mV."
        )
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), 1.0 if factor is None else factor


def _samples(part: Part, channel: int) -> np.ndarray:
    import wfdb

    assert part.header is not None
    signal = part.signals[channel]
    files = [(f"{part.header.stem}.hea", part.header), *((s.name, s.file) for s in part.signals)]
    try:
        with at_hand(list(dict.fromkeys(files)), part) as folder:
            record = wfdb.rdrecord(
                str(folder / part.header.stem), channels=[channel], smooth_frames=signal.per_frame == 1
            )
        if signal.per_frame == 1:
            values = record.p_signal[:, 0]
        else:  # the mean of a frame, lost if any of its samples is
            values = np.asarray(record.e_p_signal[0], np.float64).reshape(-1, signal.per_frame).mean(1)
        if signal.skew:
            values = values.copy()
            values[len(values) - signal.skew :] = np.nan
    except Exception as error:
        raise DataError(
            f"{signal.file}: does not hold the {part.length} samples its header promises ({reason(error)})."
        ) from None
    if len(values) < part.length:
        raise DataError(f"{signal.file}: holds {len(values)} samples, its header promises {part.length}.")
    return values[: part.length]


# --- Annotations ------------------------------------------------------------------------------------------------------


def _beats(entry: Entry, data: DataConfig, scale: float, length: int) -> dict[str, Any]:
    """The fields of a `Record` that come out of its annotations; `scale` samples for each of the header's."""
    at, symbols = _annotations(entry)
    peaks = np.rint(at * scale).astype(np.int64)
    beat = np.array([data.is_beat(symbol) for symbol in symbols], bool)
    if not beat.any():
        raise DataError(f"{entry.annotations}: has no annotated beat of the classes {', '.join(data.labels)}.")
    others = Counter(symbol for symbol, is_beat in zip(symbols, beat, strict=True) if not is_beat)
    peaks, symbols = peaks[beat], [symbol for symbol, is_beat in zip(symbols, beat, strict=True) if is_beat]
    outside = int(((peaks < 0) | (peaks >= length)).sum())
    if outside > max(1, MOST_OUTSIDE * len(peaks)):
        raise DataError(
            f"{entry.annotations}: has {outside} of {len(peaks)} beats outside the {length} samples of the signal; "
            "do the files belong together?"
        )
    if (np.diff(peaks) < 0).any():
        raise DataError(f"{entry.annotations}: its beats are not in order of time; is the file damaged?")
    once, kept = merged(peaks, symbols, math.ceil(APART * entry.header.rate * scale), data)
    return {"peaks": once, "symbols": kept, "others": dict(others), "doubled": len(peaks) - len(once)}


def _annotations(entry: Entry) -> tuple[np.ndarray, list[str]]:
    """float64[annotations] in frames of the header, and their symbols. A file may have a time base of its own."""
    import wfdb

    path, header = entry.annotations, entry.header
    suffix = path.suffix[1:]
    try:
        with at_hand([(f"{path.stem}.{suffix}", path), (f"{path.stem}.hea", header.path)]) as folder:
            annotation = wfdb.rdann(str(folder / path.stem), suffix)
        rate = header.rate if annotation.fs is None else float(annotation.fs)
        if not 0 < rate < 1e6:
            raise ValueError(f"its time resolution is {rate:g} a second")
        samples = np.asarray(annotation.sample, np.int64).astype(np.float64)
        symbols = [symbol if isinstance(symbol, str) else "unknown" for symbol in annotation.symbol]
    except Exception as error:
        raise DataError(f"{path}: is not a readable WFDB annotation file ({reason(error)}).") from None
    return samples if rate == header.rate else samples * (header.rate / rate), symbols


def merged(
    peaks: np.ndarray, symbols: Sequence[str], apart: int, data: DataConfig
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One beat for annotations less than `apart` samples after its first: of one class, or without a symbol.

    Returns:
        int64[beats], rising, and the symbol of each; "" where the classes contradict each other.
    """
    if (np.diff(peaks) >= apart).all():
        return peaks, tuple(symbols)
    first = [0]
    for i, peak in enumerate(peaks.tolist()):
        if peak - peaks[first[-1]] >= apart:
            first.append(i)
    kept = []
    for start, end in zip(first, [*first[1:], len(peaks)], strict=True):
        classes = {data.class_of(symbol) for symbol in symbols[start:end]}
        kept.append(symbols[start] if len(classes) == 1 else "")
    return peaks[first], tuple(kept)


# --- Person -----------------------------------------------------------------------------------------------------------


def person(comments: Sequence[str]) -> tuple[str, int]:
    """Sex ("M", "F" or "") and age (years, or -1) as headers give them; what is not clear is not known.

    MIT-BIH begins its first comment with "69 M" (-1 for an unknown age); others write "Age: 63  Sex: M",
    "<age>: 65 <sex>: F", or a line for each. 89+ is 89. An age in months, weeks or days is not known.
    """
    text = "\n".join(comments)
    begins = re.match(rf"\s*(-?\d{{1,3}})\+?{YEARS}(?:\s+([MF])\b|\s*$)", comments[0]) if comments else None
    age = re.search(rf"\bage(?:>|\s*\(years\))?\s*[:=]\s*(-?\d{{1,3}})\b(?!{YOUNGER})", text, re.IGNORECASE)
    sex = re.search(r"\b(?:sex|gender)>?\s*[:=]\s*(m|f|male|female)\b", text, re.IGNORECASE)
    years = int(age[1]) if age else int(begins[1]) if begins else -1
    letter = sex[1][0].upper() if sex else (begins[2] or "") if begins else ""
    return letter, years if 0 <= years <= 120 else -1
