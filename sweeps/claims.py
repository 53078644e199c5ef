"""`pulseledger claims`: claims that were written down beforehand, and what a study's predictions say of them.

A file of claims is data: who is compared in what, on whom, by which test and margin. Its SHA-256 stands in the study
(`claims`), whose definition the ledger registers before the first trial, so nobody can write a claim after its result. The
verdicts are computed from `predictions.parquet` alone, patient by patient.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from sweeps.people import ATTRIBUTES
from sweeps.rows import Row, rows_of
from sweeps.statistics import Interval

Verdict = Literal["validated", "refuted", "not shown", "not testable"]
ALPHA = 0.05
LONGEST = 1_000_000  # bytes of a file of claims


class Side(Section):
    """One of the two that are compared."""

    condition: str | None = Field(None, description="of this side, where it is another one than the claim's")
    method: Name = Field(..., description="as tables call it, such as FedAvg + fine-tuning")
    model: Model = Field("personal", description="the hospitals' own models, or the global one")


class Claim(Section):
    """One claim: that `subject` is better than `against`, not worse, or level, or that its score lies within bounds."""

    id: Name = Field(..., pattern=r"^[\w.-]+$", description="short name")
    says: Name = Field(..., description="the claim in a sentence")
    condition: str = Field("all", description="label of the study's condition")
    subject: Side = Field(..., description="who is said to be better")
    against: Side | None = Field(None, description="than whom; nobody with test within")
    endpoint: Literal["macro_f1", "accuracy", "recall", "equality"] = Field(
        "macro_f1",
        description="of all patients' test beats together; recall: of the one class in `classes`; "
        "equality: 1 less the difference of that recall between two groups",
    )
    groups: Literal["sex", "age"] | None = Field(None, description="endpoint equality: whose recall is to be equal")
    classes: tuple[Name, ...] = Field(CLASSES[:4], min_length=1, description="classes that count")
    without: tuple[Name, ...] = Field((), description="patients that are left out")
    test: Literal["better", "not worse", "level", "within"] = Field("better", description="what has to be shown")
    between: tuple[float, float] | None = Field(None, description="test within: the least and the greatest score")
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
        difference: subject less other, or the subject's own score where there is no other; None where nothing can be computed.
        p: of the paired test over patients, and after Holm; None where the interval alone decides.
        patients: those with beats of the classes; `each`: their own differences, or scores (endpoint equality: of recall).
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
    def nobody(self) -> bool:
        """Whether no patient differs at all, as where an adaptation hands out the global model: then a verdict says little."""
        return self.claim.against is not None and bool(self.each) and not any(self.each)

    @property
    def sentence(self) -> str:
        """To be quoted."""
        claim = self.claim
        if self.difference is None:
            return f"{claim.id} ({claim.says}): not testable here, {self.why}."
        value, low, high = (f"{100 * number:{'+' if claim.against else ''}.1f}" for number in self.difference)
        level = 95 if claim.test in ("better", "within") else 90
        left = f" without {', '.join(claim.without)}" if claim.without else ""
        what = f"{claim.endpoint.replace('_', '-')} of {', '.join(claim.classes)}"
        if claim.groups:
            what += f" by {claim.groups}"
        p = "by the interval alone" if self.corrected is None else f"p {self.corrected:.3g} after Holm"
        told = f"{p}, {len(self.patients)} patients, {self.seeds} seed(s)" + (
            ", none of whom differs" if self.nobody else ""
        )
        sides = _side(claim.subject) + (f" less {_side(claim.against)} is" if claim.against else " has")
        return (
            f"{claim.id} ({claim.says}): {self.verdict}; {sides} {value} points of "
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
    where = f", {side.condition}" if side.condition else ""
    return f"{side.method} ({side.model}{where})"


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
        if wrong := _wrong(claim):
            raise ConfigError(f"{path}: claim {claim.id}: {wrong}.")
    return claims, digest


def _wrong(claim: Claim) -> str:
    """What in a claim does not go together, or nothing."""
    equality, within = claim.endpoint == "equality", claim.test == "within"
    if claim.endpoint in ("recall", "equality") and len(claim.classes) != 1:
        return f"endpoint {claim.endpoint} is of one class; classes has {len(claim.classes)}"
    if equality != (claim.groups is not None):
        return "endpoint equality and groups, sex or age, go together"
    if within != (claim.against is None):
        return "test within is against nobody, and every other test against somebody"
    if within != (claim.between is not None):
        return "test within and between, two scores, go together"
    if claim.between is not None and not 0 <= claim.between[0] < claim.between[1] <= 1:
        return "between has to be two scores from 0 to 1, the least first"
    if claim.test in ("not worse", "level") and not claim.margin:
        return f"test {claim.test} needs a margin above 0"
    return ""


class Tables(NamedTuple):
    """Test predictions of one side: confusion matrices int[seeds, patients, C, C] over `classes`.

    Attributes:
        groups: of each patient, 0 or 1, or -1 where it is in none that is known.
    """

    patients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: np.ndarray
    groups: np.ndarray


def tables_of(
    paths: Sequence[Path], model: Model, classes: Sequence[str], without: Sequence[str], groups: str | None = None
) -> Tables:
    """The confusion matrices of each patient in each seed's predictions; `groups` names the column of the group.

    Raises:
        DataError: a file is missing or none of predictions, or seeds were tested on other beats.
    """
    import pandas as pd

    index = {name: i for i, name in enumerate(classes)}
    frames: list[Any] = []
    member: dict[str, str] = {}
    columns = ["patient", "model", "true", "predicted", *([groups] if groups else [])]
    for path in paths:
        try:
            frame = pd.read_parquet(path, columns=columns)
        except Exception as error:  # pyarrow has many
            raise DataError(f"{path}: holds no predictions ({type(error).__name__}).") from None
        frames.append(frame[(frame["model"] == model) & ~frame["patient"].isin(without)])
        if groups:
            member |= dict(zip(frame["patient"], frame[groups], strict=True))
    patients = tuple(sorted({name for frame in frames for name in frame["patient"]}))
    place = {name: i for i, name in enumerate(patients)}
    counts = np.zeros((len(frames), len(patients), len(classes), len(classes)), np.int64)
    for seed, frame in enumerate(frames):
        rows = (frame["patient"].map(place), frame["true"].map(index), frame["predicted"].map(index))
        np.add.at(counts[seed], tuple(row.to_numpy(int) for row in rows), 1)
    known = ATTRIBUTES.get(groups or "", ())
    place_of = [known.index(one) if (one := member.get(name, "")) in known else -1 for name in patients]
    return Tables(patients, tuple(classes), counts, np.array(place_of, int))


def _apart(tables: Tables) -> np.ndarray:
    """int[seeds, patients, 2, C, C]: each patient's matrix at the place of its group, zeros at the other's."""
    return tables.counts[:, :, None] * (tables.groups[:, None] == [0, 1])[:, :, None, None]


def judge(claims: Claims, folder: Path) -> list[Found]:
    """The verdict on each claim, out of a study's complete trials; the best trial of a method speaks for it.

    Raises:
        PulseLedgerError: the folder holds no study, or its results are damaged.
    """
    study, rows = read_study(folder), rows_of(folder)
    measured = [_measured(claim, claims, rows, folder, study.data.classes) for claim in claims.claims]
    corrected = iter(statistics.holm([found.p for found in measured if found.p is not None]))
    return [
        found if found.difference is None else _decided(found, found.p if found.p is None else next(corrected))
        for found in measured
    ]


def _measured(claim: Claim, claims: Claims, rows: Sequence[Row], folder: Path, classes: Sequence[str]) -> Found:
    """The numbers of a claim, not yet judged: its verdict is "not shown", or "not testable"."""

    def nothing(why: str, support: Mapping[str, int] | None = None) -> Found:
        return Found(claim, "not testable", None, None, None, (), (), support or {}, 0, why)

    if unknown := [name for name in claim.classes if name not in classes]:
        return nothing(f"the study has no class {unknown[0]}")
    sides = []
    for side in (claim.subject, *([claim.against] if claim.against else [])):
        condition = side.condition or claim.condition
        if (paths := predictions(rows, folder, condition, side.method)) is None:
            return nothing(f"no finished trial of {side.method} in condition {condition}")
        sides.append(tables_of(paths, side.model, classes, claim.without, claim.groups))
    ours, theirs = sides[0], sides[-1]
    truth = [one.counts.sum(-1) for one in sides]
    if ours.patients != theirs.patients or len(truth[0]) != len(truth[-1]) or (truth[0] != truth[-1]).any():
        return nothing(
            f"{claim.subject.method} and {(claim.against or claim.subject).method} were tested on other beats"
        )
    chosen = [ours.classes.index(name) for name in claim.classes]
    support = {n: int(truth[0].sum(1)[:, i].min()) for n, i in zip(claim.classes, chosen, strict=True)}
    if few := [name for name, beats in support.items() if beats < claims.min_support]:
        return nothing(f"{few[0]} has {support[few[0]]} test beats, fewer than {claims.min_support}", support)
    has = truth[0][:, :, chosen].sum((0, 2)) > 0
    if has.sum() < claim.patients:
        return nothing(f"{has.sum()} patients have such beats, fewer than {claim.patients}", support)
    for i, name in enumerate(ATTRIBUTES.get(claim.groups or "", ())):
        of_it = has & (ours.groups == i)
        beats = int(truth[0][:, of_it][:, :, chosen].sum((1, 2)).min())
        if beats < claims.min_support or of_it.sum() < claim.patients / 2:
            return nothing(f"{of_it.sum()} patients of group {name} have {beats} such beats, too few", support)
    patients = tuple(name for name, there in zip(ours.patients, has.tolist(), strict=True) if there)
    found = Found(claim, "not shown", None, None, None, patients, (), support, len(ours.counts), "")
    return _with_numbers(found, claims, sides, has, chosen)


def predictions(rows: Sequence[Row], folder: Path, condition: str, method: str) -> list[Path] | None:
    """The files of predictions of a method's best finished trial, one a seed; None where there is none."""
    for row in rows:
        if row.outcome and not row.violated and (row.condition, row.method) == (condition, method):
            home = trial_folder(folder, row.trial)
            return [repeat_folder(home, i) / PREDICTIONS for i in range(row.outcome.repeats)]
    return None


def _with_numbers(
    found: Found, claims: Claims, tables: Sequence[Tables], has: np.ndarray, chosen: Sequence[int]
) -> Found:
    """With patients' own differences, the interval and, where patients can be tested one by one, p."""
    claim = found.claim
    own = statistics.macro_f1 if claim.endpoint == "macro_f1" else statistics.accuracy
    scores = [own(one.counts[:, has], chosen) for one in tables]
    each = np.nanmean(scores[0] - scores[1] if claim.against else scores[0], 0)  # a patient may miss in some seeds
    equality = claim.endpoint == "equality"
    level = 1 - ALPHA if claim.test in ("better", "within") else 1 - 2 * ALPHA
    sides = [(_apart(one) if equality else one.counts)[:, has] for one in tables]
    interval = statistics.by_patients(
        sides[0],
        sides[1] if claim.against else None,
        statistics.equality if equality else own,
        chosen,
        level,
        claims.resamples,
        claims.seed,
    )
    p = None
    if not equality and claim.test != "within":
        p = {
            "better": lambda: statistics.wilcoxon(each - claim.margin),
            "level": lambda: statistics.tost(each, claim.margin),
            "not worse": lambda: statistics.not_worse(each, claim.margin),
        }[claim.test]()
    return replace(found, difference=interval, p=p, each=tuple(each.tolist()))


def _decided(found: Found, corrected: float | None) -> Found:
    """The verdict: test, if there is one, and interval have to agree that a claim holds; the interval alone may exclude it."""
    assert found.difference is not None
    _, low, high = found.difference
    margin, test = found.claim.margin, found.claim.test
    least, greatest = found.claim.between or (-margin, margin)
    holds, fails = {
        "better": (low > margin, high < margin),
        "not worse": (low > -margin, high < -margin),
        "level": (least < low and high < greatest, high < least or low > greatest),
        "within": (least <= low and high <= greatest, high < least or low > greatest),
    }[test]
    shown = holds and (corrected is None or corrected < ALPHA)
    verdict: Verdict = "validated" if shown else "refuted" if fails else "not shown"
    return replace(found, verdict=verdict, corrected=corrected)


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
