"""Which keys a run reads: most sections hold some that only one method, partition or back end asks for.

A key that nobody reads changes no number, so whoever varies it compares a run with itself.
"""

import functools
from collections.abc import Mapping
from typing import Any, get_args

from engine.aggregation.config import RULE_KEYS
from engine.attacks.config import STRENGTH, Method
from engine.config import OWN_KEYS, RunConfig
from engine.data.config import OF_RECORDS, Source
from engine.model import ModelConfig
from engine.own.reference import FORMS, is_own
from engine.privacy.config import OF_FEATURES, OF_NORMALISATION, OF_RELEASE, ONLY_FEATURES, PLAIN, PrivacyConfig
from engine.schedule.config import ASYNCHRONOUS, FLOORED, SCHEDULE_KEYS
from engine.settings import dotted_keys
from engine.synthesis.config import BALANCE_KEYS, BalanceConfig
from engine.synthesis.config import OWN_KEYS as OWN_BALANCE

OWN = FORMS  # stands in a clause for every part of a user's own
Clause = Mapping[str, tuple[Any, ...]]

_ALGORITHM = "federation.algorithm"
_FEDERATED = ("fedavg", "fedprox", "scaffold", "perfedavg", "ditto", "fedper", "fedrep", "fedbn")
_MANY = (*_FEDERATED, OWN)
_MERGED = (*_FEDERATED, "centralised", OWN)
_BY_EPOCHS = (*(name for name in _FEDERATED if name != "perfedavg"), "local", "centralised", OWN)
_ADAPTED = tuple(name for name in _MERGED if name != "ditto")  # whose own models are its personal ones
_TUNES: Clause = {"personalisation.method": ("finetune", "lp-ft", "safeguarded"), _ALGORITHM: _ADAPTED}
_FINE = {**_TUNES, "personalisation.method": ("finetune", "lp-ft")}
_BALANCING = {**BALANCE_KEYS, OWN: OWN_BALANCE}
_OF_RECORDS: Clause = {"data.source": get_args(Source)}
_OF_MODEL = ("network", "parameters")
_OF_FEATURES = ("features", "features_seed")
_ROBUST: Clause = {_ALGORITHM: _MANY, "aggregation.rule": tuple(RULE_KEYS)}
_ATTACKS = (*(name for name in get_args(Method) if name != "none"), OWN)
_MINERS = ("paper", "capacity", "random", "all-on-one", "optimal")
_TIMED: Clause = {"clock.fleet": ("equal", "stragglers", "bpfish", "listed")}
_PLAIN_FLEET = ("cycles", "frequency", "uplink", "downlink", "sinr", "bandwidth", "watts")
_RPC: Clause = {"ledger.backend": ("rpc",)}
_LEDGER: Clause = {"ledger.backend": ("embedded", "rpc")}

_PASSES: Clause = {"privacy.method": ("none", "features", OWN)}  # batches are passes over the beats, and no samples


def _of_privacy(key: str) -> tuple[Clause, ...]:
    """Where a key of privacy is read by a mechanism of ours."""
    features: Clause = {"privacy.method": ("features",)}
    found: list[Clause] = [] if key in (*ONLY_FEATURES, *PLAIN) else [{"privacy.method": ("dp-sgd",)}]
    found += [features] if key in OF_FEATURES else []
    found += [{**features, "privacy.release": (kind,)} for kind, keys in OF_RELEASE.items() if key in keys]
    found += [{**features, "privacy.normalisation": (kind,)} for kind, keys in OF_NORMALISATION.items() if key in keys]
    return tuple(found)


# a key, or a whole section -> it is read where one of the clauses holds: each of their keys has one of the values
READ: dict[str, tuple[Clause, ...]] = {
    "federation.learning_rate": ({_ALGORITHM: _BY_EPOCHS},),
    "federation.local_epochs": (
        {**_PASSES, _ALGORITHM: _BY_EPOCHS, "federation.local_steps": (None,)},
        {**_PASSES, _ALGORITHM: ("perfedavg",), "federation.local_steps": (None,), "federation.perfedavg.tau": (None,)},
    ),
    "federation.local_steps": ({**_PASSES, _ALGORITHM: _BY_EPOCHS}, {**_PASSES, "federation.perfedavg.tau": (None,)}),
    "federation.batch_size": (_PASSES,),
    "federation.decay": ({"federation.rate": ("decay", "steps")},),
    "federation.mu": ({_ALGORITHM: ("fedprox", OWN)},),
    "federation.weighting": ({_ALGORITHM: _MANY, "aggregation.rule": ("mean", OWN)},),
    "federation.participation": ({_ALGORITHM: (*_MANY, "local")},),
    "federation.ditto_lambda": ({_ALGORITHM: ("ditto", OWN)},),
    "federation.fedrep": ({_ALGORITHM: ("fedrep", OWN)},),
    "federation.perfedavg": ({_ALGORITHM: ("perfedavg", OWN)},),
    **{f"{key.rpartition('.')[0]}.parameters": ({key: (OWN,)},) for key in OWN_KEYS},
    **{
        f"schedule.{key}": ({"schedule.mode": tuple(mode for mode, keys in SCHEDULE_KEYS.items() if key in keys)},)
        for key in (
            "first",
            "deadline",
            "buffer",
            "mixing",
            "least",
            "slack",
            "max_staleness",
            "staleness",
            "correction",
        )
    },
    "schedule.exponent": ({"schedule.mode": ASYNCHRONOUS, "schedule.staleness": ("polynomial",)},),
    "schedule.hinge": ({"schedule.mode": ASYNCHRONOUS, "schedule.staleness": ("hinge",)},),
    "schedule.slope": ({"schedule.mode": ASYNCHRONOUS, "schedule.staleness": ("hinge",)},),
    "schedule.cap": ({"schedule.mode": ASYNCHRONOUS, "schedule.correction": ("rate",)},),
    **{
        f"clock.{key}": (_TIMED,)
        for key in ("gradient_seconds", "kappa", "jitter", "on", "off", "night", "day", "block", "target")
    },
    **{f"clock.{key}": ({"clock.fleet": ("equal", "stragglers")},) for key in _PLAIN_FLEET},
    **{f"clock.{key}": ({"clock.fleet": ("stragglers",)},) for key in ("share", "slow", "factor")},
    "clock.dropout": ({"clock.fleet": ("equal", "stragglers", "bpfish")},),
    **{
        f"association.{key}": ({"association.method": _MINERS},)
        for key in ("miners", "reward", "phi", "rho", "deadline", "sinr", "blocks", "bandwidth")
    },
    "association.share": ({"association.method": _MINERS[1:]},),
    "association.capacity": ({"association.method": ("capacity", "random", "optimal")},),
    "clock.devices": ({"clock.fleet": ("listed",)},),
    "federation.perfedavg.delta": ({"federation.perfedavg.variant": ("difference",)},),
    "aggregation": ({_ALGORITHM: _MERGED},),
    "aggregation.rule": ({_ALGORITHM: _MANY},),
    "aggregation.mix": (_ROBUST,),
    "aggregation.bucket": ({**_ROBUST, "aggregation.mix": ("bucketing",)},),
    "aggregation.byzantine": (_ROBUST,),
    **{
        f"aggregation.{key}": (
            {_ALGORITHM: _MANY, "aggregation.rule": tuple(r for r, own in RULE_KEYS.items() if key in own)},
        )
        for key in ("keep", "radius", "iterations")
    },
    "aggregation.server.learning_rate": ({"aggregation.server.method": ("momentum", "adam", "yogi")},),
    "aggregation.server.rate": ({"aggregation.server.method": ("momentum", "adam", "yogi")},),
    "aggregation.server.momentum": ({"aggregation.server.method": ("momentum", "adam", "yogi")},),
    "aggregation.server.beta2": ({"aggregation.server.method": ("adam", "yogi")},),
    "aggregation.server.tau": ({"aggregation.server.method": ("adam", "yogi")},),
    "attack.share": ({"attack.method": _ATTACKS, "attack.hospitals": (None,)},),
    "attack.hospitals": ({"attack.method": _ATTACKS},),
    "attack.start": ({"attack.method": _ATTACKS},),
    "attack.strength": ({"attack.method": tuple(STRENGTH)},),
    "attack.target": ({"attack.method": ("backdoor",)},),
    **{f"privacy.{key}": clauses for key in PrivacyConfig.model_fields if (clauses := _of_privacy(key))},
    "privacy.beats": ({"privacy.method": ("dp-sgd",), "privacy.unit": ("patient",)},),
    "update.share": ({"update.compression": ("top-k",)},),
    "selection.floor": ({"selection.policy": FLOORED},),
    **{
        f"committee.{key}": ({"committee.method": ("others", "drawn")},)
        for key in ("scores", "measure", "percent", "gate", "leader", "hostile")
    },
    **{f"committee.{key}": ({"committee.method": ("drawn",)},) for key in ("size", "election")},
    **{f"committee.{key}": ({"committee.leader": (True,)},) for key in ("own", "cap")},
    "personalisation.method": ({_ALGORITHM: _ADAPTED},),
    "personalisation.steps": ({**_TUNES, "personalisation.epochs": (None,)},),
    "personalisation.epochs": (_TUNES,),
    **{f"personalisation.{name}": (_TUNES,) for name in ("learning_rate", "rate", "pull")},
    "personalisation.batch_size": ({**_TUNES, **_PASSES},),
    "personalisation.keep": (_FINE,),
    "personalisation.part": ({**_TUNES, "personalisation.method": ("finetune", "safeguarded")},),
    **{
        f"model.{name}": ({"model.network": ("cnn",)},)
        for name in ModelConfig.model_fields
        if name not in (*_OF_MODEL, *_OF_FEATURES)
    },
    **{f"model.{name}": ({"model.network": ("features",)},) for name in _OF_FEATURES},
    **{f"data.{name}": (_OF_RECORDS,) for name in OF_RECORDS},
    "data.folder": ({"data.source": ("mitdb", "incart", "svdb", "folder", OWN)},),
    "data.simulated": ({"data.source": ("simulated",)}, {"data.other.source": ("simulated",)}),
    "data.lead": ({**_OF_RECORDS, "data.leads": (None,)},),
    "data.template_minutes": ({"data.template": ("leads",)},),
    "data.other": ({"cohort.split": ("other-database",)},),
    "data.missing": ({"data.source": (OWN,)},),
    "cohort.alpha": ({"cohort.partition": ("record-dirichlet", "beat-dirichlet")},),
    "cohort.exponent": ({"cohort.partition": ("quantity",)},),
    "cohort.groups": ({"cohort.partition": ("records",)},),
    "cohort.held_out": ({"cohort.split": ("leave-one-hospital-out",)},),
    "cohort.adapt_minutes": ({"cohort.split": ("leave-one-hospital-out", "inter-patient", "other-database")},),
    "cohort.seed": (
        {"cohort.partition": ("record-dirichlet", "beat-dirichlet", "quantity")},
        {"cohort.split": ("random", "patients", "inter-patient", "leave-one-hospital-out", "other-database")},
        {"data.source": (OWN,)},
    ),
    "cohort.stratify": ({"cohort.split": ("chronological", "random", "patients", "leave-one-hospital-out")},),
    **{
        f"ledger.{name}": (_RPC,)
        for name in (
            *("url", "chain_id", "contract", "key_file", "confirmations", "timeout", "max_fee_gwei"),
            *("admin", "admin_key_file", "auditor"),
        )
    },
    **{
        f"ledger.{name}": (_LEDGER,)
        for name in ("keystore", "window", "deadline", "checks", "reputation", "federation")
    },
    "execution.hospitals_per_actor": ({"execution.pool": ("ray",)},),
    **{f"execution.{name}": ({"execution.pool": ("sites",)},) for name in ("listen", "certificates")},
    **{
        f"balance.{name}": ({"balance.method": tuple(m for m, keys in _BALANCING.items() if name in keys)},)
        for name in BalanceConfig.model_fields
        if name != "method"
    },
}


@functools.cache
def run_keys() -> Mapping[str, Any]:
    """Every key of a run's configuration, dotted, with its pydantic field."""
    return dotted_keys(RunConfig)


def is_key(key: Any) -> bool:
    """Whether a dotted key is one of a run: of its own, or a parameter of a user's own part."""
    return key in run_keys() or is_parameter(key)


def is_parameter(key: Any) -> bool:
    """Whether a dotted key is a parameter of a user's own part, such as federation.parameters.mu."""
    if not isinstance(key, str):
        return False
    section, found, name = key.partition(".parameters.")
    return bool(found and name) and f"{section}.parameters" in run_keys()


def value_at(config: RunConfig, key: str) -> Any:
    """The value of a dotted key; None for a parameter that is not given."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def switches() -> set[str]:
    """The keys that decide on whether others are read."""
    return {key for clauses in READ.values() for clause in clauses for key in clause}


def why_unread(config: RunConfig, key: str) -> str:
    """Why a run does not read a key, such as "federation.algorithm is perfedavg"; empty where it does."""
    for part, clauses in READ.items():
        if (key == part or key.startswith(f"{part}.")) and not any(_holds(config, clause) for clause in clauses):
            against = [k for k, values in clauses[0].items() if not _is_one(value_at(config, k), values)]
            return " and ".join(f"{k} is {_word(value_at(config, k))}" for k in against)
    return ""


def read_with(key: str) -> str:
    """Under which values of others a key is read, in words; empty for one that always is."""
    parts = [clauses for part, clauses in READ.items() if key == part or key.startswith(f"{part}.")]
    told = (" or ".join(" and ".join(_either(k, v) for k, v in clause.items()) for clause in each) for each in parts)
    return ", and ".join(told)


def _holds(config: RunConfig, clause: Clause) -> bool:
    return all(_is_one(value_at(config, key), values) for key, values in clause.items())


def _is_one(value: Any, values: tuple[Any, ...]) -> bool:
    return value in values or (OWN in values and is_own(value))


def _either(key: str, values: tuple[Any, ...]) -> str:
    return f"{key}: {' | '.join(map(_word, values))}"


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
