"""The settings of one run: frozen, checked before any work starts, read from and written to YAML.

Unknown keys are refused. `config_hash` identifies what was computed: it leaves out paths, hosts and concurrency,
which may not change a single number.
"""

import difflib
import hashlib
import json
import urllib.parse
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.errors import ConfigError

RrFeature = Literal["previous", "next", "previous_ratio", "next_ratio"]
RR_FEATURES: tuple[RrFeature, ...] = get_args(RrFeature)
CLASSES = "NSVFQ"
BEAT_SYMBOLS = "NLRejAaJSVEF/fQ"  # the annotation symbols of these classes


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SimulationConfig(_Section):
    """The embedded cohort: real WFDB files written by `engine/data/simulate.py`."""

    patients: int = Field(12, ge=1, le=9_999, description="number of simulated patients, one record each")
    minutes: float = Field(8.0, gt=0.5, le=60, description="length of each record in minutes")
    seed: int = Field(0, ge=0, description="seed of the generator; the run's seed does not change the data")


class DataConfig(_Section):
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


class CohortConfig(_Section):
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


class ModelConfig(_Section):
    """The network."""

    network: Literal["cnn"] = Field("cnn", description="the small 1-D CNN of engine/model.py")
    channels: tuple[int, int, int] = Field((16, 32, 64), description="output channels of the three convolutions")
    kernels: tuple[int, int, int] = Field((7, 5, 5), description="kernel widths, odd")
    hidden: int = Field(32, ge=1, le=4096, description="width of the layer before the classes")
    groups: int = Field(8, ge=1, description="groups of GroupNorm; must divide each of `channels`")
    pooled: int = Field(4, ge=1, le=64, description="stretches of time that the last average keeps apart")

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if min(self.channels) < 1 or any(c % self.groups for c in self.channels):
            raise ValueError(f"each of model.channels must be a multiple of model.groups ({self.groups})")
        if any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise ValueError("model.kernels must be odd numbers, at least 1")
        return self


class PerFedAvgConfig(_Section):
    """Per-FedAvg (Fallah, Mokhtari, Ozdaglar 2020). The letters are the paper's."""

    variant: Literal["first-order", "hessian-free", "exact"] = Field(
        "hessian-free", description="how the second-order term is treated"
    )
    alpha: float = Field(0.05, ge=0, description="rate of the inner step, also of the adaptation")
    beta: float = Field(0.2, gt=0, description="rate of the outer step")
    tau: int | None = Field(
        None, ge=1, description="meta-steps a round; null takes as many as cost no more gradients than FedAvg's epochs"
    )
    delta: float = Field(1e-2, gt=0, description="length of the central difference of the Hessian-free variant")
    stratified: bool = Field(True, description="draw support and query batches evenly over the hospital's classes")


class FederationConfig(_Section):
    """The federated loop."""

    algorithm: Literal["fedavg", "fedprox", "perfedavg", "local", "centralised"] = Field(
        "fedavg", description="'local' and 'centralised' are the reference lines without and with pooled data"
    )
    rounds: int = Field(20, ge=1, le=100_000, description="number of rounds")
    participation: float = Field(1.0, gt=0, le=1, description="share of hospitals that train in a round")
    local_epochs: int = Field(1, ge=1, le=1000, description="passes over the train data in a round")
    batch_size: int = Field(32, ge=1, le=65536, description="beats in a batch")
    learning_rate: float = Field(0.1, gt=0, description="rate of local SGD")
    decay: float = Field(1.0, gt=0, le=1, description="factor on the rates after each round")
    mu: float = Field(0.01, ge=0, description="FedProx: weight of the proximal term")
    weighting: Literal["auto", "samples", "uniform"] = Field(
        "auto", description="weights of the mean; auto is uniform for perfedavg (as in the paper), else samples"
    )
    validation: Literal["all", "participants"] = Field(
        "all", description="hospitals whose validation beats score each round's model"
    )
    min_hospitals: int | None = Field(None, ge=1, description="go on with this many when hospitals fail; null: all")
    perfedavg: PerFedAvgConfig = PerFedAvgConfig()


class PersonalisationConfig(_Section):
    """What each hospital does with the final global model, on its own train data only."""

    method: Literal["none", "finetune"] = Field("finetune", description="plain SGD from the global model, or nothing")
    steps: int = Field(10, ge=1, description="number of SGD steps")
    epochs: float | None = Field(None, gt=0, description="passes over the train data instead of `steps`")
    learning_rate: float | None = Field(
        None, gt=0, description="null: perfedavg.alpha for Per-FedAvg, else federation.learning_rate"
    )


def _class_letters(value: str) -> str:
    if not value or any(c not in CLASSES for c in value) or len(set(value)) != len(value):
        raise ValueError("must be different letters out of NSVFQ")
    return "".join(c for c in CLASSES if c in value)


class TimeGanConfig(_Section):
    """TimeGAN (Yoon, Jarrett, van der Schaar 2019) as ydata-synthetic has it. A step is one batch in each phase."""

    patch: int = Field(15, ge=1, le=512, description="samples of a beat in one step of the sequence")
    hidden: int = Field(24, ge=2, le=512, description="width of the recurrent layers")
    steps: int = Field(1500, ge=1, le=100_000, description="steps of each of the three phases")
    batch_size: int = Field(64, ge=1, le=4096, description="beats in a batch")
    learning_rate: float = Field(1e-3, gt=0, description="rate of Adam")
    gamma: float = Field(1.0, ge=0, description="weight of the discriminator's loss on the generator's raw output")
    minimum: int = Field(32, ge=2, description="real beats of the class without which nothing is trained")


class PolicyConfig(_Section):
    """What synthetic beats a hospital may make and use; the ledger keeps it in integers (`engine/ledger/policy.py`).

    Real beats count as the largest step of 0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, ... that they reach.
    """

    mode: Literal["automatic", "human"] = Field("automatic", description="who grants: these rules, or a reviewer too")
    # the rare classes: N is plentiful, Q is a mixture that no generator can learn
    classes: str = Field("SVF", description="classes that may be asked for")
    # both per class and hospital: three times the rarest class of a large hospital, and the ratio of `balance`
    quota: int = Field(1000, ge=0, lt=2**32, description="most beats for each hospital and class")
    ratio: float = Field(5.0, ge=0, le=10_000, description="most beats for each real one")
    share_cap: float = Field(
        0.85, ge=0, le=1, description="largest synthetic share of a class; lets a full ratio of 5 pass"
    )
    # k + 1 for the interpolating ones (borderline asks its 10 nearest, too); a deep generator learns from tens
    min_real: dict[str, int] = Field(
        {"oversample": 1, "smote": 6, "borderline": 11, "adasyn": 6, "timegan": 30},
        description="generators that are allowed -> fewest real beats; given, it replaces all of them",
    )
    # few rare beats support neither number: bounded by default, most requests would fail for want of evidence
    max_auc: float = Field(1.0, ge=0, le=1, description="largest AUC of a classifier that tells synthetic from real")
    min_utility: float = Field(-1.0, ge=-1, le=1, description="least change of the class's recall")
    # SMOTE with k = 5 measures 0.11 to 0.41 on MIT-BIH, copies with 1 % noise below 0.02
    min_nndr: float = Field(
        0.05, ge=0, le=6, description="least distance to real beats, as a ratio to that between real ones"
    )
    # of SMOTE's beats 10 to 25 % lie that near to a parent: a quarter of the quota
    max_duplicates: int = Field(
        250, ge=0, lt=2**31, description="most beats of a batch that equal a real one but for noise"
    )
    # a reviewer's week, and a week for the generation; the embedded chain counts a second for each transaction
    expiry_seconds: int = Field(604_800, ge=3600, lt=2**32, description="time to decide, and then to report")

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: str) -> str:
        return _class_letters(value)

    @field_validator("min_real")
    @classmethod
    def _generators(cls, value: dict[str, int]) -> dict[str, int]:
        allowed = ("oversample", "smote", "borderline", "adasyn", "timegan")
        if not set(value) <= set(allowed) or not all(0 <= n < 2**16 for n in value.values()):
            raise ValueError(f"must map generators out of {', '.join(allowed)} to numbers of 0 to 65535")
        return value


class BalanceConfig(_Section):
    """Class balancing of each hospital's own train data."""

    method: Literal[
        "none",
        "class_weighted",
        "logit_adjustment",
        "oversample",
        "smote",
        "borderline",
        "adasyn",
        "timegan",
    ] = Field("none", description="change the loss, repeat real beats, or add synthetic ones")
    classes: str = Field("SVF", description="classes that may get more beats")
    target: float = Field(0.5, gt=0, le=1, description="size to bring a class to, as a share of the largest class")
    ratio: float = Field(5.0, gt=0, description="at most this many added beats for each real one")
    quota: int = Field(1000, ge=1, description="at most this many added beats for each hospital and class")
    budget: Literal["all", "real"] = Field(
        "all", description="an epoch has the batches of all beats, or only as many as of the real ones, drawn from all"
    )
    neighbours: int = Field(5, ge=1, description="smote, borderline, adasyn: k, which needs k + 1 real beats")
    seed: int | None = Field(
        None, ge=0, description="seed of repeated and synthetic beats; null: the run's. Given, repeats share generators"
    )
    max_weight: float = Field(20.0, ge=1, description="class_weighted: largest weight of a class")
    tau: float = Field(1.0, ge=0, description="logit_adjustment: factor on the logarithm of the class shares")
    timegan: TimeGanConfig = TimeGanConfig()
    policy: PolicyConfig = PolicyConfig()

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: str) -> str:
        return _class_letters(value)


class LedgerConfig(_Section):
    """Where rounds are anchored."""

    backend: Literal["embedded", "rpc", "none"] = Field(
        "embedded", description="py-evm here, a JSON-RPC node, or nothing"
    )
    url: str | None = Field(None, description="rpc: address of the node")
    chain_id: int | None = Field(None, ge=1, description="rpc: the chain that is expected; null takes the node's")
    contract: str | None = Field(None, description="rpc: deployed contract; null deploys one")
    key_file: str | None = Field(None, description="rpc: file with the coordinator's private key (hex)")
    confirmations: int = Field(0, ge=0, le=1000, description="rpc: blocks on top of a round's own before it counts")
    timeout: float = Field(300.0, gt=0, le=86_400, description="rpc: seconds that a transaction may take")
    keystore: str | None = Field(None, description="folder of the hospitals' keys; null derives them from the seed")
    window: int = Field(0, ge=0, lt=2**24, description="seconds in which a sealed round can be disputed")
    reputation: Literal["none", "peers"] = Field(
        "none", description="peers: each round's hospitals score each other's updates on their own validation beats"
    )
    federation: str = Field("", max_length=200, description="label that tells apart equal runs on one contract")

    @model_validator(mode="after")
    def _url(self) -> "LedgerConfig":
        if self.backend == "rpc" and not self.url:
            raise ValueError("backend 'rpc' needs ledger.url")
        if self.reputation != "none" and self.backend == "none":
            raise ValueError(f"reputation '{self.reputation}' needs a ledger, but backend is 'none'")
        return self


class TrackingConfig(_Section):
    """Where curves and scores go."""

    backend: Literal["mlflow", "none"] = Field("mlflow", description="an MLflow store, or nothing")
    uri: str | None = Field(None, description="MLflow store; null: mlflow.db beside the runs")
    experiment: str = Field("pulseledger", min_length=1, description="name of the MLflow experiment")
    models: Literal["best", "conditions", "none"] = Field(
        "best", description="studies: log the global model of the best trial, of the best of each condition, or none"
    )


class ExecutionConfig(_Section):
    """Where the work runs. May not change a single number."""

    pool: Literal["ray", "inprocess", "threads"] = Field(
        "ray", description="Ray actors, this process, or threads of this process"
    )
    hospitals_per_actor: Literal["auto"] | int = Field(
        "auto", description="1: an actor each; auto: few one each, many shared"
    )
    oracle: Literal["auto", "native", "torch", "stacked"] = Field(
        "auto", description="what computes gradients: compiled kernel, torch, or torch for all hospitals at once (GPU)"
    )
    address: str = Field("local", description="Ray: 'local' starts one here, 'auto' or host:port joins one")
    cpus: int | None = Field(None, ge=1, description="CPUs of a local Ray, or number of threads; null: all")
    deadline: float = Field(600.0, gt=0, description="seconds that one round may take before it counts as lost")
    placement: Literal["pack", "spread"] = Field(
        "pack", description="a trial's hospitals on one node of a cluster, or over all of them"
    )
    sites: dict[int, str] = Field(
        {}, description="hospital -> value of the node label 'site': its actor runs on such a node only; needs pool ray"
    )

    @field_validator("hospitals_per_actor")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value != "auto" and value < 1:
            raise ValueError("must be 'auto' or a number of at least 1")
        return value


class RunConfig(_Section):
    """One federation: the whole configuration of `pulseledger run`."""

    name: str = Field("run", min_length=1, max_length=200, description="name of the run")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, batches and sampling")
    out: str | None = Field(None, description="folder for the results; null: runs/<name>")
    data: DataConfig = DataConfig()
    cohort: CohortConfig = CohortConfig()
    model: ModelConfig = ModelConfig()
    federation: FederationConfig = FederationConfig()
    personalisation: PersonalisationConfig = PersonalisationConfig()
    balance: BalanceConfig = BalanceConfig()
    ledger: LedgerConfig = LedgerConfig()
    tracking: TrackingConfig = TrackingConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _together(self) -> "RunConfig":
        if self.tracking.uri is not None and has_password(self.tracking.uri):
            raise ValueError(
                "tracking.uri must not hold a password, which would stay in config.yaml and in MLflow; give it in "
                "MLFLOW_TRACKING_PASSWORD for a server, in PGPASSWORD for a database"
            )
        if self.execution.sites:
            without = [h for h in range(self.cohort.hospitals) if h not in self.execution.sites]
            if without:
                raise ValueError(
                    f"execution.sites names no site for hospital {without[0]}; it needs one for each, or none"
                )
            if self.federation.algorithm == "centralised":
                raise ValueError("execution.sites: algorithm centralised brings all hospitals' data to one place")
            if self.execution.pool != "ray":
                raise ValueError(f"execution.sites needs execution.pool ray, which is {self.execution.pool}")
        if self.federation.min_hospitals is not None and self.federation.min_hospitals > self.cohort.hospitals:
            raise ValueError(
                f"federation.min_hospitals is {self.federation.min_hospitals} but there are only "
                f"{self.cohort.hospitals} hospitals"
            )
        return self


# What may differ between two runs that must give the same numbers.
_NOT_HASHED: Any = {
    "name": True,
    "out": True,
    "data": {"folder"},
    "ledger": True,
    "tracking": True,
    "execution": True,
}

_ADDING = ("classes", "target", "ratio", "quota", "budget", "seed")
# What each balancing method reads besides its name.
BALANCE_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "class_weighted": ("max_weight",),
    "logit_adjustment": ("tau",),
    "oversample": _ADDING,
    "smote": (*_ADDING, "neighbours", "policy"),
    "borderline": (*_ADDING, "neighbours", "policy"),
    "adasyn": (*_ADDING, "neighbours", "policy"),
    "timegan": (*_ADDING, "timegan", "policy"),
}


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and plain ASCII: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def config_hash(config: RunConfig) -> str:
    """SHA-256, in hex, of everything in `config` that can change a number.

    Settings of a balancing that is not used cannot, so only those that `engine/synthesis` reads for the method count.
    """
    values = config.model_dump(mode="json", exclude=_NOT_HASHED)
    values["balance"] = {key: values["balance"][key] for key in ("method", *BALANCE_KEYS[config.balance.method])}
    return hashlib.sha256(canonical_json(values)).hexdigest()


def has_password(address: str) -> bool:
    """Whether an address such as scheme://USER:PASSWORD@HOST holds a password, there or among its parameters."""
    parts = urllib.parse.urlsplit(address)
    return bool(parts.password) or "password" in urllib.parse.parse_qs(parts.query)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, source: str) -> Model:
    """Checks `values` against `model`; a mistake becomes one sentence that names the key and what is allowed."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of keys such as {', '.join(list(model.model_fields)[:4])}.")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_sentence(model, error)}") from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads one YAML mapping. Raises ConfigError for a missing file, a folder or broken YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file.") from None
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such day, as in 2024-02-31
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}{where}: is not valid YAML ({problem}).") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, not a {type(values).__name__}.")
    return values


def dump_yaml(model: BaseModel) -> str:
    """The YAML that `load_yaml` and `parse` turn into an equal model."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key such as `cohort.alpha` in nested dictionaries, in place."""
    *path, last = key.split(".")
    for name in path:
        child = values.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {name} is not a section.")
        values = child
    values[last] = value


def dotted_keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every leaf key of `model`, dotted, with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.update(dotted_keys(kind, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field
    return keys


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()
    first, path = errors[0], _user_path(model, errors[0]["loc"])
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for name in path[:-1]:
            owner = owner.model_fields[name].annotation
        allowed = list(owner.model_fields)
        near = difflib.get_close_matches(path[-1], allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{key} is not a known key{hint}; allowed here: {', '.join(allowed)}."
    # a value that may be of several kinds has one error for each kind
    same = [e["msg"] for e in errors if _user_path(model, e["loc"])[: len(path)] == path]
    messages = [m.removeprefix("Value error, ") for m in dict.fromkeys(same)]
    message = ", or ".join(m[0].lower() + m[1:] for m in messages)
    given = first["input"]
    shown = f" is {given!r}" if not isinstance(given, dict | BaseModel) else ""
    return f"{key}{shown}: {message}." if key else f"{messages[0]}."


def _user_path(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a user typed: pydantic adds the tried alternatives of a union, and "function-after"."""
    path: list[str] = []
    section: Any = model
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif isinstance(section, type) and issubclass(section, BaseModel):
            path.append(part)
            field = section.model_fields.get(part)
            section = field.annotation if field else None
        elif get_origin(section) is dict:
            path.append(part)
            section = None
    return path


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand only once: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
