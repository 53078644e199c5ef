"""Differential privacy: the mechanism and account that hospitals signed, against the configuration and computed epsilons.

What each signed update says of mechanism, noise, samples and budget follows from the configuration, except for the samples that
were taken, which grow with every release, also of one whose round was lost. The epsilon of each hospital is computed from
what it signed at the end with an accountant of the audit's own. Nobody can see from outside that noise was added.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.audit import spec
from engine.audit.accountant import epsilon
from engine.audit.case import Case
from engine.audit.report import Count, Note, Told, finding
from engine.audit.transactions import Transaction
from engine.encoding import canonical_json
from engine.ledger.format import PRIVACY, PRIVACY_TERMS

_UNITS = {"rate": 10**9, "sigma": 10**6, "clip": 10**6, "delta": 10**12}
_COST = {"first-order": (2, 0), "difference": (2, 1)}  # samples of a meta-step: of one gradient, of two
_METHODS = ("dp-sgd", "features")
_SLACK, _LOOSE = 1e-5, 0.02  # of an epsilon: that it is below ours, by rounding; that it is above
_STANDS, _VOIDED = "; its round stands: `pulseledger ledger dispute --overspent` voids it", "; its round was voided"
_WORD = "that noise was added is each hospital's word, which nothing outside it can confirm"


def check(case: Case) -> Iterator[Told]:
    """Check every record of the mechanism, the account, and what the result says was spent."""
    privacy: Any = case.config.get("privacy")
    method = privacy.get("method") if isinstance(privacy, Mapping) else None
    if isinstance(method, str) and "@" in method:
        yield Note("what an own privacy mechanism says of its price is not recomputed")
        return
    signed = _signed(case)
    if method not in _METHODS:
        if method == "none":
            yield from _check_none(case, signed)
        return
    terms = _terms(case.config)
    if terms is None:
        yield Note("the configuration does not say what a privacy mechanism may spend", unchecked=True)
        return
    yield from _check_sigma(case, signed, terms)
    yield from _check_account(case, signed, terms)
    yield from _check_annexes(case, terms)
    yield from _check_sums(case, terms)
    yield from _tell_voids(case)
    yield from _check_result(case, terms)
    secret = privacy.get("secret")
    simulated = "; its random numbers follow from the run's seed here: a simulation, no protection"
    yield Note(_WORD + (simulated if secret == "simulated" else ""))


def _signed(case: Case) -> dict[int, list[tuple[int, Mapping[str, Any] | None]]]:
    """Slot -> (round, record or None) of each opened update."""
    found: dict[int, list[tuple[int, Mapping[str, Any] | None]]] = {}
    for number, entry in sorted(case.rounds.items()):
        for slot, update in sorted(entry.updates.items()):
            if update.opening is not None:
                text = update.opening.privacy
                found.setdefault(slot, []).append((number, None if text is None else json.loads(text)))
    return found


def _check_none(case: Case, signed: Mapping[int, Sequence[tuple[int, Any]]]) -> Iterator[Told]:
    """Without a mechanism nobody says that there is one."""
    for slot, records in signed.items():
        for number, record in records:
            if record is not None:
                message = "an update speaks of a privacy mechanism that the configuration does not have"
                yield finding("opening", "privacy", None, canonical_json(record), message, round=number, hospital=slot)
    for slot, one in sorted(case.results.items()):
        if one.content is not None and one.content.privacy is not None:
            message = "a hospital states a privacy mechanism that the configuration does not have"
            yield finding(
                "hospital", "privacy", None, canonical_json(dict(one.content.privacy)), message, hospital=slot
            )
    if case.reported.get("privacy") is not None:
        yield finding("result", "privacy", None, case.reported["privacy"], "the run has no privacy mechanism")


def _terms(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What every record must say, but for sigma where it follows from an epsilon."""
    try:
        privacy, federation = config["privacy"], config["federation"]
        if privacy["method"] == "features":
            return _of_features(privacy, config["model"]["features"])
        values = {"rate": privacy["sampling_rate"], "clip": privacy["clip"], "delta": privacy["delta"]}
        terms = {name: round(value * _UNITS[name]) for name, value in values.items()}
        sigma = privacy["noise"] and round(privacy["noise"] * 1000) * 1000
        one, two, adapting = _planned(config)
        rounds = federation["rounds"]
        return {
            **terms,
            "sigma": sigma,
            "mechanism": "dp-sgd/1",
            "unit": privacy["unit"],
            "neighbours": "add-remove",
            "sampler": "poisson",
            **({"shares": privacy["honest"]} if privacy.get("honest") else {}),
            "secret": privacy["secret"],
            "budget": [rounds * one + adapting, rounds * two],
        }
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return None


def _of_features(privacy: Mapping[str, Any], values: int) -> dict[str, Any]:
    """Of one release of all train beats' features, `values` a beat: how far those of two neighbours are apart at most follows from how they
    are normalised, and bounds what noise is needed."""
    laplace, how = privacy["release"] == "laplace", privacy["normalisation"]
    moved = privacy["batch"] if how == "batch" else 1  # beats whose features one beat moves
    apart = 2 * privacy["clip"] if how == "none" else 2 * math.sqrt(moved)
    apart *= math.sqrt(moved * values) if laplace else 1  # from a length to a sum of absolute values
    return {
        "rate": _UNITS["rate"],
        "clip": math.ceil(round(apart * _UNITS["clip"], 3)),
        "delta": 0 if laplace else round(privacy["delta"] * _UNITS["delta"]),
        "sigma": privacy["noise"] and round(privacy["noise"] * 1000) * 1000,
        "mechanism": f"features-{how}-{privacy['release']}/1",
        "unit": "beat",
        "neighbours": "change",
        "sampler": "all",
        "secret": privacy["secret"],
        "budget": [1, 0],
    }


def _planned(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Samples of a round, of which one gradient is taken, and of which two are; and those of the adaptation."""
    if config["privacy"]["method"] == "features":
        return 1, 0, 0
    federation, adapting, steps = config["federation"], config["personalisation"], config["privacy"]["steps"]
    one, two = steps, 0
    if federation["algorithm"] == "perfedavg":
        meta = federation["perfedavg"]
        ones, twos = _COST[meta["variant"]]
        many = meta["tau"] or max(1, steps // (ones + 2 * twos))
        one, two = many * ones, many * twos
    elif federation["algorithm"] == "ditto":  # of the global model, and of the hospital's own
        one = 2 * steps
    elif federation["algorithm"] == "fedrep":
        one = steps + federation["fedrep"]["head_steps"]
    keeps = adapting["method"] == "none" or federation["algorithm"] in ("local", "ditto")
    return one, two, 0 if keeps else adapting["steps"]


def _check_sigma(case: Case, signed: Mapping[int, Sequence[tuple[int, Any]]], terms: dict[str, Any]) -> Iterator[Told]:
    """Where the noise follows from an epsilon, the whole budget costs that; it is the same everywhere."""
    wanted = case.config["privacy"].get("epsilon")
    if terms["sigma"] is not None or not isinstance(wanted, int | float):
        return
    said = [record for records in signed.values() for _, record in records if record is not None]
    said += [one.content.privacy for one in case.results.values() if one.content and one.content.privacy]
    known = [record.get("sigma") for record in said if _is_count(record.get("sigma"))]
    if not known:
        return
    sigma: int = max(set(known), key=lambda one: (known.count(one), one))
    terms["sigma"] = sigma
    spent = _cost(terms, terms["budget"])
    # sigma is in thousandths: where the next smaller one would cost too much, it is right
    least = _cost({**terms, "sigma": sigma - 1000}, terms["budget"]) > wanted - _LOOSE
    if spent > wanted + _SLACK or (spent < wanted - _LOOSE and not least):
        message = "the noise of the updates does not make the budget cost the epsilon of the configuration"
        yield finding("opening", "privacy.sigma", wanted, spent, message)


def _check_account(
    case: Case, signed: Mapping[int, Sequence[tuple[int, Any]]], terms: Mapping[str, Any]
) -> Iterator[Told]:
    most = list(_planned(case.config)[:2])
    voided = min(_voids(case), default=math.inf)
    for slot in case.federation.slots:
        before, said = [0, 0], list(signed.get(slot, ()))
        once = terms["sampler"] == "all"  # the same release again and again
        if once:
            yield from _check_once(case, slot, said)
        for number, record in said:
            where = {"round": number, "hospital": slot}
            fate = _VOIDED if number >= voided else _STANDS
            before = yield from _check_record(record, terms, before, most, "opening", where, fate)
            before = [0, 0] if once else before
        one = case.results.get(slot)
        if one is not None and one.content is not None:
            yield from _check_record(one.content.privacy, terms, before, None, "hospital", {"hospital": slot})


def _check_once(case: Case, slot: int, said: Sequence[tuple[int, Any]]) -> Iterator[Told]:
    """A hospital names one release in all that it signs: another one would cost as much again."""
    named = [("opening", {"round": number, "hospital": slot}, record) for number, record in said]
    one = case.results.get(slot)
    named += [] if one is None or one.content is None else [("hospital", {"hospital": slot}, one.content.privacy)]
    noises = [(kind, where, record.get("noise")) for kind, where, record in named if record is not None]
    for kind, where, noise in noises:
        if noise != noises[0][2]:
            message = "the features of a hospital were released a second time, with other noise"
            yield finding(kind, "privacy.noise", noises[0][2], noise, message, **where)


def _check_record(
    record: Any,
    terms: Mapping[str, Any],
    before: list[int],
    most: list[int] | None,
    kind: str,
    where: dict[str, int],
    fate: str = "",
) -> Any:
    """One record against the terms and the account before it; returns the account after it."""
    if record is None:
        yield finding(
            kind, "privacy", terms["mechanism"], None, "the privacy mechanism says nothing of itself", **where
        )
        return before
    yield Count("privacy records")
    for name, value in terms.items():
        if value is not None and record.get(name) != value:
            message = f"the {name} of the privacy mechanism is not that of the run"
            yield finding(kind, f"privacy.{name}", value, record.get(name), message, **where)
    for name in sorted(set(record) - {*terms, "steps", "spent", "noise"}):
        message = "nobody knows what this says of the privacy mechanism"
        yield finding(kind, f"privacy.{name}", None, record[name], message, **where)
    steps, spent = record.get("steps"), record.get("spent")
    if not all(isinstance(one, list) and len(one) == 2 and all(map(_is_count, one)) for one in (steps, spent)):
        message = "the account is no pair of numbers of samples"
        yield finding(kind, "privacy.spent", "two numbers each", (steps, spent), message, **where)
        return before
    noise = record.get("noise")
    if not isinstance(noise, str) or len(noise) != 66 or not noise.startswith("0x"):
        message = "there is no commitment to the seed of the noise"
        yield finding(kind, "privacy.noise", "32 bytes", noise, message, **where)
    if most is not None and steps != most:
        message = "the update took another number of samples than the algorithm takes in a round"
        yield finding(kind, "privacy.steps", most, steps, message, **where)
    least = [a + b for a, b in zip(before, steps, strict=True)]
    if any(a < b for a, b in zip(spent, least, strict=True)):
        message = "the account does not hold what was released before"
        yield finding(kind, "privacy.spent", least, spent, message, **where)
    budget = terms["budget"]
    if sum(spent) > sum(budget) or spent[1] > budget[1]:
        message = f"more was released than the budget allows{fate}"
        yield finding(kind, "privacy.spent", budget, spent, message, **where)
    return [max(a, b) for a, b in zip(spent, before, strict=True)]


def _check_annexes(case: Case, terms: Mapping[str, Any]) -> Iterator[Told]:
    """The head of each round commits to mechanism and budget."""
    if terms["sigma"] is None:
        return
    said = canonical_json({name: terms[name] for name in PRIVACY_TERMS if name in terms}).encode()
    digest = spec.counted_hash(said, terms["budget"])
    for number, entry in sorted(case.rounds.items()):
        if entry.digests.get(PRIVACY) != digest:
            message = "the annex does not name the mechanism and the budget of the run"
            yield finding("annex", PRIVACY, digest, entry.digests.get(PRIVACY), message, round=number)


def _tell_voids(case: Case) -> Iterator[Told]:
    """Who has voided which round for an update beyond the budget; what was released stays released."""
    for number, transaction in sorted(_voids(case).items()):
        record = transaction.arguments["evidence"]["record"]
        sender = spec.sender(transaction.raw)
        yield Note(
            f"{sender} voided round {number}, and those after it, by proof that the update of hospital {record['slot']} is beyond the privacy budget"
        )


def _voids(case: Case) -> dict[int, Transaction]:
    return {
        t.round: t for t in case.transactions if t.purpose == "overspent" and t.succeeded and "evidence" in t.arguments
    }


def _check_sums(case: Case, terms: Mapping[str, Any]) -> Iterator[Told]:
    """Noise that is shared comes to what is accounted for where so many add it up."""
    for number, entry in sorted(case.rounds.items()) if "shares" in terms else ():
        if not entry.maskings or min(len(said.masked) for said in entry.maskings) < terms["shares"]:
            message = "noise is shared, and a sum of the round is not of so many hospitals that it comes to what is accounted for"
            found = [len(said.masked) for said in entry.maskings]
            yield finding("opening", "privacy.shares", terms["shares"], found, message, round=number)


def _check_result(case: Case, terms: Mapping[str, Any]) -> Iterator[Told]:
    """What the result says was spent follows from what hospitals signed at the end."""
    if not case.reported or case.ending != "complete" or terms["sigma"] is None:
        return
    told: Any = case.reported.get("privacy")
    if not isinstance(told, Mapping):
        yield finding("result", "privacy", "what was spent", told, "the result does not say what was spent")
        return
    expected: dict[str, Any] = {name: terms[name] for name in ("mechanism", "unit", "neighbours", "secret", "budget")}
    expected |= {name: terms[name] / _UNITS[name] for name in ("sigma", "clip", "delta")}
    expected["sampling_rate"] = terms["rate"] / _UNITS["rate"]
    sharing = expected["shares"] = terms.get("shares", 1)
    for name, value in expected.items():
        if told.get(name) != value:
            yield finding("result", f"privacy.{name}", value, told.get(name), "it is not that of the run")
    if terms["secret"] == "simulated" and "simulated" not in str(told.get("not_protected")):
        message = "the result does not say that its secrets are simulated"
        yield finding("result", "privacy.not_protected", "simulated", told.get("not_protected"), message)
    rows, costs, alone = told.get("hospitals"), [0.0], [0.0]
    if not isinstance(rows, list) or [row.get("id") if isinstance(row, Mapping) else None for row in rows] != list(
        case.federation.slots
    ):
        yield finding(
            "result", "privacy.hospitals", list(case.federation.slots), rows, "not every hospital is there once"
        )
        return
    for slot, row in enumerate(rows):
        one = case.results.get(slot)
        said = one.content.privacy if one is not None and one.content is not None else None
        samples = terms["budget"] if said is None else said.get("spent")
        right = {"samples": samples, "told": said is not None}
        for name, value in right.items():
            if row.get(name) != value:
                message = "it is not what the hospital signed at the end"
                yield finding("result", f"privacy.hospitals.{name}", value, row.get(name), message, hospital=slot)
        if isinstance(samples, list) and len(samples) == 2 and all(map(_is_count, samples)):
            yield Count("epsilons")
            costs.append(_cost(terms, samples))
            alone.append(_cost(terms, samples, sharing))
            yield from _check_epsilon(
                row.get("epsilon"), costs[-1], f"privacy.hospitals.{slot}.epsilon", {"hospital": slot}
            )
    yield from _check_epsilon(told.get("epsilon"), max(costs), "privacy.epsilon", {})
    yield from _check_bounds(told, max(costs), max(alone) if sharing > 1 else None)


def _check_bounds(told: Mapping[str, Any], cost: float, alone: float | None) -> Iterator[Told]:
    """Bounds from above: the smaller of the first two is the epsilon."""
    for name, least in (("pld", cost), ("rdp", cost), *([] if alone is None else [("alone", alone)])):
        if not _is_number(told.get(name)) or told[name] < least - _SLACK:
            yield finding("result", f"privacy.{name}", least, told.get(name), "it is no bound on what was spent")
    if alone is None and told.get("alone") is not None:
        yield finding("result", "privacy.alone", None, told["alone"], "no noise is shared")


def _check_epsilon(found: Any, cost: float, name: str, where: dict[str, int]) -> Iterator[Told]:
    if not _is_number(found) or not cost - _SLACK <= found <= cost + _LOOSE:
        message = "the epsilon is not what the account costs"
        yield finding("result", name, cost, found, message, **where)


def _cost(terms: Mapping[str, Any], samples: Sequence[int], sharing: int = 1) -> float:
    rate, sigma, delta = (terms[name] / _UNITS[name] for name in ("rate", "sigma", "delta"))
    sigma /= math.sqrt(sharing)
    if terms["mechanism"].endswith("-laplace/1"):  # at any delta
        return sum(samples) / sigma if sigma > 0 else math.inf
    if not (0 < rate <= 1 and 0.01 <= sigma <= 1e5 and 0 < delta < 1 and sum(samples) <= 10**9):
        return math.inf
    return epsilon([(rate, sigma, uses, many) for uses, many in enumerate(samples, 1)], delta)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
