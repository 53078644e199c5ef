"""The settings of one run, and what of them identifies it.

Each section stands beside what it configures. `config_hash` identifies what was computed: it leaves out paths, hosts
and concurrency, which may not change a single number.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from engine.aggregation.config import AggregationConfig, UpdateConfig
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.association.config import AssociationConfig
from engine.attacks.config import AttackConfig
from engine.committee.config import CommitteeConfig
from engine.data.augment import AugmentConfig
from engine.data.config import CohortConfig, DataConfig
from engine.encoding import json_hash
from engine.ledger.config import LedgerConfig
from engine.levels.config import TopologyConfig
from engine.model import ModelConfig
from engine.own.call import OwnSection
from engine.own.reference import is_own, titled
from engine.pools.config import ExecutionConfig
from engine.privacy.config import PrivacyConfig
from engine.schedule.config import BY_VERDICTS, ScheduleConfig, SelectionConfig
from engine.settings import Mistake, Name, Section
from engine.sites.limits import unfit
from engine.synthesis.config import MOST_GOVERNED, OWN_GENERATOR, BalanceConfig, balance_keys, makes_beats
from engine.timing.config import ClockConfig
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
    clock: ClockConfig = ClockConfig()
    association: AssociationConfig = AssociationConfig()
    topology: TopologyConfig = TopologyConfig()
    selection: SelectionConfig = SelectionConfig()
    committee: CommitteeConfig = CommitteeConfig()
    update: UpdateConfig = UpdateConfig()
    aggregation: AggregationConfig = AggregationConfig()
    attack: AttackConfig = AttackConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    personalisation: PersonalisationConfig = PersonalisationConfig()
    balance: BalanceConfig = BalanceConfig()
    augment: AugmentConfig = AugmentConfig()
    ledger: LedgerConfig = LedgerConfig()
    tracking: TrackingConfig = TrackingConfig()
    execution: ExecutionConfig = ExecutionConfig()

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together across sections."""
        if self.tracking.uri is not None and has_password(self.tracking.uri):
            yield Mistake(
                "tracking.uri must not hold a password or token, which would stay in config.yaml and in MLflow; give it in "
                "MLFLOW_TRACKING_PASSWORD for a server, in PGPASSWORD for a database",
                ["tracking.uri"],
            )
        if (self.cohort.split == "other-database") != (self.data.other.source != "none"):
            yield Mistake(
                "cohort.split: other-database and data.other.source go together: the database that is only tested on",
                ["cohort.split", "data.other.source"],
            )
        yield from self._of_classes()
        yield from self._of_sites()
        yield from unfit(self) if self.execution.pool == "sites" else ()
        yield from self._of_own_parts()
        yield from self._of_attackers()
        yield from self._of_time()
        yield from self._of_scaffold()
        yield from self._of_committee()
        yield from self._of_privacy()
        yield from self.privacy.clashes_with(self)
        yield from self.aggregation.secure.clashes_with(self)
        if self.federation.min_hospitals is not None and self.federation.min_hospitals > self.cohort.hospitals:
            yield Mistake(
                f"federation.min_hospitals is {self.federation.min_hospitals} but there are only "
                f"{self.cohort.hospitals} hospitals",
                ["federation.min_hospitals", "cohort.hospitals"],
            )

    def _of_classes(self) -> Iterator[Mistake]:
        labels = self.data.labels
        if unknown := [name for name in self.balance.weights or () if name not in labels]:
            says = f"balance.weights: {unknown[0]!r} is no class; allowed: {', '.join(labels)}"
            yield Mistake(says, ["balance.weights", "data.classes"])
        for key, names in (("balance", self.balance.classes), ("balance.policy", self.balance.policy.classes)):
            if unknown := [name for name in names or () if name not in labels]:
                says = f"{key}.classes: {unknown[0]!r} is no class; allowed: {', '.join(labels)}"
                yield Mistake(says, [f"{key}.classes", "data.classes"])
        if makes_beats(self.balance.method) and len(labels) > MOST_GOVERNED:
            yield Mistake(
                f"balance.method {self.balance.method}: the policy on synthetic beats knows {MOST_GOVERNED} classes at most, "
                f"data.classes has {len(labels)}",
                ["balance.method", "data.classes"],
            )

    def _of_attackers(self) -> Iterator[Mistake]:
        """An attack that cannot be, and a rule that cannot bear as many hostile updates as it is told."""
        if says := self.attack.problem(self.cohort.hospitals, self.data.labels):
            yield Mistake(says, ["attack.method", "cohort.hospitals"])
        in_a_round = max(1, round(self.federation.participation * self.cohort.hospitals))
        merges = self.federation.algorithm not in ("local", "centralised")
        if merges and (says := self.aggregation.problem(in_a_round)):
            yield Mistake(says, ["aggregation.rule", "aggregation.byzantine", "cohort.hospitals"])

    def _of_time(self) -> Iterator[Mistake]:
        """A schedule without a clock, and one that no round of this run can keep."""
        mode = self.schedule.mode
        if self.clock.runs and is_own(mode):
            says = "clock.fleet: a schedule of your own keeps no virtual time; allowed with it: none"
            yield Mistake(says, ["clock.fleet", "schedule.mode"])
        elif mode != "synchronous" and not is_own(mode) and not self.clock.runs:
            says = f"schedule.mode {mode} needs a virtual clock: clock.fleet equal, stragglers, bpfish or listed"
            yield Mistake(says, ["schedule.mode", "clock.fleet"])
        if self.clock.runs and self.committee.method != "none":
            says = "committee.method: who judges has no job on the virtual clock; allowed with a committee: clock.fleet none"
            yield Mistake(says, ["committee.method", "clock.fleet"])
        if self.clock.runs and is_own(self.selection.policy):
            says = "clock.fleet: a selection policy of your own cannot be computed again, nor can its clock; allowed with it: none"
            yield Mistake(says, ["selection.policy", "clock.fleet"])
        if self.association.runs and not self.clock.runs:
            says = f"association.method {self.association.method} needs machines and links: clock.fleet equal, stragglers, bpfish or listed"
            yield Mistake(says, ["association.method", "clock.fleet"])
        if self.association.runs and self.federation.algorithm in ("local", "centralised"):
            says = f"association.method: algorithm {self.federation.algorithm} sends no updates to miners; allowed with it: none"
            yield Mistake(says, ["association.method", "federation.algorithm"])
        yield from self._of_levels()
        if says := self.clock.problem(self.cohort.hospitals):
            yield Mistake(says, ["clock.fleet", "cohort.hospitals"])
        at_once = max(1, round(self.federation.participation * self.cohort.hospitals))
        for key, wanted in (("first", "semi-synchronous"), ("buffer", "buffered")):
            many = getattr(self.schedule, key)
            if mode == wanted and many is not None and many > at_once:
                says = f"schedule.{key} is {many}, but only {at_once} hospitals work at a time"
                yield Mistake(says, [f"schedule.{key}", "cohort.hospitals", "federation.participation"])
        if not self.schedule.is_asynchronous:
            return
        if self.federation.algorithm in ("local", "centralised"):
            says = f"schedule.mode {mode}: with federation.algorithm {self.federation.algorithm} no models are merged"
            yield Mistake(says, ["schedule.mode", "federation.algorithm"])
        if self.aggregation.rule != "mean":
            says = f"schedule.mode {mode} needs aggregation.rule mean: no other rule knows what an old update counts"
            yield Mistake(says, ["schedule.mode", "aggregation.rule"])
        if mode == "fedcompass" and self.privacy.noised:
            says = f"schedule.mode fedcompass hands out shares of the work, and privacy.method {self.privacy.method} accounts for all"
            yield Mistake(says, ["schedule.mode", "privacy.method"])
        if mode == "fedasync" and self.ledger.reputation == "peers":
            says = "ledger.reputation peers: with schedule.mode fedasync no two updates meet that could be compared"
            yield Mistake(says, ["schedule.mode", "ledger.reputation"])

    def _of_levels(self) -> Iterator[Mistake]:
        """Levels that nothing counts the time of, or that cannot add up what they are sent."""
        if not self.topology.levels:
            return
        secure, edges = self.aggregation.secure, self.topology.levels[0].nodes
        masked = secure.groups > 0  # no clock knows the steps of masks: bytes are counted, time is not
        wanted = (
            ("clock.fleet", self.clock.runs or masked, "equal, stragglers, bpfish or listed; none with masks"),
            (
                "aggregation.secure.buckets",
                secure.groups in (0, edges),
                f"{edges}, a masked sum for each edge",
            ),
            ("federation.participation", not masked or self.federation.participation == 1, "1 with masks"),
            (
                "schedule.mode",
                self.schedule.mode in ("synchronous", "semi-synchronous"),
                "synchronous, semi-synchronous",
            ),
            ("aggregation.rule", self.aggregation.rule == "mean", "mean"),
            (
                "federation.algorithm",
                self.federation.algorithm not in ("local", "centralised"),
                "any but local and centralised",
            ),
            (
                "cohort.hospitals",
                edges <= self.cohort.hospitals,
                "as many as there are edges, at least",
            ),
        )
        for key, right, allowed in wanted:
            if not right:
                says = f"topology.levels: edges add up the updates of a round, and take time; allowed with them: {key} {allowed}"
                yield Mistake(says, ["topology.levels", key])

    def _of_scaffold(self) -> Iterator[Mistake]:
        """SCAFFOLD reads the mean of all corrections off the global models, which takes equal work of everybody, each round."""
        if self.federation.algorithm != "scaffold":
            return
        if self.federation.local_steps is None:
            says = "algorithm scaffold needs federation.local_steps, a number: all hospitals must take as many steps"
            yield Mistake(says, ["federation.algorithm", "federation.local_steps"])
        wanted = (
            ("federation.participation", self.federation.participation, 1.0),
            ("federation.min_hospitals", self.federation.min_hospitals, None),
            ("aggregation.rule", self.aggregation.rule, "mean"),
            ("aggregation.worker_momentum", self.aggregation.worker_momentum, 0.0),
            ("aggregation.server.method", self.aggregation.server.method, "none"),
            ("schedule.mode", self.schedule.mode, "synchronous"),
            ("update.compression", self.update.compression, "none"),
            ("committee.gate", self.committee.gate, False),
            ("clock.fleet", self.clock.fleet, "none"),
        )
        for key, found, only in wanted:
            if found != only:
                allowed = "null" if only is None else str(only).lower()
                says = f"{key} is {found}, and algorithm scaffold goes only with {allowed}"
                yield Mistake(says, ["federation.algorithm", key])

    def _of_committee(self) -> Iterator[Mistake]:
        if self.committee.method == "none":
            if self.selection.policy in BY_VERDICTS:
                says = f"selection.policy {self.selection.policy} goes by verdicts on updates, but committee.method is none"
                yield Mistake(says, ["selection.policy", "committee.method"])
            if self.ledger.reputation == "committee":
                says = "ledger.reputation committee needs a committee, but committee.method is none"
                yield Mistake(says, ["ledger.reputation", "committee.method"])
            return
        if says := self.committee.problem(self.cohort.hospitals):
            yield Mistake(says, ["committee.method", "committee.size", "cohort.hospitals"])
        if self.federation.algorithm in ("local", "centralised"):
            says = f"committee.method judges updates, of which algorithm {self.federation.algorithm} makes no model"
            yield Mistake(says, ["committee.method", "federation.algorithm"])
        if self.schedule.mode != "synchronous":
            says = f"committee.method needs schedule.mode synchronous, not {titled(self.schedule.mode)}"
            yield Mistake(says, ["committee.method", "schedule.mode"])
        if self.committee.gate and self.aggregation.problem(1):
            says = "committee.gate leaves fewer updates than are known beforehand; allowed with it: a rule that takes any number, as mean"
            yield Mistake(says, ["committee.gate", "aggregation.rule", "aggregation.byzantine"])
        if self.ledger.reputation == "peers":
            says = "ledger.reputation peers has all hospitals of a round judge each other; with a committee it is committee or none"
            yield Mistake(says, ["ledger.reputation", "committee.method"])

    def _of_privacy(self) -> Iterator[Mistake]:
        """What a mechanism that keeps an account cannot account for."""
        if not self.privacy.noised:
            return
        federation, adapting, what = self.federation, self.personalisation, f"privacy.method {self.privacy.method}"
        samples = self.privacy.method == "dp-sgd"  # and each gradient costs; of features, all follow from one release
        if self.balance.method not in (
            "none",
            "public_weights",
            *(() if samples else ("class_weighted", "logit_adjustment")),
        ):
            says = "follows from the classes that a hospital counts, which every beat moves without noise"
            other = "makes or repeats beats beside those whose features are released"
            right = "none or public_weights" if samples else "none, public_weights, class_weighted or logit_adjustment"
            wrong = f"balance.method {titled(self.balance.method)} {says if samples else other}; {what} needs {right}"
            yield Mistake(wrong, ["balance.method", "privacy.method"])
        for key, chooses in (
            ("personalisation.method", adapting.method == "safeguarded"),
            ("personalisation.keep", adapting.keep == "best-on-validation"),
        ):
            if chooses:
                yield Mistake(f"{key} chooses by beats without noise, which {what} excludes", [key, "privacy.method"])
        if is_own(federation.algorithm):
            says = (
                f"what an algorithm of your own takes of the beats cannot be accounted for; {what} needs a built-in one"
            )
            yield Mistake(says, ["federation.algorithm", "privacy.method"])
        for key, right, counts in (
            ("federation.local_epochs", "privacy.steps", federation.local_epochs != 1),
            ("personalisation.epochs", "personalisation.steps", adapting.epochs is not None),
        ):
            if samples and counts:
                says = (
                    f"{key} counts passes over shuffled batches, and {what} samples each anew; say how many in {right}"
                )
                yield Mistake(says, [key, "privacy.method"])
        if samples and federation.algorithm == "perfedavg" and federation.perfedavg.stratified:
            key = "federation.perfedavg.stratified"
            says = f"{key} draws evenly over the classes, so that a rare beat comes more often than told; {what} needs false"
            yield Mistake(says, [key, "privacy.method"])
        if samples and federation.algorithm == "perfedavg" and federation.perfedavg.variant == "exact":
            key = "federation.perfedavg.variant"
            says = f"{key} exact takes a Hessian-vector product that nothing clips; with {what} it is first-order or difference"
            yield Mistake(says, [key, "privacy.method"])
        if self.privacy.secret == "key" and self.ledger.keystore is None:
            says = "privacy.secret key needs ledger.keystore, which holds the hospitals' keys"
            yield Mistake(says, ["privacy.secret", "ledger.keystore"])

    def _of_own_parts(self) -> Iterator[Mistake]:
        own_generator = is_own(self.balance.method)
        if own_generator and OWN_GENERATOR not in self.balance.policy.min_real:
            yield Mistake(
                "balance.method is a generator of your own, which balance.policy.min_real does not allow; it says from how many "
                f"real beats on, such as {{{OWN_GENERATOR}: 30}}",
                ["balance.method", "balance.policy.min_real"],
            )
        if is_own(self.data.source) and makes_beats(self.balance.method):
            says = f"balance.method {titled(self.balance.method)} needs beats of WFDB records: what it makes is judged as an ECG"
            yield Mistake(says, ["balance.method", "data.source"])
        if is_own(self.data.source) and self.cohort.split == "other-database":
            says = "cohort.split other-database needs WFDB records, and data.source is one of your own"
            yield Mistake(says, ["cohort.split", "data.source"])

    def _of_sites(self) -> Iterator[Mistake]:
        sites = self.execution.sites
        if not sites:
            return
        if without := [h for h in range(self.cohort.hospitals) if h not in sites]:
            says = f"execution.sites names no site for hospital {without[0]}; it needs one for each, or none"
            yield Mistake(says, ["execution.sites", "cohort.hospitals"])
        if self.federation.algorithm == "centralised":
            says = "execution.sites: algorithm centralised brings all hospitals' data to one place"
            yield Mistake(says, ["execution.sites", "federation.algorithm"])
        if self.execution.pool != "ray":
            says = f"execution.sites needs execution.pool ray, which is {self.execution.pool}"
            yield Mistake(says, ["execution.sites", "execution.pool"])


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

    Settings of a balancing, a rule or a server's optimiser that is not used cannot, so only those that the method reads count.
    """
    values = config.model_dump(mode="json", exclude=_NOT_HASHED)
    merging = config.aggregation
    kept = {name: values["aggregation"][name] for name in ("rule", "parameters", "worker_momentum")}
    server = merging.server.used(config.federation.rounds)
    values["aggregation"] = {**kept, "server": server, **merging.used(), **merging.secure.used()}
    values["attack"] = config.attack.used()
    values["schedule"], values["clock"] = config.schedule.used(), config.clock.used()
    values["association"] = config.association.used()
    values["committee"] = config.committee.used()
    values["privacy"] = config.privacy.used()
    values["selection"] = config.selection.used()
    values["update"] = config.update.used()
    values["balance"] = {key: values["balance"][key] for key in ("method", *balance_keys(config.balance.method))}
    return json_hash(values).hex()
