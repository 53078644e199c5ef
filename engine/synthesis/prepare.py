"""What hospitals ask for, and the files of what they make; who decides on it is `governed.py`'s business."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import RunConfig
from engine.data.beats import Beats
from engine.data.cohort import Cohort, HospitalData
from engine.errors import DataError
from engine.oracles.base import Batch
from engine.seeds import generator
from engine.synthesis.balance import wanted_beats
from engine.synthesis.generators import Synthetic, generate, load_synthetic, settings_digest
from engine.synthesis.quality import Anatomy


@dataclass(frozen=True)
class Request:
    """What a hospital asks for.

    Attributes:
        label: letter of the class.
        real: train beats of the class.
        wanted: number of synthetic beats.
        settings: digest of the generator's settings and seed, hex.
    """

    hospital: int
    label: str
    generator: str
    real: int
    wanted: int
    settings: str


def requests_of(config: RunConfig, cohort: Cohort) -> list[Request]:
    """What the hospitals ask for, by hospital and class; each looks at its own train part only."""
    beats, method, settings = cohort.beats, config.balance.method, config.balance
    requests = []
    for hospital in cohort.hospitals:
        labels = np.asarray(beats.y[hospital.train])
        for letter, wanted in wanted_beats(labels, beats.classes, settings).items():
            real = int((labels == beats.classes.index(letter)).sum())
            digest = settings_digest(method, settings, generator_seed(config, hospital.id, letter))
            requests.append(Request(hospital.id, letter, method, real, wanted, digest))
    return requests


def generator_seed(config: RunConfig, hospital: int, letter: str) -> int:
    """Seed of one generator; `balance.seed` in place of the run's keeps it over repeats."""
    seed = config.seed if config.balance.seed is None else config.balance.seed
    return int(generator(seed, f"synthesis {letter}", hospital=hospital).integers(2**31))


def make_beats(
    config: RunConfig, request: Request, count: int, train: Batch, classes: str, name: str, note: Callable[[str], None]
) -> Synthetic:
    """Makes `count` beats for a request from the hospital's train part; same arguments, same bits.

    Raises:
        SynthesisError: the generator cannot run on these beats, or is not installed.
    """
    seed = generator_seed(config, request.hospital, request.label)
    label = classes.index(request.label)
    return generate(request.generator, train, label, count, config.balance, seed, name, note)


def parts_of(beats: Beats, hospital: HospitalData) -> tuple[Batch, Batch]:
    """A hospital's train part, and its validation part, which no generator sees."""

    def rows(index: np.ndarray) -> Batch:
        return Batch(np.asarray(beats.x[index]), np.asarray(beats.rr[index]), np.asarray(beats.y[index]))

    return rows(hospital.train), rows(hospital.validation)


def batch_digest(batch: Batch) -> bytes:
    """SHA-256 of a batch: its shape as three little-endian uint32 (beats, window, RR features), then all numbers."""
    digest = hashlib.sha256(np.array([*batch.x.shape, batch.rr.shape[1]], "<u4").tobytes())
    for array, kind in ((batch.x, "<f4"), (batch.rr, "<f4"), (batch.y, "i1")):
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.digest()


def hospital_file(folder: Path, hospital: int) -> Path:
    """Where a hospital's accepted beats lie, if it has any."""
    return folder / f"hospital-{hospital}.npz"


def hold_exactly(path: Path, batches: Sequence[tuple[int, bytes]]) -> bool:
    """Whether a file of `save_synthetic` is there and has exactly these batches (beats, digest), in order."""
    try:
        beats, start = load_synthetic(path), 0
    except DataError:
        return False
    for count, digest in batches:
        if batch_digest(Batch(*(array[start : start + count] for array in beats[:3]))) != digest:
            return False
        start += count
    return start == len(beats.y)


def anatomy_of(config: RunConfig, beats: Beats) -> Anatomy:
    """What the quality tiers need to know of the windows."""
    return Anatomy(beats.classes, beats.window[0], float(beats.records[0]["sampling_rate"]), beats.rr_names)
