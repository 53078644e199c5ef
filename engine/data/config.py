"""Settings of records, beats and cohorts."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from engine.settings import Section

RrFeature = Literal["previous", "next", "previous_ratio", "next_ratio"]
RR_FEATURES: tuple[RrFeature, ...] = get_args(RrFeature)
CLASSES = "NSVFQ"
BEAT_SYMBOLS = "NLRejAaJSVEF/fQ"  # the annotation symbols of these classes


class SimulationConfig(Section):
    """The embedded cohort: real WFDB files written by `engine/data/simulate.py`."""

    patients: int = Field(12, ge=1, le=9_999, description="number of simulated patients, one record each")
    minutes: float = Field(8.0, gt=0.5, le=60, description="length of each record in minutes")
    seed: int = Field(0, ge=0, description="seed of the generator; the run's seed does not change the data")


class DataConfig(Section):
    """Which records, and how beats are cut out of them."""

    source: Literal["simulated", "mitdb", "folder"] = Field(
        "simulated", description="simulated records, MIT-BIH, or any folder of WFDB records (data.folder)"
    )
    folder: str | None = Field(None, description="folder that holds the WFDB records")
    records: Literal["all"] | tuple[str, ...] = Field("all", description="'all' or a list of record names")
    exclude: tuple[str, ...] = Field((), description="record names to leave out, such as the paced 102 104 107 217")
    window: tuple[int, int] = Field((180, 180), description="samples before and after the R peak")
    lead: str | int = Field("MLII", description="name of the lead, or its number from 0")
    lead_fallback: str | None = Field("V5", description="lead for records that lack `lead`; null refuses them")
    normalise: Literal["record", "beat", "none"] = Field(
        "record", description="scale by the record's median and spread, each beat by its own, or keep mV"
    )
    rr_features: bool | tuple[RrFeature, ...] = Field(True, description="timing features; true means all four")
    rr_context: int = Field(
        10, ge=1, le=500, description="beats on each side that make the local mean of the RR ratios"
    )
    classes: str = Field("NSVFQ", description="AAMI EC57 classes that are kept, a part of NSVFQ")
    drop_symbols: tuple[str, ...] = Field((), description="annotation symbols to leave out, such as Q")
    simulated: SimulationConfig = SimulationConfig()

    @field_validator("records", "exclude", "drop_symbols", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        # YAML reads 100 as a number; record names are text.
        return tuple(str(v) for v in value) if isinstance(value, list | tuple) else value

    @field_validator("records")
    @classmethod
    def _once(cls, value: Any) -> Any:
        if value != "all" and len(set(value)) < len(value):
            raise ValueError("must name each record once")
        return value

    @field_validator("window")
    @classmethod
    def _window(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 1 or sum(value) > 4096:
            raise ValueError("both numbers must be at least 1 and their sum at most 4096 samples")
        return value

    @field_validator("drop_symbols")
    @classmethod
    def _symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [symbol for symbol in value if symbol not in BEAT_SYMBOLS]:
            raise ValueError(f"{unknown[0]!r} is no beat symbol; allowed: {' '.join(BEAT_SYMBOLS)}")
        return value

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: str) -> str:
        if len(value) < 2 or any(c not in CLASSES for c in value) or len(set(value)) != len(value):
            raise ValueError("must be at least two different letters out of NSVFQ")
        return "".join(c for c in CLASSES if c in value)

    @model_validator(mode="after")
    def _folder(self) -> "DataConfig":
        if self.source == "folder" and not self.folder:
            raise ValueError("source 'folder' needs data.folder")
        return self

    @property
    def rr_names(self) -> tuple[RrFeature, ...]:
        """Names of the RR features in the order of the columns."""
        return (RR_FEATURES if self.rr_features else ()) if isinstance(self.rr_features, bool) else self.rr_features


class CohortConfig(Section):
    """How records become hospitals, and each hospital's beats become train, validation and test."""

    hospitals: int = Field(5, ge=1, le=100_000, description="number of hospitals")
    partition: Literal[
        "records", "one-record", "consecutive", "pathology", "record-dirichlet", "beat-dirichlet", "quantity"
    ] = Field("pathology", description="how records are given to hospitals")
    alpha: float = Field(0.3, gt=0, description="Dirichlet concentration; small is skewed")
    exponent: float = Field(1.0, ge=0, description="partition quantity: hospital sizes fall like rank ** -exponent")
    groups: tuple[tuple[str, ...], ...] | None = Field(
        None, description="partition records: the records of each hospital"
    )
    split: Literal["chronological", "random", "inter-patient", "leave-one-hospital-out"] = Field(
        "chronological", description="how beats are parted into train, validation and test"
    )
    fractions: tuple[float, float, float] = Field((0.6, 0.1, 0.3), description="train, validation, test")
    held_out: int = Field(0, ge=0, description="split leave-one-hospital-out: the hospital that never trains")
    adapt_minutes: float = Field(5.0, gt=0, description="minutes at the start of an unseen record used to adapt")
    seed: int = Field(0, ge=0, description="seed of partition and split, apart from the run's seed")

    @field_validator("groups", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        # A group that is no list is left for pydantic to refuse: the letters of "100" are not three records.
        if not isinstance(value, list | tuple):
            return value
        return tuple(tuple(str(v) for v in g) if isinstance(g, list | tuple) else g for g in value)

    @field_validator("fractions")
    @classmethod
    def _fractions(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] <= 0 or value[2] <= 0 or abs(sum(value) - 1) > 1e-9:
            raise ValueError("three numbers that add up to 1, train and test above 0")
        return value

    @model_validator(mode="after")
    def _together(self) -> "CohortConfig":
        if self.partition == "records" and not self.groups:
            raise ValueError("partition 'records' needs cohort.groups, a list of record lists")
        if self.groups and self.partition == "records" and len(self.groups) != self.hospitals:
            raise ValueError(f"cohort.groups has {len(self.groups)} lists but cohort.hospitals is {self.hospitals}")
        if self.groups and self.partition == "records" and not all(self.groups):
            raise ValueError("each list of cohort.groups needs at least one record")
        if self.split == "leave-one-hospital-out" and (self.held_out >= self.hospitals or self.hospitals < 2):
            raise ValueError("held_out must be below hospitals, and there must be at least two hospitals")
        return self
