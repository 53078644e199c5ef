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
_JUDGED = ("scores", "percent", "gate", "hostile")
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
        kept = ("method", *_SERVER.get(server["method"], tuple(name for name in server if name != "method")))
        merging = {**values["aggregation"], "server": {name: server[name] for name in kept}}
        unread = {name for name in _RULE_KEYS if name not in _rule_keys(merging)}
        return spec.json_hash(
            {
                **values,
                "data": data,
                "attack": _attack(values["attack"]),
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
    return {name: committee[name] for name in ("method", *drawn, *(_JUDGED if method != "none" else ()))}


def _privacy(privacy: Mapping[str, Any]) -> dict[str, Any]:
    """What a mechanism reads of its section."""
    return (
        dict(privacy) if privacy["method"] == "dp-sgd" else {name: privacy[name] for name in ("method", "parameters")}
    )


def rule(config: Mapping[str, Any]) -> Rule | None:
    """How updates become a model in a run of this configuration; None where it does not say."""
    found = _ungated(config)
    gate = config.get("committee")
    return found and replace(found, gate=isinstance(gate, Mapping) and gate.get("gate") is True)


def _ungated(config: Mapping[str, Any]) -> Rule | None:
    try:
        merging, federation = config["aggregation"], config["federation"]
        algorithm, weighting = federation["algorithm"], federation["weighting"]
        if "@" in algorithm:  # one of a user's own says itself what its updates weigh
            return None
        if algorithm == "local":
            return Rule(MEAN, "none", {"method": "none"})
        server = merging["server"]
        kept = ("method", *_SERVER.get(server["method"], tuple(name for name in server if name != "method")))
        steps = {name: server[name] for name in kept}
        pooled = algorithm == "centralised"
        if merging["rule"] in robust.NAMES and not pooled:
            return Rule(merging["rule"], "uniform", steps, {name: merging[name] for name in _rule_keys(merging)})
        if pooled:
            weighting = "samples"
        elif weighting == "auto":
            weighting = "uniform" if algorithm == "perfedavg" else "samples"
        if merging["rule"] == "mean" or pooled:
            return Rule(MEAN, weighting, steps)
        return Rule(OWN_RULE, weighting, steps, part=merging["rule"], parameters=merging["parameters"])
    except (KeyError, TypeError, AttributeError):
        return None


def _rule_keys(merging: Mapping[str, Any]) -> tuple[str, ...]:
    return robust.keys(merging["rule"], merging["mix"]) if merging["rule"] in robust.NAMES else ()


def federation_id(config: Mapping[str, Any], hashed: bytes, data: str) -> bytes | None:
    """What every signature of a run commits to; None where the configuration does not say."""
    ledger = config.get("ledger")
    label = ledger.get("federation") if isinstance(ledger, dict) else None
    return spec.json_hash({"config": hashed.hex(), "data": data, "name": config.get("name"), "label": label})
