"""What identifies a configuration, computed a second time from the text of config.yaml."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.audit import policies, robust, spec
from engine.audit.case import Rule
from engine.ledger.format import MEAN, OWN_RULE

# Paths, hosts, concurrency and names, which may not change a number.
_LEFT_OUT = ("name", "out", "ledger", "tracking", "execution")
_ADDED = ("classes", "target", "ratio", "quota", "budget", "seed")
_SMOTE = (*_ADDED, "neighbours", "policy")
# method -> what it reads of its section; the rest cannot change a number either.
_BALANCE = {
    "none": (),
    "class_weighted": ("max_weight",),
    "public_weights": ("weights",),
    "logit_adjustment": ("tau",),
    "oversample": _ADDED,
    "smote": _SMOTE,
    "borderline": _SMOTE,
    "adasyn": _SMOTE,
    "timegan": (*_ADDED, "timegan", "policy"),
}
_STRENGTH = ("sign-flip", "noise", "ipm", "alie", "backdoor")
_RULE_KEYS = ("byzantine", "keep", "radius", "iterations", "mix", "bucket")
_OWN = (*_ADDED, "parameters", "policy")  # of a generator of the user's own, FILE.py:NAME@DIGEST
ASYNCHRONOUS = ("buffered", "fedasync", "fedcompass")  # modes in which updates may begin from older models
_AGES = ("max_staleness", "staleness", "exponent", "hinge", "slope", "correction", "cap")
_SCHEDULE = {
    "synchronous": (),
    "semi-synchronous": ("first", "deadline"),
    "buffered": ("buffer", *_AGES),
    "fedasync": ("mixing", *_AGES),
    "fedcompass": ("least", "slack", *_AGES),
}
_PLAIN = ("cycles", "frequency", "uplink", "downlink", "sinr", "bandwidth", "watts")
_UNREAD_CLOCK = {
    "equal": ("devices", "share", "slow", "factor"),
    "stragglers": ("devices",),
    "bpfish": ("devices", "share", "slow", "factor", *_PLAIN),
    "listed": ("share", "slow", "factor", "dropout", *_PLAIN),
}
_JUDGED = ("scores", "measure", "percent", "gate", "leader", "hostile")
_SERVER = {"none": (), "momentum": ("learning_rate", "momentum")}


def config_hash(config: Mapping[str, Any]) -> bytes | None:
    """The hash of a configuration, as plain values; None where it is none."""
    values = {name: value for name, value in config.items() if name not in _LEFT_OUT}
    try:
        data = {name: value for name, value in values["data"].items() if name != "folder"}
        data["other"] = {name: value for name, value in data["other"].items() if name != "folder"}
        balance, server = values["balance"], values["aggregation"]["server"]
        read = (
            "method",
            *(_OWN if "@" in balance["method"] else _BALANCE[balance["method"]]),
        )
        merging = {**values["aggregation"], "server": _steps(server, values["federation"]["rounds"])}
        unread = {name for name in _RULE_KEYS if name not in _rule_keys(merging)}
        unread |= {"secure"} if merging["secure"]["method"] == "none" else set()
        return spec.json_hash(
            {
                **values,
                "data": data,
                "attack": _attack(values["attack"]),
                "schedule": _schedule(values["schedule"]),
                "clock": _clock(values["clock"]),
                "association": _association(values["association"]),
                "committee": _committee(values["committee"]),
                "privacy": _privacy(values["privacy"]),
                "selection": _selection(values["selection"]),
                "update": _update(values["update"]),
                "balance": {name: balance[name] for name in read},
                "aggregation": {name: value for name, value in merging.items() if name not in unread},
            }
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _steps(server: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """What a server's optimiser reads of its section, and over how many rounds its rate falls."""
    names = _SERVER.get(server["method"], ("learning_rate", "momentum", "beta2", "tau"))
    falls = {"rate": server["rate"], "rounds": rounds} if names and server["rate"] != "constant" else {}
    return {"method": server["method"], **{name: server[name] for name in names}, **falls}


def _attack(attack: Mapping[str, Any]) -> dict[str, Any]:
    """What an attack reads of its section."""
    method = attack["method"]
    if method == "none":
        return {"method": method}
    who = "share" if attack["hospitals"] is None else "hospitals"
    how = ("strength",) if method in _STRENGTH else ()
    goal = ("target",) if method == "backdoor" else ()
    own = ("parameters",) if "@" in method else ()
    return {name: attack[name] for name in ("method", *own, who, "start", *how, *goal)}


def _schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """What a mode reads of its section."""
    mode = schedule["mode"]
    read = ("parameters",) if "@" in mode else _SCHEDULE[mode]
    return {name: schedule[name] for name in ("mode", *read)}


def _clock(clock: Mapping[str, Any]) -> dict[str, Any]:
    """What a fleet reads of its section."""
    fleet = clock["fleet"]
    if fleet == "none":
        return {"fleet": fleet}
    return {name: value for name, value in clock.items() if name not in _UNREAD_CLOCK[fleet]}


def _association(association: Mapping[str, Any]) -> dict[str, Any]:
    """What a method reads of its section."""
    method = association["method"]
    if method == "none":
        return {"method": method}
    unread = {"capacity"} if method in ("paper", "all-on-one") else set()
    unread |= {"share"} if method == "paper" else set()
    return {name: value for name, value in association.items() if name not in unread}


def _selection(selection: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy reads of its section."""
    floored = ("floor",) if selection["policy"] in policies.NAMES else ()
    return {name: selection[name] for name in ("policy", "parameters", *floored)}


def _update(update: Mapping[str, Any]) -> dict[str, Any]:
    """What a compression reads of its section."""
    share = ("share",) if update["compression"] == "top-k" else ()
    return {name: update[name] for name in ("compression", *share)}


def _committee(committee: Mapping[str, Any]) -> dict[str, Any]:
    """What a committee reads of its section."""
    method = committee["method"]
    drawn = ("size", "election") if method == "drawn" else ()
    leads = ("own", "cap") if method != "none" and committee["leader"] else ()
    return {name: committee[name] for name in ("method", *drawn, *leads, *(_JUDGED if method != "none" else ()))}


def _privacy(privacy: Mapping[str, Any]) -> dict[str, Any]:
    """What a mechanism reads of its section."""
    given = {name: value for name, value in privacy.items() if name not in ("honest", "membership") or value}
    if privacy["method"] == "dp-sgd":
        return {name: value for name, value in given.items() if name not in ("release", "normalisation", "batch")}
    read: tuple[str, ...] = ("method", "parameters", "membership")
    if privacy["method"] == "features":
        read += ("epsilon", "noise", "release", "normalisation", "secret")
        read += ("delta",) if privacy["release"] == "gaussian" else ()
        read += {"none": ("clip",), "batch": ("batch",)}.get(privacy["normalisation"], ())
    return {name: given[name] for name in read if name in given}


def rule(config: Mapping[str, Any]) -> Rule | None:
    """How updates become a model in a run of this configuration; None where it does not say."""
    found = _ungated(config)
    gate, merging = config.get("committee"), config["aggregation"] if found else {}
    hidden = merging.get("secure")
    secure = dict(hidden) if isinstance(hidden, Mapping) and hidden.get("method") != "none" else {}
    return found and replace(found, gate=isinstance(gate, Mapping) and gate.get("gate") is True, secure=secure)


def _ungated(config: Mapping[str, Any]) -> Rule | None:
    try:
        merging, federation = config["aggregation"], config["federation"]
        algorithm, weighting = federation["algorithm"], federation["weighting"]
        if "@" in algorithm:  # one of a user's own says itself what its updates weigh
            return None
        if algorithm == "local":
            return Rule(MEAN, "none", {"method": "none"})
        steps = _steps(merging["server"], federation["rounds"])
        pooled = algorithm == "centralised"
        if merging["rule"] in robust.NAMES and not pooled:
            return Rule(merging["rule"], "uniform", steps, {name: merging[name] for name in _rule_keys(merging)})
        if pooled:
            weighting = "samples"
        elif weighting == "auto":
            weighting = "uniform" if algorithm == "perfedavg" else "samples"
        if merging["rule"] == "mean" or pooled:
            return Rule(MEAN, weighting, steps, ages(config))
        return Rule(OWN_RULE, weighting, steps, part=merging["rule"], parameters=merging["parameters"])
    except (KeyError, TypeError, AttributeError):
        return None


def ages(config: Mapping[str, Any]) -> dict[str, Any]:
    """How old the mean lets updates be; {} where all are of the last model."""
    schedule = config["schedule"]
    if schedule["mode"] not in ASYNCHRONOUS:
        return {}
    return {"max_staleness": schedule["max_staleness"], "of_models": schedule["mode"] == "fedasync"}


def _rule_keys(merging: Mapping[str, Any]) -> tuple[str, ...]:
    return robust.keys(merging["rule"], merging["mix"]) if merging["rule"] in robust.NAMES else ()


def federation_id(config: Mapping[str, Any], hashed: bytes, data: str) -> bytes | None:
    """What every signature of a run commits to; None where the configuration does not say."""
    ledger = config.get("ledger")
    label = ledger.get("federation") if isinstance(ledger, dict) else None
    return spec.json_hash({"config": hashed.hex(), "data": data, "name": config.get("name"), "label": label})
