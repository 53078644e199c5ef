"""`pulseledger claims`: claims that were written down beforehand, and what a study's predictions say of them.

A file of claims is data: who is compared in what, on whom, by which test and margin. Its SHA-256 stands in the study
(`claims`), whose definition the ledger registers before the first trial, so nobody can write a claim after its result. The
verdicts are computed from `predictions.parquet` alone, patient by patient.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from engine.data.config import CLASSES
from engine.errors import ConfigError, DataError
from engine.files import read_bytes
from engine.result import PREDICTIONS, Model
from engine.settings import Name, Section, load_yaml, parse
from sweeps import statistics
from sweeps.folder import read_study, repeat_folder, trial_folder
from sweeps.rows import Row, rows_of
from sweeps.statistics import Interval

Verdict = Literal["validated", "refuted", "not shown", "not testable"]
ALPHA = 0.05
LONGEST = 1_000_000  # bytes of a file of claims


class Side(Section):
    """One of the two that are compared."""

    method: Name = Field(..., description="as tables call it, such as FedAvg + fine-tuning")
    model: Model = Field("personal", description="the hospitals' own models, or the global one")


class Claim(Section):
    """One claim: that `subject` is better than `against`, not worse, or level, in one condition of the study."""

    id: Name = Field(..., pattern=r"^[\w.-]+$", description="short name")
    says: Name = Field(..., description="the claim in a sentence")
    condition: str = Field("all", description="label of the study's condition")
    subject: Side = Field(..., description="who is said to be better")
    against: Side = Field(..., description="than whom")
    endpoint: Literal["macro_f1", "accuracy", "recall"] = Field(
        "macro_f1", description="of all patients' test beats together; recall: of the one class in `classes`"
    )
    classes: tuple[Name, ...] = Field(CLASSES[:4], min_length=1, description="classes that count")
    without: tuple[Name, ...] = Field((), description="patients that are left out")
    test: Literal["better", "not worse", "level"] = Field("better", description="what has to be shown")
    margin: float = Field(
        0.0, ge=0, lt=1, description="by how much at least; of how much a level or not worse one may differ"
    )
    patients: int = Field(6, ge=2, description="fewer with beats of these classes: not testable")


class Claims(Section):
    """A file of claims, corrected together."""

    claims: tuple[Claim, ...] = Field(..., min_length=1, description="the family: p-values are Holm's over all of them")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="of patients, for each interval")
    seed: int = Field(0, ge=0, description="of the resampling")
    min_support: int = Field(50, ge=1, description="a class with fewer test beats of all patients: not testable")


@dataclass(frozen=True)
class Found:
    """What the predictions say of a claim.

    Attributes:
        difference: subject less other; None where nothing can be computed.
        p: of the paired test over patients, and after Holm.
        patients: those with beats of the classes; `each`: their own differences.
        support: test beats of each class.
        why: of a verdict that nothing can be said, or empty.
    """

    claim: Claim
    verdict: Verdict
    difference: Interval | None
    p: float | None
    corrected: float | None
    patients: tuple[str, ...]
    each: tuple[float, ...]
    support: Mapping[str, int]
    seeds: int
    why: str

    @property
    def sentence(self) -> str:
        """To be quoted."""
        claim = self.claim
        if self.difference is None:
            return f"{claim.id} ({claim.says}): not testable here, {self.why}."
        value, low, high = (f"{100 * number:+.1f}" for number in self.difference)
        level = 95 if claim.test == "better" else 90
        left = f" without {', '.join(claim.without)}" if claim.without else ""
        what = f"{claim.endpoint.replace('_', '-')} of {', '.join(claim.classes)}"
        told = f"p {self.corrected:.3g} after Holm, {len(self.patients)} patients, {self.seeds} seed(s)"
        return (
            f"{claim.id} ({claim.says}): {self.verdict}; {_side(claim.subject)} less {_side(claim.against)} is {value} points of "
            f"{what}{left}, {level} % interval over patients [{low}, {high}], {told}."
        )

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "claim": self.claim.model_dump(mode="json"),
            "verdict": self.verdict,
            "difference": None if self.difference is None else self.difference._asdict(),
            "p": self.p,
            "holm": self.corrected,
            "patients": dict(zip(self.patients, self.each, strict=True)),
            "support": dict(self.support),
            "seeds": self.seeds,
            "why": self.why,
            "sentence": self.sentence,
        }


def _side(side: Side) -> str:
    return f"{side.method} ({side.model})"


def read_claims(path: Path) -> tuple[Claims, str]:
    """The claims of a file, and its SHA-256 in hex.

    Raises:
        ConfigError: something in it is wrong.
    """
    try:
        digest = hashlib.sha256(read_bytes(path, LONGEST)).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: is not readable ({error.strerror or error}).") from None
    claims = parse(Claims, load_yaml(path), str(path))
    names = [claim.id for claim in claims.claims]
    if double := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: claims: {double[0]} stands twice; each id names one claim.")
    for claim in claims.claims:
        if claim.endpoint == "recall" and len(claim.classes) != 1:
            raise ConfigError(
                f"{path}: claim {claim.id}: endpoint recall is of one class; classes has {len(claim.classes)}."
            )
        if claim.test != "better" and not claim.margin:
            raise ConfigError(f"{path}: claim {claim.id}: test {claim.test} needs a margin above 0.")
    return claims, digest


class Tables(NamedTuple):
    """Test predictions of one side: confusion matrices int[seeds, patients, C, C] over `classes`."""

    patients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: np.ndarray


def tables_of(paths: Sequence[Path], model: Model, classes: Sequence[str], without: Sequence[str]) -> Tables:
    """The confusion matrices of each patient in each seed's predictions.

    Raises:
        DataError: a file is missing or none of predictions, or seeds were tested on other beats.
    """
    import pandas as pd

    index = {name: i for i, name in enumerate(classes)}
    frames = []
    for path in paths:
        try:
            frame = pd.read_parquet(path, columns=["patient", "model", "true", "predicted"])
        except Exception as error:  # pyarrow has many
            raise DataError(f"{path}: holds no predictions ({type(error).__name__}).") from None
        frames.append(frame[(frame["model"] == model) & ~frame["patient"].isin(without)])
    patients = tuple(sorted({name for frame in frames for name in frame["patient"]}))
    place = {name: i for i, name in enumerate(patients)}
    counts = np.zeros((len(frames), len(patients), len(classes), len(classes)), np.int64)
    for seed, frame in enumerate(frames):
        rows = (frame["patient"].map(place), frame["true"].map(index), frame["predicted"].map(index))
        np.add.at(counts[seed], tuple(row.to_numpy(int) for row in rows), 1)
    return Tables(patients, tuple(classes), counts)


def judge(claims: Claims, folder: Path) -> list[Found]:
    """The verdict on each claim, out of a study's complete trials; the best trial of a method speaks for it.

    Raises:
        PulseLedgerError: the folder holds no study, or its results are damaged.
    """
    study, rows = read_study(folder), rows_of(folder)
    measured = [_measured(claim, claims, rows, folder, study.data.classes) for claim in claims.claims]
    corrected = iter(statistics.holm([found.p for found in measured if found.p is not None]))
    return [found if found.p is None else _decided(found, next(corrected)) for found in measured]


def _measured(claim: Claim, claims: Claims, rows: Sequence[Row], folder: Path, classes: Sequence[str]) -> Found:
    """The numbers of a claim, not yet judged: its verdict is "not shown", or "not testable"."""

    def nothing(why: str, support: Mapping[str, int] | None = None) -> Found:
        return Found(claim, "not testable", None, None, None, (), (), support or {}, 0, why)

    if unknown := [name for name in claim.classes if name not in classes]:
        return nothing(f"the study has no class {unknown[0]}")
    sides = []
    for side in (claim.subject, claim.against):
        found = [
            r
            for r in rows
            if r.outcome and not r.violated and r.condition == claim.condition and r.method == side.method
        ]
        if not found:
            return nothing(f"no finished trial of {side.method} in condition {claim.condition}")
        repeats = found[0].outcome.repeats if found[0].outcome else 0
        home = trial_folder(folder, found[0].trial)
        paths = [repeat_folder(home, i) / PREDICTIONS for i in range(repeats)]
        sides.append(tables_of(paths, side.model, classes, claim.without))
    ours, theirs = sides
    truth = [one.counts.sum(-1) for one in sides]
    if ours.patients != theirs.patients or len(truth[0]) != len(truth[1]) or (truth[0] != truth[1]).any():
        return nothing(f"{claim.subject.method} and {claim.against.method} were tested on other beats")
    chosen = [ours.classes.index(name) for name in claim.classes]
    support = {name: int(truth[0][0][:, i].sum()) for name, i in zip(claim.classes, chosen, strict=True)}
    if few := [name for name, beats in support.items() if beats < claims.min_support]:
        return nothing(f"{few[0]} has {support[few[0]]} test beats, fewer than {claims.min_support}", support)
    has = truth[0][:, :, chosen].sum((0, 2)) > 0
    if has.sum() < claim.patients:
        return nothing(f"{has.sum()} patients have such beats, fewer than {claim.patients}", support)
    score = statistics.macro_f1 if claim.endpoint == "macro_f1" else statistics.accuracy
    each = (score(ours.counts, chosen) - score(theirs.counts, chosen)).mean(0)[has]
    level = 1 - ALPHA if claim.test == "better" else 1 - 2 * ALPHA
    interval = statistics.by_patients(
        ours.counts[:, has], theirs.counts[:, has], score, chosen, level, claims.resamples, claims.seed
    )
    p = {
        "better": lambda: statistics.wilcoxon(each - claim.margin),
        "level": lambda: statistics.tost(each, claim.margin),
        "not worse": lambda: statistics.not_worse(each, claim.margin),
    }[claim.test]()
    patients = tuple(name for name, there in zip(ours.patients, has.tolist(), strict=True) if there)
    return Found(claim, "not shown", interval, p, None, patients, tuple(each.tolist()), support, len(ours.counts), "")


def _decided(found: Found, corrected: float) -> Found:
    """The verdict: test and interval have to agree that a claim holds; the interval alone may exclude it."""
    assert found.difference is not None
    _, low, high = found.difference
    margin, test = found.claim.margin, found.claim.test
    holds, fails = {
        "better": (low > margin, high < margin),
        "not worse": (low > -margin, high < -margin),
        "level": (-margin < low and high < margin, high < -margin or low > margin),
    }[test]
    verdict: Verdict = "validated" if holds and corrected < ALPHA else "refuted" if fails else "not shown"
    return Found(**{**vars(found), "verdict": verdict, "corrected": corrected})


def registered(folder: Path, digest: str) -> str:
    """Whether a study was registered with these claims, in a sentence."""
    held = read_study(folder).claims
    if held is None:
        return "these claims were not in the study's definition when it began: what follows is exploratory"
    if held != digest:
        return f"the study was begun for other claims (SHA-256 {held[:16]}...): what follows is exploratory"
    return "the study's definition names these claims, and was fixed before its first trial (pulseledger audit holds it against the ledger)"


def as_document(found: Sequence[Found], digest: str, standing: str) -> str:
    """The text of `claims.json`."""
    content = {"claims": digest, "standing": standing, "verdicts": [one.document() for one in found]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
