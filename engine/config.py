"""The settings of one run, and what of them identifies it.

Each section stands beside what it configures. `config_hash` identifies what was computed: it leaves out paths, hosts
and concurrency, which may not change a single number.
"""

from typing import Any

from pydantic import Field, model_validator

from engine.aggregation.attacks import AttackConfig
from engine.aggregation.config import AggregationConfig
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.data.config import CohortConfig, DataConfig
from engine.encoding import json_hash
from engine.ledger.config import LedgerConfig
from engine.model import ModelConfig
from engine.own.call import OwnSection
from engine.own.reference import is_own, titled
from engine.pools.config import ExecutionConfig
from engine.privacy.config import PrivacyConfig
from engine.schedule.config import ScheduleConfig, SelectionConfig
from engine.settings import Name, Section
from engine.synthesis.config import MOST_GOVERNED, OWN_GENERATOR, BalanceConfig, balance_keys, makes_beats
from engine.tracking.config import TrackingConfig, has_password


class RunConfig(Section):
    """One federation: the whole configuration of `pulseledger run`."""

    name: Name = Field("run", min_length=1, max_length=200, description="name of the run")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, batches and sampling")
    out: Name | None = Field(None, description="folder for the results; null: runs/<name>")
    data: DataConfig = DataConfig()
    cohort: CohortConfig = CohortConfig()
    model: ModelConfig = ModelConfig()
    federation: FederationConfig = FederationConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    selection: SelectionConfig = SelectionConfig()
    aggregation: AggregationConfig = AggregationConfig()
    attack: AttackConfig = AttackConfig()
    privacy: PrivacyConfig = PrivacyConfig()
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
        if (self.cohort.split == "other-database") != (self.data.other.source != "none"):
            raise ValueError(
                "cohort.split: other-database and data.other.source go together: the database that is only tested on"
            )
        for key, names in (("balance", self.balance.classes), ("balance.policy", self.balance.policy.classes)):
            if unknown := [name for name in names or () if name not in self.data.labels]:
                raise ValueError(f"{key}.classes: {unknown[0]!r} is no class; allowed: {', '.join(self.data.labels)}")
        if makes_beats(self.balance.method) and len(self.data.labels) > MOST_GOVERNED:
            raise ValueError(
                f"balance.method {self.balance.method}: the policy on synthetic beats knows {MOST_GOVERNED} classes at most, "
                f"data.classes has {len(self.data.labels)}"
            )
        if foreign := [hospital for hospital in self.attack.hospitals if not 0 <= hospital < self.cohort.hospitals]:
            raise ValueError(
                f"attack.hospitals names {foreign[0]}; there are hospitals 0 to {self.cohort.hospitals - 1}"
            )
        if (self.attack.method == "none") != (not self.attack.hospitals):
            raise ValueError("attack.method and attack.hospitals go together: an attack, and who attacks")
        if is_own(self.balance.method) and OWN_GENERATOR not in self.balance.policy.min_real:
            raise ValueError(
                f"balance.method is a generator of your own, which balance.policy.min_real does not allow; it says from how many "
                f"real beats on, such as {{{OWN_GENERATOR}: 30}}"
            )
        if is_own(self.data.source):
            if makes_beats(self.balance.method):
                raise ValueError(
                    f"balance.method {titled(self.balance.method)} needs beats of WFDB records: what it makes is judged as an ECG"
                )
            if self.cohort.split == "other-database":
                raise ValueError("cohort.split other-database needs WFDB records, and data.source is one of your own")
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


# Keys that may name a part of the user's own; its parameters are those of their section.
OWN_KEYS = tuple(
    f"{name}.{kind.PART}"
    for name, field in RunConfig.model_fields.items()
    if isinstance(kind := field.annotation, type) and issubclass(kind, OwnSection)
)

# What may differ between two runs that must give the same numbers.
_NOT_HASHED: Any = {
    "name": True,
    "out": True,
    "data": {"folder": True, "other": {"folder"}},
    "ledger": True,
    "tracking": True,
    "execution": True,
}


def config_hash(config: RunConfig) -> str:
    """SHA-256, in hex, of everything in `config` that can change a number.

    Settings of a balancing or a server's optimiser that is not used cannot, so only those that the method reads count.
    """
    values = config.model_dump(mode="json", exclude=_NOT_HASHED)
    values["aggregation"]["server"] = config.aggregation.server.used()
    values["balance"] = {key: values["balance"][key] for key in ("method", *balance_keys(config.balance.method))}
    return json_hash(values).hex()
