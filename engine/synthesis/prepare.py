"""Synthetic beats of a whole run, before training starts: each hospital's requests, answered from its own train beats.

Who decides is passed in: `grant` says how many of the wanted beats a request gets, `judge` whether what was made may be
used. Both may deny; training then goes on without these beats, and the record says why.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.config import RunConfig, canonical_json, config_hash
from engine.data.beats import Beats
from engine.data.cohort import Cohort, HospitalData
from engine.errors import DataError, SynthesisError
from engine.files import whole
from engine.oracle import Batch
from engine.seeds import generator
from engine.synthesis.balance import wanted_beats
from engine.synthesis.generators import Synthetic, generate, joined, minimum_real, save_synthetic, settings_digest
from engine.synthesis.picture import draw_quality
from engine.synthesis.quality import Anatomy, Report, assess, of_class, report_json
from engine.synthesis.timegan import interpreter

RECORDS = "requests.json"


@dataclass(frozen=True)
class Request:
    """What a hospital asks for.

    Attributes:
        id: SHA-256 in hex of the other fields and the run's configuration.
        label: letter of the class.
        real: train beats of the class.
        minimum: real beats without which the generator cannot run.
        wanted: number of synthetic beats.
        settings: digest of the generator's settings and seed.
    """

    id: str
    hospital: int
    label: str
    generator: str
    real: int
    minimum: int
    wanted: int
    settings: str


class Answer(NamedTuple):
    """To a request: how many beats, 0 to deny it, and why."""

    granted: int
    reason: str = ""


class Verdict(NamedTuple):
    """On beats that were made."""

    accepted: bool
    reason: str = ""


Grant = Callable[[Request], Answer]
Judge = Callable[[Request, Synthetic, Report], Verdict]


def possible(request: Request) -> Answer:
    """Grants all that is wanted wherever the generator can run."""
    if request.real < request.minimum:
        return Answer(
            0, f"{request.generator} needs at least {request.minimum} real beats of the class, there are {request.real}"
        )
    return Answer(request.wanted)


def hospital_requests(config: RunConfig, hospital: HospitalData, labels: np.ndarray, classes: str) -> list[Request]:
    """What a hospital with these train labels asks for."""
    method, settings = config.balance.method, config.balance
    requests = []
    for letter, wanted in wanted_beats(labels, classes, settings).items():
        digest = settings_digest(method, settings, generator_seed(config, hospital.id, letter))
        fields = {
            "hospital": hospital.id,
            "label": letter,
            "generator": method,
            "real": int((labels == classes.index(letter)).sum()),
            "minimum": minimum_real(method, settings),
            "wanted": wanted,
            "settings": digest,
        }
        name = hashlib.sha256(canonical_json({"run": config_hash(config), **fields})).hexdigest()
        requests.append(Request(id=name, **fields))  # type: ignore[arg-type]
    return requests


def generator_seed(config: RunConfig, hospital: int, letter: str) -> int:
    """Seed of one generator; `balance.seed` in place of the run's keeps it over repeats."""
    seed = config.seed if config.balance.seed is None else config.balance.seed
    return int(generator(seed, f"synthesis {letter}", hospital=hospital).integers(2**31))


def prepare(
    config: RunConfig,
    cohort: Cohort,
    folder: Path,
    grant: Grant = possible,
    judge: Judge | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Makes the synthetic beats of a run and writes the accepted ones into `folder`, one file for each hospital.

    Beside them lie each hospital's provenance, the quality reports and pages where there is a `judge`, and the records that are
    returned; with those there, nothing is made again.

    Returns:
        For each request its fields and `status` (denied, rejected or accepted), `reason`, `granted`, `made`.

    Raises:
        SynthesisError: the generator is not installed.
        DataError: the folder cannot be written, or its records are damaged.
    """
    path = folder / RECORDS
    if path.exists():
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is not readable ({error}).") from None
    if config.balance.method == "timegan":
        interpreter()  # every request would be denied for want of it
    folder.mkdir(parents=True, exist_ok=True)
    beats, records = cohort.beats, []
    pooled: list[Synthetic] = []
    for hospital in cohort.hospitals:
        accepted = []
        requests = hospital_requests(config, hospital, np.asarray(beats.y[hospital.train]), beats.classes)
        for request in requests:
            answer = grant(request)
            record = {**asdict(request), "granted": answer.granted, "made": 0, "reason": answer.reason}
            records.append(record)
            if answer.granted < 1:
                note(f"hospital {hospital.id}, class {request.label}: denied, {answer.reason}")
                record["status"] = "denied"
                continue
            train = _rows(beats, hospital.train)
            try:
                made = _make(config, request, answer.granted, train, beats.classes, note)
            except SynthesisError as error:
                record |= {"status": "denied", "granted": 0, "reason": str(error)}
                note(f"hospital {hospital.id}, class {request.label}: denied, {error}")
                continue
            record["made"] = len(made)
            verdict = Verdict(True)
            if judge is not None:
                held_out = _rows(beats, hospital.validation)
                anatomy = anatomy_of(config, beats)
                report = assess(train, held_out, made.batch(), anatomy, made.generator, config.seed)
                page = f"quality-{hospital.id}-{request.label}"
                _write(folder / f"{page}.json", report_json(report))
                real = joined(*(of_class(part, made.label) for part in (train, held_out)))
                with whole(folder / f"{page}.png") as part:
                    draw_quality(report, real, made.batch(), anatomy, part)
                verdict = judge(request, made, report)
            record |= {"status": "accepted" if verdict.accepted else "rejected", "reason": verdict.reason}
            note(f"hospital {hospital.id}, class {request.label}: {len(made)} beats {record['status']}")
            if verdict.accepted:
                accepted.append(made)
        if hospital.trains:
            pooled += accepted
        if accepted:
            save_synthetic(hospital_file(folder, hospital.id), accepted)
            provenance = [{"class": beats.classes[made.label], **row} for made in accepted for row in made.provenance()]
            _write(folder / f"provenance-{hospital.id}.json", provenance)
    if config.federation.algorithm == "centralised" and pooled:
        save_synthetic(hospital_file(folder, len(cohort.hospitals)), pooled)  # of the imaginary hospital of everybody
    _write(path, records)  # last: it says that everything else is there
    return records


def hospital_file(folder: Path, hospital: int) -> Path:
    """Where a hospital's accepted beats lie, if it has any."""
    return folder / f"hospital-{hospital}.npz"


def anatomy_of(config: RunConfig, beats: Beats) -> Anatomy:
    """What the quality tiers need to know of the windows."""
    return Anatomy(beats.classes, config.data.window[0], float(beats.records[0]["sampling_rate"]), beats.rr_names)


def _make(
    config: RunConfig, request: Request, count: int, train: Batch, classes: str, note: Callable[[str], None]
) -> Synthetic:
    seed = generator_seed(config, request.hospital, request.label)
    label = classes.index(request.label)
    return generate(request.generator, train, label, count, config.balance, seed, request.id, note)


def _rows(beats: Beats, index: np.ndarray) -> Batch:
    return Batch(np.asarray(beats.x[index]), np.asarray(beats.rr[index]), np.asarray(beats.y[index]))


def _write(path: Path, value: Sequence[Any] | dict[str, Any]) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
