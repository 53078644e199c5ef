"""Settings of records, beats and cohorts."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own, is_own
from engine.settings import Mistake, Name, Section

RrFeature = Literal["previous", "next", "previous_ratio", "next_ratio"]
RR_FEATURES: tuple[RrFeature, ...] = get_args(RrFeature)
CLASSES = ("N", "S", "V", "F", "Q")  # of ANSI/AAMI EC57
MOST_CLASSES = 100
# The 19 beat annotations of WFDB and their classes of ANSI/AAMI EC57. `e` and `j` (escape beats) are N here; putting
# them into S, as many repositories do, is wrong. `?` is a beat that a detector had not learnt yet.
AAMI = {
    **dict.fromkeys("NLRejBn", "N"),
    **dict.fromkeys("AaJS", "S"),
    **dict.fromkeys("VEr", "V"),
    "F": "F",
    **dict.fromkeys("/fQ?", "Q"),
}
LONGEST_WINDOW = 4096  # samples
MOST_LEADS = 16

Source = Literal["simulated", "mitdb", "incart", "svdb", "folder"]
Lead = Annotated[str | int, Field(union_mode="left_to_right")]


def _listed(value: Any) -> Any:
    """One lead is a list of one."""
    leads = value if isinstance(value, list | tuple) else (value,)
    if not leads or any(isinstance(lead, bool) or not isinstance(lead, str | int) for lead in leads):
        raise ValueError("must be a lead's name, its number from 0, or a list of such in order of preference")
    return leads


Leads = Annotated[tuple[Lead, ...], BeforeValidator(_listed)]


def _class_names(value: Any) -> Any:
    """Letters of AAMI EC57 may stand without commas: NSVF."""
    if isinstance(value, str):
        if not value or any(letter not in CLASSES for letter in value):
            raise ValueError(f"must be a list of names, or letters out of {''.join(CLASSES)}")
        return tuple(value)
    return value


def _class_name(value: str) -> str:
    # they stand in paths of scores, in names of metrics and in columns of tables
    if not re.fullmatch(r"\w([\w. -]{0,38}\w)?", value):
        raise ValueError(
            f"{value!r:.60} is no name of a class: up to 40 letters, digits, '_', '-', '.' and spaces within"
        )
    return value


ClassName = Annotated[Name, AfterValidator(_class_name)]
ClassNames = Annotated[tuple[ClassName, ...], BeforeValidator(_class_names)]


def labels_of(classes: Sequence[str]) -> tuple[str, ...]:
    """All classes that a beat can be annotated with, in the order in which they are numbered; the first is the usual one.

    Those of AAMI EC57 where `classes`, which are kept, are some of them; else just these.
    """
    return CLASSES if set(classes) <= set(CLASSES) else tuple(classes)


def rare(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes out of `labels_of` that may get more beats: not the usual one, nor AAMI's Q, which is a mixture."""
    return tuple(label for label in labels[1:] if (label, tuple(labels)) != ("Q", CLASSES))


def seconds_of(value: int | str) -> float | None:
    """Seconds of a length such as "0.25 s" or "250 ms"; None for a number of samples or beats.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int):
        return None
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+) *(s|ms)", value.strip())
    if not found:
        raise ValueError(f"{value!r} is no length; allowed: a whole number, or seconds as in '0.25 s' or '250 ms'")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def _length(value: int | str) -> int | str:
    seconds_of(value)
    return value


Length = Annotated[int | str, AfterValidator(_length)]


class SimulationConfig(Section):
    """The embedded cohort: real WFDB files written by `engine/data/simulate.py`."""

    patients: int = Field(12, ge=1, le=9_999, description="number of simulated patients, one record each")
    minutes: float = Field(8.0, gt=0.5, le=60, description="length of each record in minutes")
    seed: int = Field(0, ge=0, description="seed of the generator; the run's seed does not change the data")


class FilterConfig(Section):
    """Zero-phase filters over the whole record, before it is resampled and cut. They see no labels."""

    band: tuple[float, float] | None = Field(
        None, description="band-pass from and to these Hz, such as [0.5, 40]; null: none"
    )
    notch: float | None = Field(None, gt=0, description="mains hum to take out, in Hz, such as 50 or 60; null: none")

    @field_validator("band")
    @classmethod
    def _band(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] < value[1]:
            raise ValueError("must be two rising frequencies above 0 Hz")
        return value


class OtherConfig(Section):
    """The second database of split other-database: its records never train. What is null is as in `data`."""

    source: Source | Literal["none"] = Field("none", description="the database to test on, or none")
    folder: Name | None = Field(None, description="folder that holds its records")
    records: Literal["all"] | tuple[Name, ...] = Field("all", description="'all' or a list of its record names")
    exclude: tuple[Name, ...] = Field((), description="its records to leave out")
    lead: Leads | None = Field(None, description="its leads in order of preference; null: as data.lead")
    leads: tuple[Leads, ...] | None = Field(None, description="its input leads, as data.leads; null: as there")
    annotator: Name | None = Field(None, pattern=r"^[\w-]+$", description="suffix of its annotations")
    patients: dict[Name, Name] | str | None = Field(None, description="whose its records are, as data.patients")

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together in it."""
        if self.source == "folder" and not self.folder:
            yield Mistake("source 'folder' needs data.other.folder", ["source", "folder"])
        if self.lead is not None and self.leads is not None:
            yield Mistake("give lead or leads, not both", ["lead", "leads"])


# What only WFDB records have, which a source of the user's own does not read.
OF_RECORDS = tuple(
    "records exclude annotator patients rate filter window lead leads template template_minutes rr_features rr_context rr_stop symbols drop_symbols "
    "other simulated".split()
)


class DataConfig(OwnSection):
    """Which records, and how beats are cut out of them; or a source of the user's own, see `engine/data/examples.py`."""

    PART = "source"

    source: Source | Own = Field(
        "simulated",
        union_mode="left_to_right",
        description="simulated records, a known database, any folder of WFDB records (data.folder), or a source of your own",
    )
    parameters: Parameters = own_parameters()
    missing: Literal["refuse", "mask", "mean", "median"] = Field(
        "refuse",
        description="features that are missing: refuse them, add a column that says so, or fill them from the hospital's own train part",
    )
    folder: Name | None = Field(None, description="folder that holds the WFDB records, or what an own source reads")
    records: Literal["all"] | tuple[Name, ...] = Field("all", description="'all' or a list of record names")
    exclude: tuple[Name, ...] = Field((), description="record names to leave out, such as the paced 102 104 107 217")
    annotator: Name = Field("atr", pattern=r"^[\w-]+$", description="suffix of the annotation files")
    patients: dict[Name, Name] | str | None = Field(
        None,
        description="whose a record is: a .csv of record and patient, a mapping, a regular expression over the name, "
        "or {comment: one over the header's comments}; null: what is known",
    )
    rate: float | None = Field(
        None, gt=0, le=10_000, description="Hz that every record is resampled to; null: the one rate of all records"
    )
    filter: FilterConfig = FilterConfig()
    window: tuple[Length, Length] = Field(
        (180, 180), description="before and after the R peak, in samples or as '0.25 s'"
    )
    lead: Leads = Field(
        ("MLII", "V5"), description="lead by name or by number from 0; a list is in order of preference"
    )
    leads: tuple[Leads, ...] | None = Field(
        None,
        min_length=1,
        max_length=MOST_LEADS,
        description="several input leads, a list such as data.lead for each: [[MLII, II], [V1]]; null: the one of data.lead",
    )
    normalise: Literal["record", "train", "beat", "none"] = Field(
        "record",
        description="scale by median and spread of the whole record or of its train beats, each beat by its own, or keep mV",
    )
    template: Literal["none", "leads"] = Field(
        "none", description="leads: each input lead once more, less the record's median beat of its first minutes"
    )
    template_minutes: float = Field(5.0, gt=0, le=60, description="minutes that the median beat is made of")
    rr_features: bool | tuple[RrFeature, ...] = Field(True, description="timing features; true means all four")
    rr_context: Length = Field(
        10, description="beats on each side that make the local mean of the RR ratios, or a time as '10 s'"
    )
    rr_stop: bool | None = Field(
        None, description="timing before a guard gap knows no beat behind it; null: with normalise train only"
    )
    classes: ClassNames = Field(
        CLASSES,
        description="classes that are kept: AAMI EC57's, such as NSVF, or names out of data.symbols, the usual first",
    )
    symbols: dict[Name, ClassName | None] = Field(
        {}, description="annotation symbol: class, put over the AAMI map; null drops the symbol"
    )
    drop_symbols: tuple[Name, ...] = Field((), description="annotation symbols to leave out, such as Q")
    other: OtherConfig = OtherConfig()
    simulated: SimulationConfig = SimulationConfig()

    @field_validator("records")
    @classmethod
    def _once(cls, value: Any) -> Any:
        if value != "all" and len(set(value)) < len(value):
            raise ValueError("must name each record once")
        return value

    @field_validator("window")
    @classmethod
    def _window(cls, value: tuple[int | str, int | str]) -> tuple[int | str, int | str]:
        seconds = [seconds_of(side) for side in value]
        whole = [side for side in value if isinstance(side, int)]
        if min(s for s in (*seconds, *whole) if s is not None) <= 0 or sum(whole) > LONGEST_WINDOW:
            raise ValueError(f"both must be at least 1, or above 0 s, and their sum at most {LONGEST_WINDOW} samples")
        return value

    @field_validator("rr_context")
    @classmethod
    def _context(cls, value: int | str) -> int | str:
        seconds = seconds_of(value)
        if not (1 <= value <= 500 if isinstance(value, int) else 0 < (seconds or 0) <= 600):
            raise ValueError("must be 1 to 500 beats, or a time up to 600 s")
        return value

    @field_validator("symbols")
    @classmethod
    def _mapped(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for symbol in value:
            if not re.fullmatch(r"\S{1,3}", symbol):
                raise ValueError(
                    f"{symbol!r} is no annotation symbol; one is a single sign such as N or /, at most three"
                )
        return value

    @field_validator("drop_symbols")
    @classmethod
    def _dropped(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = {**AAMI, **info.data.get("symbols", {})}
        if unknown := [symbol for symbol in value if symbol not in known]:
            raise ValueError(f"{unknown[0]!r} is no beat symbol; allowed: {' '.join(known)}")
        return value

    @field_validator("patients")
    @classmethod
    def _patients(cls, value: Any) -> Any:
        pattern = value.get("comment") if isinstance(value, dict) and len(value) == 1 else value
        if isinstance(pattern, str) and not pattern.lower().endswith(".csv"):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"is neither a .csv file nor a regular expression ({error}); or give a mapping of record to patient"
                ) from None
        return value

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 2 <= len(value) <= MOST_CLASSES or len(set(value)) != len(value):
            raise ValueError(f"must be two to {MOST_CLASSES} different classes")
        return tuple(sorted(value, key=CLASSES.index)) if set(value) <= set(CLASSES) else value

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together in it."""
        yield from super().clashes()
        if self.source == "folder" and not self.folder:
            yield Mistake("source 'folder' needs data.folder", ["source", "folder"])
        if is_own(self.source):
            yield from self._of_own()
            return
        known = {*CLASSES, *self.classes}
        allowed = ", ".join(dict.fromkeys((*self.classes, *CLASSES)))
        for symbol, name in self.symbols.items():
            if name is not None and name not in known:
                says = f"symbols: {name!r} of {symbol} is no class; allowed: {allowed}, null"
                yield Mistake(says, ["symbols", "classes"])
        reached = {self.class_of(symbol) for symbol in (*AAMI, *self.symbols)}
        if lacking := [name for name in self.classes if name not in reached and name not in CLASSES]:
            yield Mistake(
                f"classes: no symbol is {lacking[0]!r}; data.symbols says which are, such as {{V: {lacking[0]}}}",
                ["classes", "symbols"],
            )
        if self.leads is not None and self.lead != DataConfig.model_fields["lead"].default:
            yield Mistake("give data.lead, one lead, or data.leads, several, not both", ["lead", "leads"])
        if self.other.source != "none" and len(self.of_other().inputs) != len(self.inputs):
            yield Mistake(
                f"data.other has {len(self.of_other().inputs)} input leads, data has {len(self.inputs)}; they must be as many",
                ["other", "lead", "leads"],
            )

    def _of_own(self) -> Iterator[Mistake]:
        for name in OF_RECORDS:
            if getattr(self, name) != DataConfig.model_fields[name].get_default(call_default_factory=True):
                says = f"{name} is for WFDB records; a source of your own takes data.parameters"
                yield Mistake(says, [name, "source"])
        if self.normalise not in ("train", "none"):
            yield Mistake(
                f"normalise {self.normalise} is for WFDB records; with a source of your own it is train (by each hospital's "
                "train part) or none",
                ["normalise", "source"],
            )

    @property
    def inputs(self) -> tuple[tuple[str | int, ...], ...]:
        """For each input lead, the leads that may be it in order of preference."""
        return (self.lead,) if self.leads is None else self.leads

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes that a beat can have, see `labels_of`."""
        return labels_of(self.classes)

    def of_other(self) -> "DataConfig":
        """Settings for the records of `other`: its own where it has some."""
        own = {name: getattr(self.other, name) for name in ("source", "folder", "records", "exclude", "patients")}
        own["annotator"] = self.other.annotator or self.annotator
        if self.other.lead is not None or self.other.leads is not None:
            own |= {"lead": self.other.lead or self.lead, "leads": self.other.leads}
        return self.model_copy(update={**own, "other": OtherConfig()})

    @property
    def rr_names(self) -> tuple[RrFeature, ...]:
        """Names of the RR features in the order of the columns."""
        return (RR_FEATURES if self.rr_features else ()) if isinstance(self.rr_features, bool) else self.rr_features

    def window_at(self, rate: float) -> tuple[int, int]:
        """Samples before and after the R peak at a sampling rate in Hz.

        Raises:
            ValueError: a side has no sample, or both have too many.
        """
        before, after = (
            side if isinstance(side, int) else round((seconds_of(side) or 0) * rate) for side in self.window
        )
        if min(before, after) < 1 or before + after > LONGEST_WINDOW:
            raise ValueError(
                f"data.window is {list(self.window)}, which at {rate:g} Hz is {before} and {after} samples; both must be "
                f"at least 1 and their sum at most {LONGEST_WINDOW}"
            )
        return before, after

    def class_of(self, symbol: str) -> str | None:
        """Class of an annotation symbol; None for what is no beat, or no beat of interest."""
        return self.symbols[symbol] if symbol in self.symbols else AAMI.get(symbol)

    def is_beat(self, symbol: str) -> bool:
        """Whether a symbol marks a beat, which counts for the timing of its neighbours also where it is left out."""
        return symbol in AAMI or self.symbols.get(symbol) is not None


class CohortConfig(Section):
    """How records become hospitals, and each hospital's beats become train, validation and test."""

    hospitals: int = Field(5, ge=1, le=100_000, description="number of hospitals")
    partition: Literal[
        "records", "one-record", "consecutive", "pathology", "record-dirichlet", "beat-dirichlet", "quantity", "given"
    ] = Field("pathology", description="how records are given to hospitals; given: as a source of your own says")
    alpha: float = Field(0.3, gt=0, description="Dirichlet concentration; small is skewed")
    exponent: float = Field(1.0, ge=0, description="partition quantity: hospital sizes fall like rank ** -exponent")
    groups: tuple[tuple[Name, ...], ...] | None = Field(
        None, description="partition records: the records of each hospital"
    )
    split: Literal[
        "chronological", "random", "patients", "inter-patient", "leave-one-hospital-out", "other-database"
    ] = Field(
        "chronological",
        description="how beats are parted into train, validation and test; patients: each hospital's, whole",
    )
    fractions: tuple[float, float, float] = Field((0.6, 0.1, 0.3), description="train, validation, test")
    held_out: int = Field(0, ge=0, description="split leave-one-hospital-out: the hospital that never trains")
    train_beats: int | None = Field(
        None,
        ge=1,
        description="of a hospital's train beats so many are kept, the first of each of its records; null: all",
    )
    min_support: int = Field(
        50, ge=1, le=100_000, description="test beats of a class, under which its scores are marked as not testable"
    )
    stratify: bool = Field(
        False,
        description="test more of a record, or other patients, where a class has fewer than min_support test beats",
    )
    adapt_minutes: float = Field(5.0, gt=0, description="minutes at the start of an unseen record used to adapt")
    seed: int = Field(0, ge=0, description="seed of partition and split, apart from the run's seed")

    @field_validator("fractions")
    @classmethod
    def _fractions(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] <= 0 or value[2] <= 0 or abs(sum(value) - 1) > 1e-9:
            raise ValueError("three numbers that add up to 1, train and test above 0")
        return value

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together in it."""
        by_record = ["partition", "groups"]
        if self.partition == "records" and not self.groups:
            yield Mistake("partition 'records' needs cohort.groups, a list of record lists", by_record)
        if self.groups and self.partition == "records" and len(self.groups) != self.hospitals:
            yield Mistake(
                f"cohort.groups has {len(self.groups)} lists but cohort.hospitals is {self.hospitals}",
                [*by_record, "hospitals"],
            )
        if self.groups and self.partition == "records" and not all(self.groups):
            yield Mistake("each list of cohort.groups needs at least one record", by_record)
        if self.stratify and self.split in ("inter-patient", "other-database"):
            yield Mistake(
                f"stratify chooses who is tested, and split {self.split} says it already", ["stratify", "split"]
            )
        if self.split == "leave-one-hospital-out" and (self.held_out >= self.hospitals or self.hospitals < 2):
            yield Mistake(
                "held_out must be below hospitals, and there must be at least two hospitals",
                ["split", "held_out", "hospitals"],
            )
