"""What identifies a configuration, computed a second time from the text of config.yaml."""

from collections.abc import Mapping
from typing import Any

from engine.audit import spec

# Paths, hosts, concurrency and names, which may not change a number.
_LEFT_OUT = ("name", "out", "ledger", "tracking", "execution")
_ADDED = ("classes", "target", "ratio", "quota", "budget", "seed")
_SMOTE = (*_ADDED, "neighbours", "policy")
# method -> what it reads of its section; the rest cannot change a number either.
_BALANCE = {
    "none": (),
    "class_weighted": ("max_weight",),
    "logit_adjustment": ("tau",),
    "oversample": _ADDED,
    "smote": _SMOTE,
    "borderline": _SMOTE,
    "adasyn": _SMOTE,
    "timegan": (*_ADDED, "timegan", "policy"),
}
_OWN = (*_ADDED, "parameters", "policy")  # of a generator of the user's own, FILE.py:NAME@DIGEST
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
        return spec.json_hash(
            {
                **values,
                "data": data,
                "balance": {name: balance[name] for name in read},
                "aggregation": {**values["aggregation"], "server": {name: server[name] for name in kept}},
            }
        )
    except (KeyError, TypeError, AttributeError):
        return None


def federation_id(config: Mapping[str, Any], hashed: bytes, data: str) -> bytes | None:
    """What every signature of a run commits to; None where the configuration does not say."""
    ledger = config.get("ledger")
    label = ledger.get("federation") if isinstance(ledger, dict) else None
    return spec.json_hash({"config": hashed.hex(), "data": data, "name": config.get("name"), "label": label})
