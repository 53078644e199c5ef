"""Simulated two-lead ECG records with beat annotations, written as ordinary WFDB files.

The records stand in for the MIT-BIH Arrhythmia Database where that cannot be had: same sampling rate, lead names,
annotation symbols and header style, but no person's data. Each wave of a heart beat is a Gaussian (here with its own
width on each side) and a beat is their sum, after McSharry, Clifford, Tarassenko and Smith, "A dynamical model for
generating synthetic electrocardiogram signals", IEEE Trans. Biomed. Eng. 50(3), 2003, doi 10.1109/TBME.2003.808805.
Their sum is evaluated directly over time instead of integrating their differential equation, which gives the same
shapes faster. Their respiratory and low-frequency (Mayer wave) modulations drive the heart rate.

Beat classes follow ANSI/AAMI EC57: N (symbols N, L, R), S (A), V (V), F (F), Q (/ and rarely Q).

Every patient depends on the seed and on the patient's own number only, never on how many patients are asked for.
"""

import contextlib
import hashlib
import math
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data import patients as people
from engine.data import rhythm as hearts
from engine.data.patients import (
    AMPLITUDE_1,
    AMPLITUDE_2,
    FOCUS_A,
    FOCUS_B,
    OFFSET,
    QRS_1,
    SIGMA_LEFT,
    SIGMA_RIGHT,
    WAVE_P,
    WAVE_T,
    FloatArray,
    Patient,
    draw_patient,
)
from engine.data.rhythm import Rhythm, draw_rhythm, wander
from engine.errors import DataError

IntArray = NDArray[np.int64]

LEADS = ("MLII", "V1")
ADC_GAIN = 1000.0  # ADC units per mV; 16 bits then span +-32 mV, so that no artefact can overflow
MAX_MINUTES = 60.0
NOBODY = "No person's data: sum-of-Gaussians model"


def write_records(folder: Path, patients: int, seed: int, minutes: float = 10.0, sampling_rate: int = 360) -> list[str]:
    """Write one simulated WFDB record (.hea, .dat in 16-bit format, .atr) for each patient into a new folder.

    The files are written beside the folder and moved there at the end, so the folder is whole or absent.

    Args:
        folder: where to; must be absent or empty. Missing parents are made.
        patients: number of records, from 1; 8 or more hold all five AAMI classes.
        seed: whole number from 0; with the patient's number it fixes every byte of a record.
        minutes: length of each record, 0.5 to 60.
        sampling_rate: Hz, whole number from 125 to 2000.

    Returns:
        Record names in order: "s001", "s002", ...

    Raises:
        ValueError: an argument is out of range.
        DataError: the folder holds something already or is a file.
    """
    check_arguments(patients, seed, minutes, sampling_rate)
    with new_folder(folder) as partial:
        return [
            _write_patient(partial, number, int(seed), float(minutes), int(sampling_rate))
            for number in range(1, patients + 1)
        ]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write records into, which takes the place of `folder` when all of them are there.

    Raises:
        DataError: the folder holds something already or is a file.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder, so no simulated records are written there.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(folder)  # replaces an empty folder, fails on one that another process filled meanwhile
        except OSError as error:
            raise DataError(f"{folder} could not be put in place: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def source_digest() -> str:
    """SHA-256 in hex of the code that, with its arguments, fixes every byte of the records."""
    sources = (Path(str(module)).read_bytes() for module in (people.__file__, hearts.__file__, __file__))
    return hashlib.sha256(b"".join(sources)).hexdigest()


def check_arguments(patients: int, seed: int, minutes: float, sampling_rate: int) -> None:
    """Raises ValueError for an argument of `write_records` that is out of range."""
    for name, value, low, high in (
        ("patients", patients, 1, 9999),
        ("seed", seed, 0, None),
        ("sampling_rate", sampling_rate, 125, 2000),
    ):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            allowed = f"from {low} up" if high is None else f"from {low} to {high}"
            raise ValueError(f"{name} must be a whole number {allowed}, not {value!r}.")
    number = isinstance(minutes, (int, float, np.integer, np.floating)) and not isinstance(minutes, bool)
    if not number or not 0.5 <= minutes <= MAX_MINUTES:
        raise ValueError(f"minutes must be a number from 0.5 to {MAX_MINUTES:g}, not {minutes!r}.")


@dataclass(frozen=True)
class Recording:
    """What a recorder saw of one patient.

    Attributes:
        signal: float64[samples, 2], mV.
        marks: int64[annotations], the rhythm's note and then each beat, as an annotator would place them.
        symbols, notes: of each annotation.
    """

    patient: Patient
    signal: FloatArray
    marks: IntArray
    symbols: list[str]
    notes: list[str]


def record(number: int, seed: int, minutes: float, sampling_rate: int, again: int = 0) -> Recording:
    """Simulate patient `number` (from 1); `again` counts further recordings of the same patient."""
    # Separate streams: the traits of a patient do not change with the length of the record.
    traits, *streams = np.random.SeedSequence([seed, number]).spawn(4)
    if again:
        streams = np.random.SeedSequence([seed, number, again]).spawn(3)
    beats, waves, noise = (np.random.default_rng(child) for child in streams)
    patient = draw_patient(number, np.random.default_rng(traits))
    samples = round(minutes * 60.0 * sampling_rate)
    duration = samples / sampling_rate
    rhythm = draw_rhythm(patient, duration, beats)
    signal = _draw_waves(patient, rhythm, samples, sampling_rate, waves)
    signal += _draw_disturbances(patient, samples, sampling_rate, noise)
    # Whoever annotates by hand does not hit the peak to the sample.
    marked = np.rint((np.array(rhythm.times) + beats.normal(0.0, 0.003, len(rhythm.times))) * sampling_rate)
    rhythm_note = "(AFIB" if patient.kind.fibrillation else "(P" if patient.kind.paced_share else "(N"
    return Recording(
        patient,
        signal,
        np.concatenate(([int(0.05 * sampling_rate)], marked.astype(np.int64))),
        ["+", *rhythm.symbols],
        [rhythm_note, *[""] * len(rhythm.symbols)],
    )


def write_recording(
    folder: Path,
    name: str,
    recording: Recording,
    signal: FloatArray,
    leads: Sequence[str],
    sampling_rate: int,
    gain: float,
    comments: Sequence[str],
) -> None:
    """Write the three files of a record: `signal` float64[samples, leads] in mV, `gain` ADC units a mV."""
    import wfdb

    digital = np.clip(np.rint(signal * gain), -32767, 32767).astype(np.int64)  # -32768 would mean "missing"
    wfdb.wrsamp(
        name,
        fs=sampling_rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        d_signal=digital,
        fmt=["16"] * len(leads),
        adc_gain=[gain] * len(leads),
        baseline=[0] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
    )
    wfdb.wrann(
        name,
        "atr",
        sample=recording.marks,
        symbol=recording.symbols,
        aux_note=recording.notes,
        write_dir=str(folder),
    )


def _write_patient(folder: Path, number: int, seed: int, minutes: float, sampling_rate: int) -> str:
    """Simulate patient `number` (from 1) and write its three files; returns the record name."""
    made = record(number, seed, minutes, sampling_rate)
    name = f"s{number:03d}"
    said = [f"{made.patient.age} {made.patient.sex} simulated", NOBODY]
    write_recording(folder, name, made, made.signal, LEADS, sampling_rate, ADC_GAIN, said)
    return name


def _draw_waves(
    patient: Patient, rhythm: Rhythm, samples: int, sampling_rate: int, rng: np.random.Generator
) -> FloatArray:
    """Draw all wave groups of a rhythm: shape (samples, 2), mV.

    Each group varies a little on its own and slowly with time: size, electrical axis, QRS width and T wave drift,
    so that the end of a record differs from its start.
    """
    groups = np.array(rhythm.groups, dtype=np.float64).reshape(-1, 6)
    time, weight, p_scale, p_shift, before = (groups[:, column] for column in (0, 2, 3, 4, 5))
    rows = groups[:, 1].astype(np.int64)
    count = len(groups)
    duration = samples / sampling_rate
    waves = patient.shapes[rows].copy()  # (groups, 7 waves, 5 columns)
    ectopic = np.isin(rows, (FOCUS_A, FOCUS_B))

    trend = np.clip(time / duration, 0.0, 1.0)
    slow = [wander(duration, max(duration / 4, 15.0), rng)(np.clip(time, 0.0, duration)) for _ in range(4)]
    lean = rng.uniform(-1.0, 1.0, 4)
    breath = np.sin(2.0 * np.pi * patient.breath_hz * time)
    scatter = np.where(ectopic, 0.17, 0.07)
    gain = weight * np.exp(0.10 * slow[0] + 0.25 * lean[0] * trend + 0.04 * breath + scatter * rng.normal(size=count))
    angle = 0.12 * slow[1] + 0.60 * lean[1] * trend + 0.04 * breath + 0.5 * scatter * rng.normal(size=count)
    stretch = np.exp(0.04 * slow[2] + 0.10 * lean[2] * trend + 0.6 * scatter * rng.normal(size=count))

    first, second = waves[..., AMPLITUDE_1].copy(), waves[..., AMPLITUDE_2].copy()
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    waves[..., AMPLITUDE_1] = (cosine * first - sine * second) * gain[:, None]
    waves[..., AMPLITUDE_2] = (sine * first + cosine * second) * gain[:, None]
    waves[:, QRS_1:WAVE_T, OFFSET] *= stretch[:, None]
    waves[:, QRS_1:WAVE_T, SIGMA_LEFT:] *= stretch[:, None, None]
    small = rng.normal(1.0, 0.08, (count, 7))
    waves[..., AMPLITUDE_1:SIGMA_LEFT] *= small[..., None]

    waves[:, WAVE_P, AMPLITUDE_1:SIGMA_LEFT] *= (p_scale * rng.normal(1.0, 0.15, count))[:, None]
    waves[:, WAVE_P, OFFSET] += p_shift + rng.normal(0.0, 0.005, count)
    # The QT interval shortens with the square root of the preceding interval (Bazett).
    waves[:, WAVE_T, OFFSET] *= np.clip(np.sqrt(before / 0.8), 0.78, 1.2)
    waves[:, WAVE_T, AMPLITUDE_1:SIGMA_LEFT] *= np.exp(0.2 * slow[3] + 0.5 * lean[3] * trend)[:, None]

    signal = np.zeros((samples, len(LEADS)))
    for wave in range(waves.shape[1]):
        used = np.abs(waves[:, wave, AMPLITUDE_1:SIGMA_LEFT]).max(axis=1, initial=0.0) > 0.0
        if used.any():
            signal += _gaussians(time[used], waves[used, wave], samples, sampling_rate)
    if patient.kind.fibrillation:
        signal += _fibrillation(samples, sampling_rate, rng)
    return signal


def _gaussians(time: FloatArray, waves: FloatArray, samples: int, sampling_rate: int) -> FloatArray:
    """Sum two-sided Gaussians: `time` (n,) in s and `waves` (n, 5 columns) give a signal (samples, 2) in mV."""
    centre = time + waves[:, OFFSET]
    reach = math.ceil(4.0 * float(waves[:, SIGMA_LEFT:].max()) * sampling_rate) + 1
    index: IntArray = np.rint(centre * sampling_rate).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    away = index / sampling_rate - centre[:, None]
    sigma = np.where(away < 0.0, waves[:, SIGMA_LEFT, None], waves[:, SIGMA_RIGHT, None])
    bell = np.exp(-0.5 * (away / sigma) ** 2)
    inside = (index >= 0) & (index < samples)
    place = index[inside]
    return np.stack(
        [
            np.bincount(place, weights=(waves[:, column, None] * bell)[inside], minlength=samples)
            for column in (AMPLITUDE_1, AMPLITUDE_2)
        ],
        axis=1,
    )


def _fibrillation(samples: int, sampling_rate: int, rng: np.random.Generator) -> FloatArray:
    """Draw the small waves of atrial fibrillation, 5 to 8 Hz with a wandering rate: shape (samples, 2), mV."""
    time = np.arange(samples) / sampling_rate
    duration = samples / sampling_rate
    frequency = rng.uniform(5.5, 7.5) + 0.8 * wander(duration, 1.5, rng)(time)
    phase = 2.0 * np.pi * np.cumsum(frequency) / sampling_rate
    size = 1.0 + 0.5 * wander(duration, 2.0, rng)(time)
    return np.stack([0.03 * size * np.sin(phase), 0.05 * size * np.sin(phase + 0.7)], axis=1)


def _draw_disturbances(patient: Patient, samples: int, sampling_rate: int, rng: np.random.Generator) -> FloatArray:
    """Draw what a worn recorder adds: shape (samples, 2), mV.

    Baseline wander with breathing and without, mains hum, a noise floor, bursts of muscle noise, and electrode
    motion (a jump that dies away).
    """
    time = np.arange(samples) / sampling_rate
    duration = samples / sampling_rate
    level = patient.noise
    breath = np.sin(2.0 * np.pi * patient.breath_hz * time)
    hum = np.sin(2.0 * np.pi * 60.0 * time + rng.uniform(0.0, 6.28)) * (1.0 + 0.5 * wander(duration, 8.0, rng)(time))
    white = rng.standard_normal((samples, len(LEADS)))
    signal = 0.020 * level * white
    for lead in range(len(LEADS)):
        signal[:, lead] += 0.10 * level * wander(duration, 2.2, rng)(time)
        signal[:, lead] += rng.uniform(0.01, 0.08) * level * breath + rng.uniform(0.002, 0.012) * level * hum

    # A difference of white noise has its power at high frequencies, as muscle noise has.
    rough = np.diff(rng.standard_normal((samples + 1, len(LEADS))), axis=0) * 0.5 + 0.4 * white
    for _ in range(int(rng.poisson(1.6 * level * duration / 60.0))):
        start = int(rng.integers(0, samples))
        stop = min(samples, start + int(rng.uniform(1.0, 7.0) * sampling_rate))
        strength = rng.uniform(0.04, 0.18, len(LEADS))
        signal[start:stop] += np.hanning(stop - start)[:, None] * strength * rough[start:stop]
    for _ in range(int(rng.poisson(2.0 * level * duration / 60.0))):
        start = int(rng.integers(0, samples))
        stop = min(samples, start + 4 * sampling_rate)
        since = time[: stop - start]
        course = np.exp(-since / rng.uniform(0.15, 0.9)) * (1.0 - np.exp(-since / rng.uniform(0.004, 0.08)))
        signal[start:stop] += course[:, None] * rng.normal(0.0, 0.45, len(LEADS))
    return signal
