"""What is done to a signal before beats are cut from it: its unit, lost and flat stretches, filters, sampling rate."""

import re
from fractions import Fraction

import numpy as np

from engine.data.config import FilterConfig
from engine.errors import DataError

GOOD, LOST, FLAT = 0, 1, 2  # what a sample is
FLAT_SECONDS = 1.0  # no heart lets a lead keep one value for so long; MIT-BIH's longest clipped stretch has 0.74 s
MILLIVOLTS = {"": 1e3, "m": 1.0, "milli": 1.0, "u": 1e-3, "µ": 1e-3, "μ": 1e-3, "micro": 1e-3, "n": 1e-6, "nano": 1e-6}
LARGEST_RATIO = 10_000  # of two sampling rates, as a fraction in lowest terms: up or down
WORST_RATIO = 1e-6  # relative error of that fraction: 2 ms in half an hour


def millivolts(unit: str) -> float | None:
    """Factor from a unit to mV, in upper or lower case: mV, uV (micro has two signs), microvolts; None for no voltage."""
    found = re.fullmatch(r"(\w*?)v(olts?)?", unit.strip().lower())
    return MILLIVOLTS.get(found[1]) if found else None


def quality(signal: np.ndarray, rate: float) -> np.ndarray:
    """What each sample is: GOOD, LOST (marked so in the file: NaN), or FLAT (one value for a second or longer).

    Args:
        signal: float[samples].
        rate: Hz.

    Returns:
        int8[samples].
    """
    kinds = np.where(np.isfinite(signal), GOOD, LOST).astype(np.int8)
    changes = np.flatnonzero(np.diff(signal) != 0) + 1  # NaN differs from itself
    starts, ends = np.concatenate([[0], changes]), np.concatenate([changes, [len(signal)]])
    long = ends - starts >= max(FLAT_SECONDS * rate, 2)
    for start, end in zip(starts[long], ends[long], strict=True):
        kinds[start:end] = FLAT
    return kinds


def bridged(signal: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The signal with straight lines over what is lost, so that filters do not spread NaN; all zeros if all is lost."""
    lost = kinds == LOST
    if not lost.any():
        return signal
    if lost.all():
        return np.zeros_like(signal)
    at = np.arange(len(signal))
    result = signal.copy()
    result[lost] = np.interp(at[lost], at[~lost], signal[~lost])
    return result


def filtered(signal: np.ndarray, rate: float, settings: FilterConfig) -> np.ndarray:
    """Band-pass (Butterworth, order 2, once forwards and once backwards) and notch, both without any delay.

    Raises:
        DataError: the frequencies do not fit the sampling rate, or the signal is too short.
    """
    from scipy import signal as dsp

    highest = max((*(settings.band or ()), settings.notch or 0.0))
    if highest and highest >= rate / 2:
        raise DataError(f"data.filter reaches {highest:g} Hz, but a signal of {rate:g} Hz holds less than {rate / 2:g}")
    try:
        if settings.band is not None:
            signal = dsp.sosfiltfilt(dsp.butter(2, settings.band, "bandpass", fs=rate, output="sos"), signal)
        if settings.notch is not None:
            signal = dsp.filtfilt(*dsp.iirnotch(settings.notch, 30.0, fs=rate), signal)
    except ValueError:
        raise DataError(f"its {len(signal)} samples are too few for data.filter") from None
    return signal


def ratio(rate: float, wanted: float) -> Fraction:
    """Samples that each sample becomes on the way from one rate to another.

    Raises:
        DataError: no fraction of small numbers is near enough.
    """
    found = (Fraction(wanted) / Fraction(rate)).limit_denominator(LARGEST_RATIO)
    if found.numerator > LARGEST_RATIO or not found or abs(float(found) * rate / wanted - 1) > WORST_RATIO:
        raise DataError(f"{rate:g} Hz cannot be brought to data.rate {wanted:g} Hz; choose a rate in a simpler ratio")
    return found


def resampled(signal: np.ndarray, by: Fraction) -> np.ndarray:
    """The signal at another rate: polyphase, with a linear-phase filter against aliases whose delay is taken out.

    Up to 0.6 of the lower rate's half, waves keep their size within 0.04 %; above 1.2 of it, less than 0.12 % is left.
    """
    from scipy.signal import resample_poly

    return resample_poly(signal, by.numerator, by.denominator, window=("kaiser", 6.5), padtype="line")


def resampled_kinds(kinds: np.ndarray, by: Fraction, length: int) -> np.ndarray:
    """What each new sample is: the worse of the two old ones that it lies between, LOST before FLAT."""
    at = np.arange(length) * by.denominator / by.numerator
    last = len(kinds) - 1
    left = kinds[np.minimum(np.floor(at).astype(np.int64), last)]
    right = kinds[np.minimum(np.ceil(at).astype(np.int64), last)]
    either = np.where((left == LOST) | (right == LOST), LOST, np.maximum(left, right))
    return either.astype(np.int8)
