"""Simulated patients: what sort of heart each has, and the shapes of its beats."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Rows of a patient's bank of beat shapes.
NORMAL, BLOCK, ABERRANT, FOCUS_A, FOCUS_B, PACED, LONE_P = range(7)
# Waves of one shape. The QRS complex has up to four; a wide one uses them differently from a narrow one.
WAVE_P, QRS_1, QRS_2, QRS_3, QRS_4, WAVE_T, SPIKE = range(7)
# Columns of one wave.
OFFSET, AMPLITUDE_1, AMPLITUDE_2, SIGMA_LEFT, SIGMA_RIGHT = range(5)


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


def draw_patient(number: int, rng: np.random.Generator) -> Patient:
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
