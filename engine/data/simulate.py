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

from __future__ import annotations

import math
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from engine.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEADS = ("MLII", "V1")
ADC_GAIN = 1000.0  # ADC units per mV; 16 bits then span +-32 mV, so that no artefact can overflow
MAX_MINUTES = 60.0

# Rows of a patient's bank of beat shapes.
NORMAL, BLOCK, ABERRANT, FOCUS_A, FOCUS_B, PACED, LONE_P = range(7)
# Waves of one shape. The QRS complex has up to four; a wide one uses them differently from a narrow one.
WAVE_P, QRS_1, QRS_2, QRS_3, QRS_4, WAVE_T, SPIKE = range(7)
# Columns of one wave.
OFFSET, AMPLITUDE_1, AMPLITUDE_2, SIGMA_LEFT, SIGMA_RIGHT = range(5)

MIN_RR = 0.28  # s; no two beats lie closer than the refractory period allows


@dataclass(frozen=True)
class Kind:
    """What sort of patient: rates are probabilities per beat, before the patient's own factor."""

    atrial: float = 0.004
    ventricular: float = 0.006
    fusion: float = 0.0
    block: str = ""  # "L" or "R": bundle branch that conducts late
    block_share: float = 0.0  # share of the time during which it does
    paced_share: float = 0.0  # share of the time during which the pacemaker works
    fibrillation: bool = False  # no P wave, irregular intervals
    sinus_arrhythmia: bool = False  # breathing moves the heart rate far
    bigeminy: float = 0.0  # probability that a V beat starts a run of N-V pairs
    aberrancy: float = 0.15  # probability that an S beat is conducted wide


# Fixed order, so that few patients already hold every class: S and V from 2 on, all five from 7 on.
SCHEDULE = (
    Kind(ventricular=0.20, bigeminy=0.03),
    Kind(atrial=0.23, ventricular=0.015, aberrancy=0.25),
    Kind(sinus_arrhythmia=True, atrial=0.012),
    Kind(block="L", block_share=0.75, ventricular=0.10, atrial=0.015),
    Kind(fusion=0.21, ventricular=0.16),
    Kind(),
    Kind(paced_share=0.74, ventricular=0.02),
    Kind(ventricular=0.18, fusion=0.03, bigeminy=0.06, atrial=0.02),
    Kind(fibrillation=True, atrial=0.0, ventricular=0.03),
    Kind(block="R", block_share=0.85, atrial=0.17, ventricular=0.02),
    Kind(ventricular=0.02),
    Kind(atrial=0.06, ventricular=0.09, fusion=0.01, sinus_arrhythmia=True),
)


@dataclass(frozen=True)
class Patient:
    """The lasting traits of one simulated patient; `shapes` has shape (7 shapes, 7 waves, 5 columns), s and mV."""

    kind: Kind
    age: int
    sex: str
    rr: float  # s, mean interval
    breath_hz: float
    breath_depth: float  # relative change of the interval with breathing
    mayer_depth: float
    jitter: float  # relative change from beat to beat
    rate: float  # factor on the kind's ectopic rates
    s_coupling: float  # mean interval before an S beat, relative
    v_coupling: float
    s_p_scale: float  # P wave of S beats relative to the patient's own; below 0 is inverted
    s_p_shift: float  # s
    fusion_mix: float  # mean share of the V shape in F beats
    pace_rr: float  # s
    noise: float  # factor on all disturbances
    shapes: FloatArray


@dataclass
class Rhythm:
    """Beats in time order, and the wave groups that draw them (one or more for each beat), as growing lists."""

    times: list[float]
    symbols: list[str]
    # (time s, row of the shape bank, weight, scale of P, shift of P in s, preceding interval s)
    groups: list[tuple[float, int, float, float, float, float]]


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
    _check_arguments(patients, seed, minutes, sampling_rate)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder, so no simulated records are written there.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    partial.mkdir()
    try:
        names = [
            _write_patient(partial, number, int(seed), float(minutes), int(sampling_rate))
            for number in range(1, patients + 1)
        ]
        try:
            partial.rename(folder)  # replaces an empty folder, fails on one that another process filled meanwhile
        except OSError as error:
            raise DataError(f"{folder} could not be put in place: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def _check_arguments(patients: int, seed: int, minutes: float, sampling_rate: int) -> None:
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


def _write_patient(folder: Path, number: int, seed: int, minutes: float, sampling_rate: int) -> str:
    """Simulate patient `number` (from 1) and write its three files; returns the record name."""
    # Separate streams: the traits of a patient do not change with the length of the record.
    traits, beats, waves, noise = (
        np.random.default_rng(child) for child in np.random.SeedSequence([seed, number]).spawn(4)
    )
    patient = _draw_patient(number, traits)
    samples = round(minutes * 60.0 * sampling_rate)
    duration = samples / sampling_rate
    rhythm = _draw_rhythm(patient, duration, beats)
    signal = _draw_waves(patient, rhythm, samples, sampling_rate, waves)
    signal += _draw_disturbances(patient, samples, sampling_rate, noise)

    name = f"s{number:03d}"
    digital = np.clip(np.rint(signal * ADC_GAIN), -32767, 32767).astype(np.int64)  # -32768 would mean "missing"
    wfdb.wrsamp(
        name,
        fs=sampling_rate,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        d_signal=digital,
        fmt=["16"] * len(LEADS),
        adc_gain=[ADC_GAIN] * len(LEADS),
        baseline=[0] * len(LEADS),
        comments=[f"{patient.age} {patient.sex} simulated", "No person's data: sum-of-Gaussians model"],
        write_dir=str(folder),
    )
    # Whoever annotates by hand does not hit the peak to the sample.
    marked = np.rint((np.array(rhythm.times) + beats.normal(0.0, 0.003, len(rhythm.times))) * sampling_rate)
    first = int(0.05 * sampling_rate)
    rhythm_note = "(AFIB" if patient.kind.fibrillation else "(P" if patient.kind.paced_share else "(N"
    wfdb.wrann(
        name,
        "atr",
        sample=np.concatenate(([first], marked.astype(np.int64))),
        symbol=["+", *rhythm.symbols],
        aux_note=[rhythm_note, *[""] * len(rhythm.symbols)],
        write_dir=str(folder),
    )
    return name


def _draw_patient(number: int, rng: np.random.Generator) -> Patient:
    """Draw the lasting traits of patient `number` (from 1)."""
    kind = SCHEDULE[(number - 1) % len(SCHEDULE)]
    rr = rng.uniform(0.68, 0.98)
    breath_depth = rng.uniform(0.09, 0.15) if kind.sinus_arrhythmia else rng.uniform(0.015, 0.06)
    return Patient(
        kind=kind,
        age=int(rng.integers(23, 90)),
        sex="F" if rng.random() < 0.5 else "M",
        rr=rr,
        breath_hz=rng.uniform(0.2, 0.3),
        breath_depth=breath_depth,
        mayer_depth=rng.uniform(0.01, 0.04),
        jitter=rng.uniform(0.17, 0.21) if kind.fibrillation else rng.uniform(0.01, 0.04),
        rate=float(np.exp(rng.normal(0.0, 0.2))),
        s_coupling=rng.uniform(0.72, 0.86),
        v_coupling=rng.uniform(0.60, 0.75),
        s_p_scale=float(rng.choice([-0.6, 0.15, 0.8])) * rng.uniform(0.8, 1.2),
        s_p_shift=rng.uniform(-0.005, 0.04),
        fusion_mix=rng.uniform(0.42, 0.58),
        pace_rr=rng.uniform(0.80, 0.90),
        noise=float(np.exp(rng.normal(0.0, 0.35))),
        shapes=_draw_shapes(kind, rng),
    )


def _draw_shapes(kind: Kind, rng: np.random.Generator) -> FloatArray:
    """Draw a patient's bank of beat shapes: (7 shapes, 7 waves, 5 columns), seconds and mV.

    A V beat starts in one chamber and crosses to the other slowly, much as after a bundle branch block, so foci,
    blocks and aberrant beats all come from `_wide_qrs`: only the patient tells one's V from another's L or R.
    """
    shapes = np.zeros((7, 7, 5))
    shapes[..., SIGMA_LEFT:] = 0.02  # absent waves keep amplitude 0 and any width that is not 0
    p_wave = (
        -0.165 + rng.normal(0.0, 0.014),
        max(0.03, rng.normal(0.12, 0.04)),
        rng.normal(0.05, 0.04),
        rng.uniform(0.018, 0.026),
        rng.uniform(0.016, 0.024),
    )
    if kind.fibrillation:
        p_wave = (p_wave[0], 0.0, 0.0, *p_wave[3:])
    width = rng.uniform(0.85, 1.25)
    size = rng.uniform(0.7, 1.35)
    narrow = shapes[NORMAL]
    narrow[WAVE_P] = p_wave
    narrow[QRS_1] = (-0.028 * width, -abs(rng.normal(0.08, 0.05)) * size, 0.0, 0.009 * width, 0.008 * width)
    narrow[QRS_2] = (0.0, rng.uniform(0.8, 1.4) * size, 0.0, 0.011 * width, 0.011 * width)
    narrow[QRS_3] = (0.030 * width, -abs(rng.normal(0.2, 0.12)) * size, 0.0, 0.010 * width, 0.012 * width)
    narrow[QRS_4] = (0.010 * width, 0.0, -rng.uniform(0.4, 1.2) * size, 0.013 * width, 0.015 * width)
    narrow[QRS_1, AMPLITUDE_2] = rng.uniform(0.05, 0.30) * size  # the small r of V1
    narrow[WAVE_T] = (
        rng.uniform(0.25, 0.30),
        rng.normal(0.25, 0.11),
        rng.normal(0.08, 0.12),
        rng.uniform(0.045, 0.065),
        rng.uniform(0.030, 0.042),
    )

    side = kind.block or ("R" if rng.random() < 0.75 else "L")  # the right bundle recovers last
    shapes[BLOCK] = _wide_qrs(side, 1.0, rng.uniform(0.9, 1.15), size, rng)
    shapes[BLOCK, WAVE_P] = p_wave
    shapes[ABERRANT] = _wide_qrs(side, 1.0, rng.uniform(0.85, 1.1), size, rng)
    shapes[ABERRANT, WAVE_P] = p_wave
    origin = "L" if rng.random() < 0.5 else "R"
    other = "R" if origin == "L" else "L"
    axis = 1.0 if rng.random() < 0.6 else -1.0
    shapes[FOCUS_A] = _wide_qrs(origin, axis, rng.uniform(0.95, 1.35), size * rng.uniform(0.9, 1.5), rng)
    shapes[FOCUS_B] = _wide_qrs(other, -axis, rng.uniform(0.95, 1.35), size * rng.uniform(0.9, 1.5), rng)
    shapes[PACED] = _wide_qrs("L", 1.0 if rng.random() < 0.35 else -1.0, rng.uniform(1.0, 1.3), size, rng)
    # The spike of a bipolar pacemaker is hardly there, so size and sign vary much.
    spike = rng.uniform(0.15, 0.9) * (1.0 if rng.random() < 0.6 else -1.0)
    shapes[PACED, SPIKE] = (-0.075, spike, 0.7 * spike, 0.0013, 0.0018)
    shapes[LONE_P, WAVE_P] = p_wave
    if rng.random() < 0.08:  # a few have the whole first lead upside down (axis, or electrodes swapped)
        shapes[..., AMPLITUDE_1] *= -1.0
    return shapes


def _wide_qrs(side: str, axis: float, width: float, size: float, rng: np.random.Generator) -> FloatArray:
    """Draw a wide complex without P wave: (7 waves, 5 columns), seconds and mV.

    Side "L" is activation from right to left (left block, right-sided focus, pacing): V1 negative. "R" is the
    reverse: V1 positive and late. `axis` is the sign of the first lead. The T wave points against the QRS.
    """
    waves = np.zeros((7, 5))
    waves[:, SIGMA_LEFT:] = 0.02
    notch = rng.uniform(0.5, 1.0)
    lead_1 = axis * size * rng.uniform(0.65, 1.1)
    lead_2 = size * rng.uniform(0.6, 1.1)
    if side == "L":
        waves[QRS_1] = (-0.026 * width, lead_1, 0.15 * lead_2, 0.022 * width, 0.020 * width)
        waves[QRS_2] = (0.022 * width, notch * lead_1, -lead_2, 0.024 * width, 0.026 * width)
        waves[QRS_3] = (0.058 * width, -0.15 * lead_1, -0.4 * lead_2, 0.018 * width, 0.022 * width)
        turn = -1.0
    else:
        waves[QRS_1] = (-0.012 * width, lead_1, 0.3 * lead_2, 0.017 * width, 0.016 * width)
        waves[QRS_2] = (0.024 * width, -0.1 * lead_1, -0.25 * lead_2, 0.014 * width, 0.014 * width)
        waves[QRS_3] = (0.055 * width, -0.5 * notch * lead_1, lead_2, 0.024 * width, 0.026 * width)
        turn = 1.0
    waves[WAVE_T] = (
        rng.uniform(0.27, 0.33),
        -0.35 * lead_1 * rng.uniform(0.6, 1.3),
        -0.30 * turn * lead_2 * rng.uniform(0.5, 1.3),
        rng.uniform(0.050, 0.070),
        rng.uniform(0.035, 0.050),
    )
    return waves


def _wander(duration: float, spacing: float, rng: np.random.Generator) -> CubicSpline:
    """Draw a smooth curve over 0..duration (s) with values of about -1 to 1 and a bend every `spacing` seconds."""
    knots = max(4, math.ceil(duration / spacing) + 2)
    return CubicSpline(np.linspace(0.0, duration, knots), rng.uniform(-1.0, 1.0, knots))


def _spells(duration: float, share: float, rng: np.random.Generator) -> FloatArray:
    """Draw when an intermittent state holds: shape (number of switches, 2), time in s and 1 or 0 from then on.

    A cycle of 20 to 60 s holds the state for about `share` of its length; share 0 is never.
    """
    if share == 0.0:
        return np.zeros((1, 2))
    switches = []
    t = 0.0
    while t < duration:
        length = min(rng.uniform(20.0, 60.0), max(10.0, duration / 2))
        part = float(np.clip(rng.normal(share, 0.12), 0.1, 0.97))
        switches += [(t, 1.0), (t + part * length, 0.0)]
        t += length
    return np.array(switches)


def _draw_rhythm(patient: Patient, duration: float, rng: np.random.Generator) -> Rhythm:
    """Walk from beat to beat through `duration` seconds and note each beat's time, symbol and shape.

    The sinus node ticks on behind V and F beats, which block one tick: the full compensatory pause. An S beat
    resets the node, so the pause after it is shorter. A beat's shape is noted as one or more wave groups.
    """
    kind = patient.kind
    rhythm = Rhythm([], [], [])
    drift = _wander(duration, max(duration / 3, 20.0), rng)
    bursts = _wander(duration, 25.0, rng)
    focus_drift = _wander(duration, max(duration / 2, 20.0), rng)
    second_focus = rng.uniform(0.05, 0.5) if rng.random() < 0.6 else 0.0
    blocked = _spells(duration, kind.block_share, rng)
    pacing = _spells(duration, kind.paced_share, rng)
    breath_phase, mayer_phase = rng.uniform(0.0, 2.0 * math.pi, 2)
    end = duration - 0.2  # leaves room for the annotation's jitter
    memory = 0.0
    pairs = 0  # V beats still owed to a run of bigeminy
    last = rng.uniform(-0.3, 0.1)
    tick = last  # last tick of the sinus node (or the beat that reset it)
    pause = 0.0
    rested = False  # two ectopic beats in a row come only as couplets and runs

    def holds(switches: FloatArray, t: float) -> bool:
        return bool(switches[max(0, int(np.searchsorted(switches[:, 0], t, side="right")) - 1), 1])

    def add(t: float, symbol: str, groups: list[tuple[int, float, float, float]]) -> None:
        nonlocal last
        if 0.3 <= t < end:
            rhythm.times.append(t)
            rhythm.symbols.append(symbol)
            rhythm.groups.extend((t, *group, t - last) for group in groups)
        last = t

    while last < end:
        memory = 0.0 if kind.fibrillation else 0.6 * memory
        memory += patient.jitter * rng.normal()
        breath = patient.breath_depth * math.sin(2.0 * math.pi * patient.breath_hz * last + breath_phase)
        mayer = patient.mayer_depth * math.sin(2.0 * math.pi * 0.1 * last + mayer_phase)
        rr = patient.rr * max(0.55, 1.0 + breath + mayer + 0.08 * float(drift(last)) + memory)
        due = max(tick + rr + pause, last + MIN_RR)
        pause = 0.0
        paced = holds(pacing, last)
        wide = holds(blocked, last)
        sinus_row = BLOCK if wide else NORMAL
        clustering = patient.rate * math.exp(0.7 * float(bursts(last)))
        draw = rng.random()
        atrial = kind.atrial * clustering
        ventricular = atrial + kind.ventricular * clustering
        fusion = ventricular + kind.fusion * patient.rate
        if not rested:
            draw = 1.0
        late_share = float(np.clip(second_focus * (1.0 + focus_drift(last)) * (0.4 + 1.2 * last / duration), 0.0, 1.0))
        focus = FOCUS_B if rng.random() < late_share else FOCUS_A

        if (pairs and rested) or atrial <= draw < ventricular:
            pairs = max(0, pairs - 1)
            # Now and then a focus fires late in diastole: hard to tell from a fusion beat or a block.
            late = rng.random() < 0.15
            usual = float(np.clip(rng.normal(patient.v_coupling, 0.06), 0.5, 0.86))
            coupling = rng.uniform(0.84, 0.95) if late else usual
            t = last + max(MIN_RR, coupling * (due - last))
            if paced:
                due = t + patient.pace_rr - rr  # the pacemaker waits one interval from any beat it senses
            touch = rng.uniform(0.0, 0.25) if late and not kind.fibrillation else 0.0
            add(t, "V", [(focus, 1.0 - touch, 0.0, 0.0), (sinus_row, touch, 0.0, 0.0)])
            if not kind.fibrillation and not paced:
                rhythm.groups.append((due, LONE_P, 1.0, 1.0, 0.0, rr))
            run = rng.random()
            for _ in range(0 if run > 0.07 or pairs else 1 if run > 0.015 else int(rng.integers(2, 5))):
                add(last + rng.uniform(0.50, 0.62) * max(rr, 0.6), "V", [(focus, 1.0, 0.0, 0.0)])
            while due + rr < last + 0.7 * rr:
                due += rr
            tick = due
            rested = False
            if not pairs and rng.random() < kind.bigeminy:
                pairs = int(rng.integers(3, 9))
            continue
        if paced:
            t = last + patient.pace_rr + rng.normal(0.0, 0.002)
            add(t, "/", [(PACED, 1.0, 0.0, 0.0)])
            tick = t
            rested = True
        elif draw < atrial:
            coupling = float(np.clip(rng.normal(patient.s_coupling, 0.08), 0.5, 0.94))
            t = last + max(MIN_RR, coupling * (due - last))
            row = ABERRANT if rng.random() < kind.aberrancy and coupling < 0.85 else sinus_row
            add(t, "A", [(row, 1.0, patient.s_p_scale, patient.s_p_shift)])
            tick = t
            pause = rng.uniform(0.0, 0.15) * rr
            rested = rng.random() < 0.15  # atrial couplets are possible
        elif draw < fusion:
            t = max(last + MIN_RR, due - rng.uniform(0.0, 0.06) * rr)
            share = float(np.clip(rng.normal(patient.fusion_mix, 0.23), 0.08, 0.92))
            p_scale = rng.uniform(0.6, 1.4) / (1.0 - share)  # the P wave came before the V beat and is whole
            add(t, "F", [(sinus_row, 1.0 - share, p_scale, 0.0), (focus, share, 0.0, 0.0)])
            tick = due
            rested = False
        elif rng.random() < 0.0006:
            mix = rng.dirichlet([1.0, 1.0, 1.0])
            rows = (NORMAL, FOCUS_A, FOCUS_B)
            signs = rng.uniform(-1.0, 1.0, 3)
            add(due, "Q", [(row, float(mix[place]), float(signs[place]), 0.0) for place, row in enumerate(rows)])
            tick = due
            rested = True
        else:
            # Ashman's phenomenon: a short interval after a long one may find a bundle still refractory. Now and then
            # a bundle fails at no particular interval.
            chance = 0.15 if due - last < 0.80 * patient.rr else 0.004
            row = ABERRANT if not wide and rng.random() < chance else sinus_row
            symbol = kind.block if wide and kind.block else "N"
            add(due, symbol, [(row, 1.0, 1.0, 0.0)])
            tick = due
            rested = True
    return rhythm


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
    slow = [_wander(duration, max(duration / 4, 15.0), rng)(np.clip(time, 0.0, duration)) for _ in range(4)]
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
    frequency = rng.uniform(5.5, 7.5) + 0.8 * _wander(duration, 1.5, rng)(time)
    phase = 2.0 * np.pi * np.cumsum(frequency) / sampling_rate
    size = 1.0 + 0.5 * _wander(duration, 2.0, rng)(time)
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
    hum = np.sin(2.0 * np.pi * 60.0 * time + rng.uniform(0.0, 6.28)) * (1.0 + 0.5 * _wander(duration, 8.0, rng)(time))
    white = rng.standard_normal((samples, len(LEADS)))
    signal = 0.020 * level * white
    for lead in range(len(LEADS)):
        signal[:, lead] += 0.10 * level * _wander(duration, 2.2, rng)(time)
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
