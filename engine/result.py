"""The result of a run, `result.json`: frozen records, one version, one reader.

What a run reports crosses every wall of the house: trainer, ledger, tracker, study, report. So its shape stands here,
and whoever wants a number reads it through `Result`:

    result = Result.read(folder)
    result.final.personal.macro_f1
    result.score("validation/personal/recall/S")

Keys that a later release adds without a new version are kept and written again; a change of what a key means gets a new
version. A field whose default is None is absent from the file where it does not apply; None of any other field says that
there is no such number, such as the recall of a class without beats.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from engine.association.report import AssociationReport
from engine.config import RunConfig
from engine.encoding import read_json
from engine.errors import DataError
from engine.files import read_text, write_text
from engine.levels.report import TopologyReport
from engine.part import Many, Part
from engine.people.report import BothCalibration, BothFairness, Patient
from engine.privacy.membership import Membership
from engine.settings import sentence
from engine.timing.report import ClockReport, Virtual

RESULT, PREDICTIONS, MODEL, PICTURE = "result.json", "predictions.parquet", "model.safetensors", "confusion.svg"
VERSION: Literal[5] = 5

Model = Literal["global", "personal"]


# --- Scores -----------------------------------------------------------------------------------------------------------


class HospitalScores(Part):
    """One hospital's scores; a class that it does not have has no recall, and one without scored beats no macro-F1."""

    id: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float | None
    recall_min: float | None
    recall: dict[str, float | None]
    precision: dict[str, float | None]
    f1: dict[str, float | None]
    support: dict[str, int]


class Scores(Part):
    """What `metrics.federation_scores` says of one model; None where there was no beat to measure it on.

    Attributes:
        balanced_accuracy, macro_f1, recall_min, rare_recall: over the classes of `CohortReport.scored`.
        rare_recall: mean recall of all of them but the commonest.
        recall, precision, f1, support: by class.
        confusion: rows are true classes, columns predicted ones.
        per_hospital: hospitals that have beats here; none in a round of many hospitals.
        worst_tenth_macro_f1, variance_hospital_macro_f1, jain_index: how even the hospitals' macro-F1 are.
    """

    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    recall_min: float | None
    rare_recall: float | None
    recall: dict[str, float | None]
    precision: dict[str, float | None]
    f1: dict[str, float | None]
    support: dict[str, int]
    confusion: Many[Many[int]]
    per_hospital: Many[HospitalScores]
    mean_hospital_macro_f1: float | None
    worst_hospital_macro_f1: float | None
    worst_hospital_accuracy: float | None
    worst_tenth_macro_f1: float | None
    variance_hospital_macro_f1: float | None
    jain_index: float | None


SCORES = tuple(
    name for name, field in Scores.model_fields.items() if field.annotation == float | None
)  # one number each


class PersonalScores(Scores):
    """Scores of the personal models, held against the global one.

    Attributes:
        hurt_share: of the hospitals, those with a lower macro-F1 than the global model gives them.
    """

    hurt_share: float | None


class BothScores(Part):
    """Scores of the global model and of the hospitals' personal ones on the same beats."""

    global_: Scores = Field(validation_alias="global", serialization_alias="global")
    personal: PersonalScores

    def of(self, model: Model) -> Scores:
        """The scores of one of them, by name."""
        return self.global_ if model == "global" else self.personal


# --- Cohort -----------------------------------------------------------------------------------------------------------


class HospitalReport(Part):
    """A hospital's share of the data: its records, beats in each part, beats of each class, beats left out and why.

    Attributes:
        not_testable: classes with fewer of its test beats than `cohort.min_support`.
    """

    id: int
    records: Many[str]
    trains: bool
    train: int
    validation: int
    test: int
    classes: dict[str, int]
    local_majority_accuracy: float | None
    local_majority_macro_f1: float | None
    not_testable: Many[str]
    left_out: dict[str, int]


class Heterogeneity(Part):
    """How different the hospitals are; see `cohort.heterogeneity`."""

    emd_mean: float
    emd_max: float
    js: float
    hellinger: float
    size_cv: float


class CohortReport(Part):
    """All hospitals; see `cohort.describe`.

    Attributes:
        scored: classes with validation and test beats: those that macro-F1 and balanced accuracy are means over.
        not_testable: classes with fewer test beats of all hospitals than `cohort.min_support`.
        leaky: what lets test beats be known, or cannot be excluded to, in sentences.
        unit: what the samples are called: beats, or what a data source of the user's own says.
        shape: leads and length of a sample; 1 and the number of columns where it is features.
        features: names of those columns; empty for signals.
        missing_values: of the features, which a rule has filled.
        window: samples before and after the R peak, at `sampling_rate`; zeros and empty fields where there are no records.
        native_rates: Hz of the files -> records.
        leads: lead that was read -> records.
        patients_source: what says whose the records are; "" where each is taken for a patient.
        left_out: reason -> beats.
        doubled: annotations of a beat that was annotated already.
        symbols_dropped, symbols_no_beats: annotation symbol -> annotations that were not used.
    """

    beats: int
    edge_beats: int
    digest: str
    classes: dict[str, int]
    scored: Many[str]
    not_testable: Many[str]
    hospitals: Many[HospitalReport]
    heterogeneity: Heterogeneity
    missing: dict[str, Many[int]]
    local_majority_accuracy: float | None
    local_majority_macro_f1: float | None
    local_majority_accuracy_all: float | None
    global_majority_accuracy: float | None
    patients_shared: Many[str]
    leaky: Many[str]
    unit: str
    shape: Many[int]
    features: Many[str]
    missing_values: int
    window: Many[int]
    sampling_rate: float
    native_rates: dict[str, int]
    leads: dict[str, Many[str]]
    patients: int
    patients_source: str
    left_out: dict[str, int]
    doubled: int
    symbols_dropped: dict[str, int]
    symbols_no_beats: dict[str, int]


# --- Rounds, ledger, time ---------------------------------------------------------------------------------------------


class VerdictRow(Part):
    """What a committee found of one update: its score in parts of 10,000."""

    hospital: int
    score: int
    qualified: bool


class CommitteeRow(Part):
    """Who judged the updates of a round, and how.

    Attributes:
        judges: hospitals that owed scores, ascending; `absent` those of them that gave none.
        leader: hospital whose update was found best; None where nobody leads.
    """

    judges: Many[int]
    absent: Many[int]
    verdicts: Many[VerdictRow]
    leader: int | None = None


class RoundSummary(Part):
    """One round: a row of `rounds`, of a checkpoint's history, and what observers are told.

    Attributes:
        seconds: of the whole round; the other times are parts of it.
        sign_seconds: that the round takes longer as hospitals check and sign.
        participants: hospitals whose updates were taken.
        lost: what failed, in sentences.
        train_loss: mean over the participants' beats; None where a privacy mechanism keeps it back.
        validation: of the global model after the round.
        peer_seconds: in which judges scored the updates.
        virtual: on the virtual clock; None where none is kept.
        committee: who judged and how; None where no committee sits.
    """

    round: int
    seconds: float
    train_seconds: float
    peer_seconds: float
    hash_seconds: float
    sign_seconds: float
    participants: int
    lost: Many[str]
    train_loss: float | None
    gradient_evaluations: int
    validation: Scores
    virtual: Virtual | None = None
    committee: CommitteeRow | None = None


class Standing(Part):
    """What the ledger says of one hospital at the end."""

    id: int
    reputation: int
    reward: int


class Term(Part):
    """A time in which a successor led: from `round` on."""

    term: int
    name: str
    account: str
    round: int


class LedgerSummary(Part):
    """What the ledger holds of a run; without one only the backend "none", all else is None.

    Attributes:
        head: commits to everything that was recorded.
        cosigned: hospitals that signed their result and the last head.
        gas_per_round: mean of what sealing a round takes.
        checked: rounds whose model a hospital has computed again from the updates of all.
        final: whether all rounds are beyond dispute.
        final_after: seconds since 1970 from when on they can be made final, if they are not.
        seconds: spent in appending rounds, beside the training.
        open_seconds, close_seconds: before the first round and after the last one, which no round waits for.
        critical_path_seconds: that the training waited for the ledger; `overhead_share` is their part of all.
        closing: digest of what closed the run, which is on the chain; a run that is not at its end has none.
        hospitals: by slot, where hospitals score each other.
        terms: of successors that took over; None where the first coordinator led to the end.
    """

    hospitals: Many[Standing] | None = None
    head: str | None = None
    contract: str | None = None
    chain_id: int | None = None
    backend: str
    updates: int | None = None
    rounds: int | None = None
    cosigned: int | None = None
    transactions: int | None = None
    gas_total: int | None = None
    gas_per_round: float | None = None
    checked: int | None = None
    final: bool | None = None
    final_after: int | None = None
    seconds: float | None = None
    open_seconds: float | None = None
    close_seconds: float | None = None
    critical_path_seconds: float | None = None
    overhead_share: float | None = None
    closing: str | None = None
    terms: Many[Term] | None = None

    @model_validator(mode="after")
    def _all_or_nothing(self) -> "LedgerSummary":
        names = [name for name in type(self).model_fields if name not in ("backend", "hospitals", "closing", "terms")]
        lacking = [name for name in names if getattr(self, name) is None]
        if self.backend != "none" and lacking:
            raise ValueError(f"{lacking[0]} is missing, which every ledger has")
        return self


class Timing(Part):
    """Times in seconds, and work in gradients of one batch.

    Attributes:
        gradient_evaluations: all of them; `personalisation_gradient_evaluations` are those after the last round.
    """

    train_seconds: float
    rounds_seconds: float
    gradient_evaluations: int
    personalisation_gradient_evaluations: int
    total_seconds: float


class Preview(Part):
    """Beats that a hospital made for a reviewer to look at.

    Attributes:
        generated: beats; 0 where none could be made.
        batch, evidence: digests in hex.
        file: the report on them, in the run's folder.
    """

    generated: int
    batch: str
    evidence: str
    file: str


WAITS = ("pending", "previewed")  # statuses of a request that a reviewer may decide on


class SyntheticRow(Part):
    """How one request for synthetic beats stands, or ended.

    Attributes:
        request: its id in hex.
        organisation: that asks, in hex.
        record: the request as the hospital signed it, JSON.
        wanted, granted, accepted: beats.
        real_floor: all that is told of how many real beats there are.
        allowed: beats that the policy would grant now, while it waits for a reviewer; else 0.
        preview: what the reviewer was shown before he decided, where the policy wants that.
        blind: it waits, and the policy wants such a preview, of a beat at least, before a grant.
        status: such as "accepted", "denied" or "rejected"; `reasons` says why.
        numbers: of the quality report that the policy decides by.
        batch, evidence: digests in hex.
        file: the report, in the run's folder.
    """

    request: str
    hospital: int
    class_: str = Field(validation_alias="class", serialization_alias="class")
    generator: str
    wanted: int
    real_floor: int
    allowed: int
    granted: int
    accepted: int
    status: str
    reasons: str
    preview: Preview | None
    blind: bool
    numbers: dict[str, int] | None
    batch: str | None
    evidence: str | None
    file: str | None
    organisation: str
    record: str


class PrivacySpent(Part):
    """What one hospital has spent.

    Attributes:
        samples: of which one gradient was released, and of which two were.
        told: whether it said so itself; else this is the whole budget.
    """

    id: int
    samples: Many[int]
    epsilon: float
    told: bool


class PrivacyReport(Part):
    """What a privacy mechanism that keeps an account has cost; see docs/privacy.md.

    Attributes:
        unit: what is protected.
        neighbours: in what two data sets differ that cannot be told apart.
        epsilon: the largest of the hospitals', each of which is the smaller of two upper bounds; `pld` and `rdp` are the two of
            the largest.
        alone: epsilon at most where all others of each masked sum work together; None where no noise is shared.
        shares: hospitals of a masked sum whose noise together has the multiplier; 1: each one's.
        sigma: noise multiplier.
        clip: what it multiplies: largest norm of one unit's gradient; of released features how far two neighbours are apart at most.
        budget: samples that each hospital may take, as `PrivacySpent.samples`.
        secret: "simulated" or "key": where noise and sampling come from.
        most_beats_of_a_patient: train beats of one patient in one hospital; what protects a beat protects none of so many.
        not_protected: what leaves a hospital besides, in words.
    """

    mechanism: str
    unit: str
    neighbours: str
    epsilon: float
    delta: float
    pld: float
    rdp: float
    alone: float | None = None
    shares: int
    sigma: float
    clip: float
    sampling_rate: float
    budget: Many[int]
    secret: str
    most_beats_of_a_patient: int
    not_protected: Many[str]
    hospitals: Many[PrivacySpent]


class Backdoor(Part):
    """How often a simulated backdoor opens.

    Attributes:
        beats: test beats of honest hospitals of other classes than the target, all seen with the trigger.
        global_, personal: the share of them that the models call the target; None without such beats.
    """

    target: str
    beats: int
    global_: float | None = Field(validation_alias="global", serialization_alias="global")
    personal: float | None


# --- The whole --------------------------------------------------------------------------------------------------------


class Result(Part):
    """The content of `result.json`.

    Attributes:
        config: that was really used; `config_hash` is its identity.
        model_hash: of the global model after the last round, in hex.
        parameters: number of them.
        final: scores on the test beats. Nothing is chosen by them.
        validation: scores on the validation beats.
        fairness, calibration: on the test beats of honest hospitals.
        patients: likewise; () with very many.
        synthesis: requests for synthetic beats; None where none can be asked for.
        lost: hospitals that could not be tested, in sentences.
        clock: the virtual clock after the last round; None where none is kept.
        association: of hospitals with miners; None where there are none.
        topology: levels between hospitals and coordinator; None where there are none.
        hostile: hospitals that play attackers: no score and no trivial line is over them; None where none does.
        privacy: what was spent; None where no account is kept.
        backdoor: how often one opens; None where no attack plants one.
        membership: how far the models tell train beats from others; None where nobody asked, or too few beats are there.
    """

    version: Literal[5]
    name: str
    config_hash: str
    config: RunConfig
    model_hash: str
    parameters: int
    cohort: CohortReport
    final: BothScores
    validation: BothScores
    fairness: BothFairness
    calibration: BothCalibration
    patients: Many[Patient]
    rounds: Many[RoundSummary]
    ledger: LedgerSummary
    timing: Timing
    synthesis: Many[SyntheticRow] | None = None
    lost: Many[str]
    hostile: Many[int] | None = None
    clock: ClockReport | None = None
    association: AssociationReport | None = None
    topology: TopologyReport | None = None
    privacy: PrivacyReport | None = None
    backdoor: Backdoor | None = None
    membership: Membership | None = None

    def score(self, path: str) -> float | None:
        """The number at a path such as "validation/personal/recall/S" or "ledger/gas_per_round".

        None where this run has none: a class without beats, a run without a ledger.

        Raises:
            KeyError: no result has such a number.
        """
        value: Any = self
        for name in path.split("/"):
            if isinstance(value, Part):
                field = "global_" if name == "global" else name
                if not hasattr(value, field):
                    raise KeyError(path)
                value = getattr(value, field)
            elif isinstance(value, Mapping):
                value = value.get(name)
        return value

    def ended(self, total_seconds: float, ledger: LedgerSummary) -> "Result":
        """This result with what is known at the very end only: the whole time, and what the ledger holds then."""
        timing = self.timing.model_copy(update={"total_seconds": total_seconds})
        return self.model_copy(update={"timing": timing, "ledger": ledger})

    def write(self, folder: Path) -> None:
        """Writes `result.json`, whole or not at all.

        Raises:
            DataError: as of `files.whole`.
        """
        write_text(folder / RESULT, json.dumps(self.document(), indent=1, allow_nan=False))

    @classmethod
    def read(cls, folder: Path, config_hash: str | None = None) -> "Result":
        """The result of a finished run.

        Args:
            config_hash: of the configuration that it must belong to.

        Raises:
            DataError: there is none; it is damaged, foreign or of another version; it belongs to another configuration.
        """
        path = folder / RESULT
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise DataError(f"{folder}: holds no finished run ({RESULT} is missing).") from None
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not readable (it is no text in UTF-8).") from None
        except OSError as error:
            raise DataError(f"{path}: is not readable ({error.strerror}).") from None
        try:
            result = cls.model_validate_json(text)
        except ValidationError as error:
            raise DataError(f"{path}: is not readable ({_reason(text, error)}).") from None
        if config_hash is not None and result.config_hash != config_hash:
            raise DataError(
                f"{path}: belongs to another configuration ({result.config_hash[:12]}, not {config_hash[:12]}); use "
                "another folder."
            )
        return result


def read_rounds(rows: Iterable[Any], path: Path) -> tuple[RoundSummary, ...]:
    """Rounds out of plain values, as in a checkpoint.

    Raises:
        DataError: one is damaged; names the file `path`.
    """
    try:
        return tuple(RoundSummary.model_validate(row) for row in rows)
    except ValidationError as error:
        raise DataError(f"{path}: is not readable (rounds: {sentence(RoundSummary, error)}).") from None


def _reason(text: str, error: ValidationError) -> str:
    """What is wrong with a file, first of all that it is of another version."""
    try:
        values = read_json(text)
    except ValueError as problem:
        return f"it is no JSON: {problem}"
    if not isinstance(values, dict):
        return f"it holds a {type(values).__name__}, not a result"
    if "version" not in values:
        return f"version is missing: it is no result, or one of an older release; this one reads version {VERSION}"
    if values["version"] != VERSION:
        return f"version is {values['version']!r:.40}, this release reads version {VERSION}"
    return sentence(Result, error)
