"""Simulated records in the form of other databases: folders to try a study on before the database is at hand.

Names, leads, sampling rate, gains and header comments are those of the database; hearts are the simulator's, so scores
say nothing of the real one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.data.patients import FloatArray
from engine.data.simulate import NOBODY, check_arguments, new_folder, record, write_recording
from engine.data.sources import INCART, SVDB
from engine.errors import DataError


def write_like_incart(folder: Path, patients: int, seed: int, minutes: float) -> list[str]:
    """Writes records I01, I02, ...: twelve leads at 257 Hz, two or three records of each patient, 75 of 32.

    Raises:
        ValueError: an argument is out of range.
        DataError: the folder holds something already; there would be more records than the database has.
    """
    rate = int(INCART.rate)
    check_arguments(patients, seed, minutes, rate)
    owners = [(p, again) for p in range(1, patients + 1) for again in range(3 if p % 3 == 1 and p < 33 else 2)]
    _require(len(owners), len(INCART.records), "incart")
    with new_folder(folder) as partial:
        for name, (number, again) in zip(INCART.records, owners, strict=False):
            made = record(number, seed, minutes, rate, again)
            who = f"<age>: {made.patient.age} <sex>: {made.patient.sex} <diagnoses> none, simulated"
            gain = float(np.random.default_rng([seed, number, again]).integers(250, 1101))
            signal, said = twelve_leads(made.signal), [who, f"patient {number}", NOBODY]
            write_recording(partial, name, made, signal, INCART.leads, rate, gain, said)
        return list(INCART.records[: len(owners)])


def write_like_svdb(folder: Path, patients: int, seed: int, minutes: float) -> list[str]:
    """Writes records 800, 801, ...: two leads at 128 Hz, whose headers say nothing of the patient.

    Raises:
        ValueError: an argument is out of range.
        DataError: the folder holds something already; there would be more records than the database has.
    """
    rate = int(SVDB.rate)
    check_arguments(patients, seed, minutes, rate)
    _require(patients, len(SVDB.records), "svdb")
    with new_folder(folder) as partial:
        for number, name in enumerate(SVDB.records[:patients], 1):
            made = record(number, seed, minutes, rate)
            write_recording(partial, name, made, made.signal, SVDB.leads, rate, 200.0, [NOBODY])
        return list(SVDB.records[:patients])


FORMS: dict[str, Callable[[Path, int, int, float], list[str]]] = {"incart": write_like_incart, "svdb": write_like_svdb}


def twelve_leads(signal: FloatArray) -> FloatArray:
    """float64[samples, 12], I to aVF and V1 to V6, out of II and V1.

    Einthoven's and Goldberger's equations hold exactly: II = I + III, aVR = -(I + II) / 2, aVL = (I - III) / 2,
    aVF = (II + III) / 2. Lead I and the chest leads are mixtures.
    """
    second, v1 = signal.T
    first = 0.6 * second - 0.3 * v1
    third = second - first
    limbs = [first, second, third, -(first + second) / 2, (first - third) / 2, (second + third) / 2]
    v6 = 0.8 * second - 0.2 * v1
    return np.stack([*limbs, *((1 - k / 5) * v1 + k / 5 * v6 for k in range(6))], axis=1)


def _require(records: int, most: int, name: str) -> None:
    if records > most:
        raise DataError(f"data.simulated.patients: {name} has {most} records, these patients would have {records}.")
