"""How a round's model follows from its updates: every rule and every server's optimiser that a journal may name.

Written a second time from `engine/aggregation`, to the last bit. All is float64, each operation rounded once, in the order
that is written; a model is float32 before and after.

    mean/fixed-36   w: samples of each update ("samples"), 1 ("uniform"), or 0 ("none")
                    d = sum(round(w * u * 2^36)) / 2^36 / sum(w), ties to even, the sum in integers
                    where sum(w) is zero there is no d: model and memory stay
                    late updates: round(w * c * u * 2^36) with c what the schedule has it count, divided by sum(w) as it is;
                    `of_models`: + w * c / sum(w) * (s - x), one after another, with s the model that its work began from

    none            x = x + d
    momentum        m = b1 * m + d                             x = x + r * m
    adam            m = b1 * m + (1 - b1) * d                  x = x + r * (m / (sqrt(v) + t))
                    v = b2 * v + (1 - b2) * (d * d)
    yogi            v = v - (1 - b2) * (d * d) * sign(v - d * d), the rest as adam

    other rules     d as in `engine/audit/robust.py`; it is remembered for the next round

    masked sums     S and W of each group (`engine/audit/masks.py`): the mean has d = sum(S) / 2^36 / sum(w); other rules take the
                    S / (2^36 * W) of the groups in the place of updates

with r `learning_rate`, in round n of `rounds` times 1 - (n - 1) / rounds (`rate` falling), or half a cosine in units of 2^-20
(cosine: floor(2^20 (1/2 + cos(pi (n - 1) / rounds) / 2) + 1/2) / 2^20), b1 `momentum`, b2 `beta2`, t `tau` of the rule's `server`; m is zero and v is t * t before round 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.audit import robust
from engine.audit.case import Rule
from engine.ledger.format import MEAN, OWN_RULE

RATE = "learning_rate"
LARGEST = 2**60  # of an entry in units of 2^-36, which is 2^24: a hospital's update beyond that was never taken


class Model(NamedTuple):
    """Parameters float32[P], and what is remembered: the optimiser's m and v, the last d; float64[P], None before round 1."""

    params: np.ndarray
    m: np.ndarray | None = None
    v: np.ndarray | None = None
    d: np.ndarray | None = None


# a user's own rule: updates float32[n, P] by slot, weights float64[n] -> direction float64[P]
Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Weighted(NamedTuple):
    """An update float32[P] and the number of samples behind it; None if nobody can tell any more.

    Attributes:
        discount: factor on its weight, of a schedule in which updates may be late.
        start: float32[P], the model that its work began from, where that is not the last.
    """

    samples: int | None
    vector: np.ndarray
    discount: float = 1.0
    start: np.ndarray | None = None


def mean(weighting: str, updates: Sequence[Weighted]) -> np.ndarray | None:
    """The weighted mean in fixed point, float64[P]; None if all weights are zero.

    Raises:
        ValueError: the updates are too large to be added up.
    """
    weights = [weight(weighting, update) for update in updates]
    if sum(weights) == 0:
        return None
    total, bound = np.zeros(len(updates[0].vector), np.int64), 0
    for share, update in zip(weights, updates, strict=True):
        units = np.rint(np.ldexp(update.vector.astype(np.float64) * (share * update.discount), 36))
        largest = float(np.abs(units).max(initial=0.0))
        if not largest < LARGEST:  # not a number, too
            raise ValueError(f"an update times its weight of {share} reaches {largest / 2**36:.3g}")
        bound += int(largest)
        total += units.astype(np.int64)
    if bound >= 2**63:
        raise ValueError("the updates of the round are too large to be added up")
    return np.ldexp(total.astype(np.float64), -36) / sum(weights)


def _of_models(weighting: str, model: Model, updates: Sequence[Weighted], d: np.ndarray) -> np.ndarray:
    """The mean of models in the place of changes: what began from an older model pulls back towards it."""
    whole = sum(weight(weighting, update) for update in updates)
    for update in updates:
        if update.start is not None:
            share = weight(weighting, update) * update.discount / whole
            d = d + share * (update.start.astype(np.float64) - model.params)
    return d


def weight(weighting: str, update: Weighted) -> int:
    """What an update counts under "samples", "uniform" or "none"."""
    if weighting == "samples":
        assert update.samples is not None
        return update.samples
    return 1 if weighting == "uniform" else 0


def _combined(own: Combine, rule: Rule, model: Model, updates: Sequence[Weighted]) -> np.ndarray:
    weights = np.array([float(weight(rule.weighting, update)) for update in updates])
    try:
        found = np.asarray(own(np.stack([update.vector for update in updates]), weights), np.float64)
    except Exception as error:  # of somebody else's code
        raise ValueError(f"the own rule fails on these updates: {error}") from None
    if found.shape != model.params.shape:
        raise ValueError(f"the own rule gives {list(found.shape)}, not {list(model.params.shape)} numbers")
    return found


def plain(model: Model, d: np.ndarray) -> Model:
    """The model moves by the direction as it is."""
    return model._replace(params=_moved(model.params, d))


def momentum(model: Model, d: np.ndarray, learning_rate: float, momentum: float) -> Model:
    """FedAvgM."""
    m = momentum * _or_zero(model.m, d) + d
    return model._replace(params=_moved(model.params, learning_rate * m), m=m)


def adam(model: Model, d: np.ndarray, learning_rate: float, momentum: float, beta2: float, tau: float) -> Model:
    """FedAdam."""
    v = _or_square(model.v, d, tau)
    return _adaptive(model, d, beta2 * v + (1 - beta2) * (d * d), learning_rate, momentum, tau)


def yogi(model: Model, d: np.ndarray, learning_rate: float, momentum: float, beta2: float, tau: float) -> Model:
    """FedYogi."""
    v = _or_square(model.v, d, tau)
    return _adaptive(model, d, v - (1 - beta2) * (d * d) * np.sign(v - d * d), learning_rate, momentum, tau)


def _adaptive(model: Model, d: np.ndarray, v: np.ndarray, rate: float, beta1: float, tau: float) -> Model:
    m = beta1 * _or_zero(model.m, d) + (1 - beta1) * d
    return model._replace(params=_moved(model.params, rate * (m / (np.sqrt(v) + tau))), m=m, v=v)


def _or_zero(m: np.ndarray | None, d: np.ndarray) -> np.ndarray:
    return np.zeros_like(d) if m is None else m


def _or_square(v: np.ndarray | None, d: np.ndarray, tau: float) -> np.ndarray:
    return np.full_like(d, tau * tau) if v is None else v


def _moved(params: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (params.astype(np.float64) + by).astype(np.float32)


RULES = (MEAN, *robust.NAMES)
SERVERS: Mapping[str, tuple[Callable[..., Model], tuple[str, ...]]] = {
    "none": (plain, ()),
    "momentum": (momentum, ("learning_rate", "momentum")),
    "adam": (adam, ("learning_rate", "momentum", "beta2", "tau")),
    "yogi": (yogi, ("learning_rate", "momentum", "beta2", "tau")),
}


def remembered(rule: Rule, model: Model) -> dict[str, np.ndarray]:
    """What the server keeps from a round for the next, float64[P] by name."""
    last = model.d if rule.name == robust.STARTS_FROM_THE_LAST else None
    return {name: kept for name, kept in (("m", model.m), ("v", model.v), ("aggregate", last)) if kept is not None}


def problem(rule: Rule) -> str:
    """Why a rule cannot be executed; "" if it can."""
    if rule.name not in (*RULES, OWN_RULE):
        return f"updates were merged by a rule that this version does not know: {', '.join(RULES)}"
    robustly = rule.name not in (MEAN, OWN_RULE)
    if robustly and (wrong := robust.problem(rule.name, rule.settings)):
        return wrong
    if rule.name == MEAN and rule.settings:
        most, of_models = rule.settings.get("max_staleness"), rule.settings.get("of_models")
        if len(rule.settings) != 2 or type(most) is not int or not 0 < most <= 1000 or type(of_models) is not bool:
            return "the mean takes max_staleness, 1 to 1000, and of_models, or no settings"
    elif (not robustly and rule.settings) or (robustly and rule.weighting != "uniform"):
        return "only rules that bear hostile updates take settings, and they count all updates the same"
    method = rule.server.get("method")
    if not isinstance(method, str) or method not in SERVERS:
        return f"the server's optimiser is none that this version knows: {', '.join(SERVERS)}"
    names = SERVERS[method][1]
    falling = {"rate", "rounds"} & rule.server.keys() if names else set()
    if set(rule.server) != {"method", *names, *falling} or not all(_number(rule.server[name]) for name in names):
        return f"the server's optimiser {method} takes {', '.join(names) or 'nothing'}"
    rate, rounds = rule.server.get("rate"), rule.server.get("rounds")
    if falling and (rate not in ("falling", "cosine") or type(rounds) is not int or rounds < 1):
        return "the rate of the server's optimiser is falling or cosine, over a number of rounds"
    return ""


def _falls(rule: Rule, number: int) -> float:
    """What is left of the server's rate in a round."""
    if "rate" not in rule.server:
        return 1.0
    done = min((number - 1) / rule.server["rounds"], 1.0)
    if rule.server["rate"] == "falling":
        return 1.0 - done
    return math.floor(2**20 * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.5) / 2**20


def _number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e9


def of_sums(rule: Rule, model: Model, updates: Sequence[Weighted], sums: np.ndarray) -> np.ndarray | None:
    """The direction where only sums are known, float64[P].

    Args:
        updates: whose vectors nobody knows.
        sums: int64[groups, P + 1], the last entry the sum of the weights.

    Raises:
        ValueError: they cannot be added up.
    """
    if rule.name != MEAN:
        points = [row[:-1].astype(np.float64) / (2.0**36 * float(row[-1])) for row in sums]
        return robust.direction(rule.name, rule.settings, points, model.d)
    weights = sum(weight(rule.weighting, update) for update in updates)
    if sum(int(np.abs(row[:-1].astype(object)).max()) for row in sums) >= 2**63:
        raise ValueError("the sums of the round are too large to be added up")
    total = np.zeros(sums.shape[1] - 1, np.int64)
    for row in sums:
        total = total + row[:-1]
    return np.ldexp(total.astype(np.float64), -36) / weights if weights else None


def next_model(
    rule: Rule,
    model: Model,
    updates: Sequence[Weighted],
    own: Combine | None = None,
    number: int = 1,
    sums: np.ndarray | None = None,
) -> Model:
    """The model after a round, by a rule without a `problem`.

    Args:
        number: of the round.
        own: a user's own rule, which is none of `RULES`.
        sums: beneath masked updates, see `of_sums`; None where nothing was hidden.

    Raises:
        ValueError: the updates cannot be added up.
    """
    if not updates:
        return model  # none was good enough
    step, names = SERVERS[rule.server["method"]]
    with np.errstate(all="ignore"):  # of somebody else's numbers; what comes of them is compared
        direction: np.ndarray | None
        if own is not None:
            direction = _combined(own, rule, model, updates)
        elif sums is not None:
            direction = of_sums(rule, model, updates, sums)
        elif rule.name == MEAN:
            direction = mean(rule.weighting, updates)
            if direction is not None and rule.settings.get("of_models"):
                direction = _of_models(rule.weighting, model, updates, direction)
        else:
            direction = robust.direction(rule.name, rule.settings, [u.vector for u in updates], model.d)
        if direction is None:
            return model
        settings = {name: rule.server[name] for name in names}
        if RATE in settings:
            settings[RATE] = settings[RATE] * _falls(rule, number)
        moved = step(model, direction, **settings)
        return moved._replace(d=direction)
