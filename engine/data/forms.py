"""Simulated records in the form of other databases: folders to try a study on before the database is at hand.

Names, leads, sampling rate, gains and header comments are those of the database; hearts are the simulator's, so scores
say nothing of the real one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.data.patients import FloatArray, Patient
from engine.data.simulate import NOBODY, check_arguments, new_folder, record, write_recording
from engine.data.sources import INCART, SVDB, Dataset
from engine.errors import DataError


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


class Form(NamedTuple):
    """What is a database's own in its records.

    Attributes:
        dataset: names of records and leads, sampling rate.
        recordings: number of records of a patient, by the patient's number from 1.
        leads: float64[samples, 2] of the simulator -> float64[samples, leads].
        gain: ADC units a mV of a record.
        comments: of a header, by the patient and its number.
    """

    dataset: Dataset
    recordings: Callable[[int], int]
    leads: Callable[[FloatArray], FloatArray]
    gain: Callable[[np.random.Generator], float]
    comments: Callable[[Patient, int], list[str]]


FORMS = {
    "incart": Form(  # 75 records of 32 patients, two or three of each
        INCART,
        lambda number: 3 if number % 3 == 1 and number < 33 else 2,
        twelve_leads,
        lambda draw: float(draw.integers(250, 1101)),
        lambda who, number: [
            f"<age>: {who.age} <sex>: {who.sex} <diagnoses> none, simulated", f"patient {number}", NOBODY,
        ],
    ),
    "svdb": Form(SVDB, lambda number: 1, lambda signal: signal, lambda draw: 200.0, lambda who, number: [NOBODY]),
}  # fmt: skip


def write_like(name: str, folder: Path, patients: int, seed: int, minutes: float) -> list[str]:
    """Writes the records of so many patients in the form of a database; returns their names.

    Args:
        name: of one of `FORMS`.

    Raises:
        ValueError: an argument is out of range.
        DataError: the folder holds something already; there would be more records than the database has.
    """
    form = FORMS[name]
    rate, names = int(form.dataset.rate), form.dataset.records
    check_arguments(patients, seed, minutes, rate)
    owners = [(number, again) for number in range(1, patients + 1) for again in range(form.recordings(number))]
    if len(owners) > len(names):
        raise DataError(
            f"data.simulated.patients: {name} has {len(names)} records, these patients would have {len(owners)}."
        )
    with new_folder(folder) as partial:
        for record_name, (number, again) in zip(names, owners, strict=False):
            made = record(number, seed, minutes, rate, again)
            gain = form.gain(np.random.default_rng([seed, number, again]))
            signal, said = form.leads(made.signal), form.comments(made.patient, number)
            write_recording(partial, record_name, made, signal, form.dataset.leads, rate, gain, said)
    return list(names[: len(owners)])
