"""The policy on synthetic data: the limits that its owner set, beside those that every run has by default.

A policy that is looser is no fault, but it is its owner's act, which the chain holds with a signature; here it is told.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.quality import GENERATORS
from engine.audit.report import Note, Told, finding
from engine.audit.synthetic import shown
from engine.audit.transactions import Transaction

# Limits of the contract's Policy by the names of `balance.policy`, with what they are by default; most of them in parts
# per ten thousand. Those that begin with "min" and the preview are least values, all others largest ones.
LIMITS = {
    "preview": ("preview", 30),
    "quota": ("quota", 1000),
    "ratio": ("ratioBp", 50_000),
    "share_cap": ("shareCapBp", 8_500),
    "max_auc": ("maxAucBp", 10_000),
    "min_nndr": ("minNndrBp", 500),
    "max_distance": ("maxDistanceBp", 50_000),
    "max_duplicates": ("maxDuplicatesBp", 4_000),
    "max_repeated": ("maxRepeatedBp", 4_000),
    "min_spread": ("minSpreadBp", 1_500),
    "min_utility": ("minUtilityBp", -10_000),
    "min_recognised": ("minRecognisedBp", 2_500),
}
WHOLE = ("preview", "quota")  # the others are shares
MIN_REAL = (0, 1, 6, 11, 6, 30, 0, 0)


def check(case: Case) -> Iterator[Told]:
    """Tell every version that is looser than the default, and hold the last one against the run's configuration."""
    version, last = 0, None
    for step, transactions in shown(case):
        if step.kind != "policy" or not isinstance(step.record, Mapping):
            continue
        version, last = version + 1, step.record
        if loose := list(_looser(step.record)):
            by = _signer(transactions)
            yield Note(
                f"policy {version} on synthetic data, set by {by}, is looser than the default: {', '.join(loose)}"
            )
    config: Any = case.result.get("config")
    balance = config.get("balance") if isinstance(config, dict) else None
    config = balance.get("policy") if isinstance(balance, dict) and _governed(balance.get("method")) else None
    if last is not None and isinstance(config, dict):
        for name, (key, _) in LIMITS.items():
            if _integer(name, config.get(name)) != last.get(key):
                message = f"{name} of balance.policy in result.json is not the limit in the ledger"
                yield finding("result", f"config.balance.policy.{name}", last.get(key), config.get(name), message)


def _governed(method: Any) -> bool:
    return method in GENERATORS.values() or (isinstance(method, str) and "@" in method)


def _signer(transactions: Sequence[Transaction]) -> str:
    """The account that signed the first of these transactions."""
    raw = transactions[0].raw if transactions else None
    try:
        return spec.sender(raw) if isinstance(raw, bytes) else "nobody"
    except ValueError:
        return "nobody who can be read"


def _looser(policy: Mapping[str, Any]) -> Iterator[str]:
    for name, (key, default) in LIMITS.items():
        value = policy.get(key)
        if name == "preview" and policy.get("automatic") is True:
            continue  # nobody looks
        if type(value) is int and (value < default if name.startswith(("min", "preview")) else value > default):
            yield f"{name} {_shown(name, value)} (default {_shown(name, default)})"
    fewest = policy.get("minReal")
    allowed = policy.get("allowedGenerators")
    if isinstance(fewest, list) and type(allowed) is int:
        for number, (value, default) in enumerate(zip(fewest, MIN_REAL, strict=False)):
            if allowed >> number & 1 and type(value) is int and value < default:
                yield f"min_real of generator {number} {value} (default {default})"


def _shown(name: str, value: int) -> str:
    return str(value) if name in WHOLE else f"{value / 10_000:g}"


def _integer(name: str, value: Any) -> int | None:
    """As `subjects.policy.policy_of` brings a setting into the contract."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return int(value) if name in WHOLE else round(value * 10_000)
