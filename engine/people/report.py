"""What a result says of patients, of groups of patients, and of how sure the models are."""

from pydantic import Field

from engine.part import Many, Part


class Group(Part):
    """A group of patients under one model, on its test beats.

    Attributes:
        group: "female", "male", "<65", ">=65", or "unknown".
        accuracy, macro_f1: as of all beats; macro-F1 over the scored classes that the group has.
        confusion: rows are true classes, columns predicted ones.
    """

    group: str
    patients: int
    beats: int
    accuracy: float | None
    macro_f1: float | None
    confusion: Many[Many[int]]


class Gaps(Part):
    """How far groups lie apart, class by class, one class against all others; see docs/fairness.md.

    Attributes:
        groups: those that have patients; the unknown one last, in no gap.
        demographic_parity: largest less smallest share of beats that are called the class.
        equal_opportunity: likewise of recall; None where a group has no beat of the class.
        equalised_odds: the larger one of equal opportunity and of the gap in false alarms.
        testable: classes of which each of two groups has at least `cohort.min_support` beats, and as many of the others.
        worst: largest equalised odds of the testable classes; None where there is none.
    """

    groups: Many[Group]
    demographic_parity: dict[str, float | None]
    equal_opportunity: dict[str, float | None]
    equalised_odds: dict[str, float | None]
    testable: Many[str]
    worst: float | None


class Fairness(Part):
    """Under one model, by sex and by age."""

    sex: Gaps
    age: Gaps


class BothFairness(Part):
    """Of the global model, and of the hospitals' personal ones."""

    global_: Fairness = Field(validation_alias="global", serialization_alias="global")
    personal: Fairness


class Bin(Part):
    """Beats of which a model is about equally sure: how many, how many it calls right, and the sum of its confidence, in parts of
    10,000."""

    beats: int
    right: int
    confidence: int


class Answered(Part):
    """What a model says where it is at least so sure, and leaves the other beats to a human.

    Attributes:
        threshold: confidence in parts of 10,000.
        share: of the beats that are answered.
        accuracy, macro_f1: of these.
    """

    threshold: int
    share: float
    accuracy: float | None
    macro_f1: float | None


class Calibration(Part):
    """How far a model is to be believed that says how sure it is.

    Attributes:
        ece: expected calibration error (Guo et al. 2017): mean over beats of how far share right and mean confidence of their bin
            are apart; None without beats.
        bins: 15 of equal width in confidence.
    """

    ece: float | None
    bins: Many[Bin]
    abstention: Many[Answered]


class BothCalibration(Part):
    """Of the global model, and of the hospitals' personal ones."""

    global_: Calibration = Field(validation_alias="global", serialization_alias="global")
    personal: Calibration


class Patient(Part):
    """One patient's test beats under both models: confusion matrices, rows true, columns predicted."""

    patient: str
    sex: str
    age: str
    global_: Many[Many[int]] = Field(validation_alias="global", serialization_alias="global")
    personal: Many[Many[int]]
