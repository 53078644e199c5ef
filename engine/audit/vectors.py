"""Vectors: what hospitals sent against what they signed, and every round's model computed again from it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError

from engine.audit import clock, compression, limits, masks, own, rules, secure, spec
from engine.audit.case import Case, Round
from engine.audit.draws import initial, seed_of
from engine.audit.records import read_tensors
from engine.audit.report import Count, Note, Reading, Told, finding
from engine.audit.rules import Combine, Model, Weighted
from engine.ledger.format import GENESIS, MEAN, OWN_RULE, SERVER, tensor_name, vectors_name


def check(case: Case) -> Iterator[Told]:
    """Check every archived vector and compute every aggregate again, as far as all it needs is there and right."""
    if case.public:
        words = "it is public: the commitments were not opened, so numbers of samples and metrics were not compared"
        yield Note(f"the bundle holds no salts, as {words}", unchecked=True)
    problem = rules.problem(case.rule)
    if problem:
        yield finding("meta", "rule", "a rule with its arithmetic", case.rule, problem)
    combine = yield from own.rule_of(case)
    stopped = problem or (case.rule.name == OWN_RULE and combine is None)
    model = yield from _genesis(case)
    began, models = clock.discounts(case), dict[int, np.ndarray]()
    if began is None and not stopped:
        words = "what late updates count is not told, so aggregates were not recomputed"
        yield Note(words, unchecked=case.finished)
        model = None
    for number, entry in sorted(case.rounds.items()):
        updates = yield from _check_vectors(case, number, entry)
        if model is None:
            continue
        if updates is None or stopped or not case.known_before(number):
            yield Note(f"aggregates were not recomputed from round {number} on", unchecked=True)
            model = None
        else:
            models[number - 1] = model.params
            models.pop(number - 2 - (case.rule.settings.get("max_staleness", 0) if case.rule.name == MEAN else 0), None)
            of_round = (began or {}).get(number, {})
            aged = [u._replace(**_aged(models, number, *of_round[s])) if s in of_round else u for s, u in updates]
            good = entry.counted(case.rule.gate)
            merged = [one for slot, one in zip(sorted(entry.updates), aged, strict=True) if slot in good]
            sums = yield from _sums(case, number, entry, updates)
            model = yield from _check_aggregate(case, number, entry, model, merged, combine, sums)
    yield from _check_files(case)


def _aged(models: Mapping[int, np.ndarray], number: int, start: int, discount: float) -> dict[str, Any]:
    """Of an update: what it counts, and the model that its work began from, if that is not the last."""
    return {"discount": discount, "start": None if start == number - 1 else models.get(start)}


def _genesis(case: Case) -> Reading[Model | None]:
    tensors = yield from _tensors(case, 0)
    if tensors is None:
        return None
    if set(tensors) != {GENESIS}:
        message = "the file does not hold the genesis parameters"
        yield finding("archive", "genesis", GENESIS, ", ".join(sorted(tensors)), message, round=0)
        return None
    found = flat_hash(case, tensors[GENESIS])
    if found != case.federation.genesis_model:
        message = "the archived genesis parameters are not the recorded ones"
        yield finding("archive", "genesis", case.federation.genesis_model, found, message, round=0)
        return None
    yield from _check_beginning(case)
    return Model(tensors[GENESIS])


def _check_beginning(case: Case) -> Iterator[Told]:
    """A run begins from what its seed gives; one that began from a model of somebody's choice could have learnt before."""
    seed, model = seed_of(case.config), case.config.get("model")
    network = model.get("network") if isinstance(model, Mapping) else None
    if seed is None or not isinstance(network, str):
        return  # such a configuration is told in `closing.py`
    if "@" in network:
        yield Note("the model before round 1 is what a network of its own begins with: it was not drawn again")
        return
    drawn = flat_hash(case, initial(case.federation.layout, seed))
    yield Count("beginnings")
    if drawn != case.federation.genesis_model:
        message = "the model before round 1 is not the one that the seed gives"
        yield finding("meta", "genesis_model", drawn, case.federation.genesis_model, message, round=0)


def _check_aggregate(
    case: Case,
    number: int,
    entry: Round,
    model: Model,
    updates: list[Weighted],
    combine: Combine | None,
    sums: np.ndarray | None,
) -> Reading[Model | None]:
    """Compute one round again; returns the model, None if the next round does not start from it."""
    yield Count("aggregates")
    if entry.maskings and sums is None:
        yield Note(f"aggregates were not recomputed from round {number} on: its masks cannot be lifted", unchecked=True)
        return None
    try:
        model = rules.next_model(case.rule, model, updates, combine, number, sums)
    except ValueError as error:
        yield finding("archive", "update", "updates that can be added up", "none", str(error), round=number)
        return None
    found = flat_hash(case, model.params)
    if found != entry.model:
        message = "the aggregate of the archived updates is not the recorded model"
        yield finding("round", "model", found, entry.model, message, round=number)
        yield Note(f"aggregates were not recomputed after round {number}", unchecked=True)
        return None
    kept = rules.remembered(case.rule, model)
    remembered, recorded = spec.tensors_hash(kept) if kept else spec.ZERO, entry.digests.get(SERVER, spec.ZERO)
    if remembered != recorded:
        message = "what the server remembers is not what follows from the updates"
        yield finding("annex", SERVER, remembered, recorded, message, round=number)
    # A hospital may be voided out of the history by a dispute; the next round then starts from an older model.
    if number + 1 in case.rounds and case.model_before(number + 1) != entry.model:
        yield Note(f"round {number} was voided: aggregates were not recomputed after it", unchecked=True)
        return None
    return model


def _sums(case: Case, number: int, entry: Round, updates: list[tuple[int, Weighted]]) -> Reading[np.ndarray | None]:
    """The sums beneath masked updates, int64[groups, P + 1]; None where nothing was hidden, or nobody can compute them."""
    sent, found = dict(updates), []
    for group, said in enumerate(entry.maskings):
        lifted = secure.lifted_of(said)
        if (
            {*lifted.seeds} != {*said.masked}
            or {*lifted.pairs} != {*said.gone}
            or not said.masked
            or {*said.masked} - {*sent}
        ):
            return None  # told in `secure.py`
        hidden = {slot: sent[slot].vector for slot in said.masked}
        try:
            total = masks.total(said, secure.context_of(case, number, group), hidden, *lifted)
        except ValueError as error:
            yield finding(
                "masks", "keys", "keys that agree", "none", f"masks cannot be computed: {error}", round=number
            )
            return None
        weights = sum(rules.weight(case.rule.weighting, sent[slot]) for slot in said.masked)
        if total[-1] != weights:
            message = "the weights in a masked sum are not those that its hospitals committed to"
            yield finding("masks", "weights", weights, int(total[-1]), message, round=number)
        found.append(total)
    return np.stack(found) if found else None


def _check_vectors(case: Case, number: int, entry: Round) -> Reading[list[tuple[int, Weighted]] | None]:
    """Check the vectors of one round; returns them by slot if all are there and right."""
    tensors = yield from _tensors(case, number)
    if tensors is None:
        return None
    whole, wanted = True, {tensor_name(slot): slot for slot in entry.updates}
    for name in sorted(tensors.keys() - wanted.keys()):
        message = "the archive holds an unrecorded vector"
        yield finding("archive", "update", None, name, message, round=number, hospital=_slot(name))
        whole = False
    updates = []
    for name, slot in sorted(wanted.items(), key=lambda pair: pair[1]):
        update, where = entry.updates[slot], {"round": number, "hospital": slot}
        if name not in tensors:
            yield finding("archive", "update", "a vector", None, "the archived vector is missing", **where)
            whole = False
            continue
        if update.record is None:
            whole = False
            continue
        yield Count("vectors")
        expected, found = update.record["update"], flat_hash(case, tensors[name])
        if entry.maskings:
            signed = [said.masked[slot][0] for said in entry.maskings if slot in said.masked]
            expected, found = signed[0] if signed else spec.ZERO, _masked_hash(case, tensors[name])
        if found != expected:
            message = "the archived vector is not the one that the hospital signed"
            yield finding("archive", "update", expected, found, message, **where)
            whole = False
        if wrong := compression.problem(case.config, tensors[name]):
            yield finding("archive", "compression", "the form that is configured", None, wrong, **where)
        samples = None if update.opening is None else update.opening.samples
        if samples is None and case.rule.weighting == "samples":
            if not case.public:
                words = "the number of samples was erased, so the aggregate is not recomputed"
                yield Note(f"round {number}, hospital {slot}: {words}", unchecked=True)
            whole = False
        updates.append((slot, Weighted(samples, tensors[name])))
    return updates if whole else None


def _slot(name: str) -> int | None:
    kind, _, digits = name.partition("-")
    return int(digits) if kind == "slot" and digits.isascii() and digits.isdecimal() and len(digits) < 10 else None


def _tensors(case: Case, number: int) -> Reading[Mapping[str, np.ndarray] | None]:
    entries = case.federation.parameters
    data = case.evidence.vectors(number, 8 * (entries + 1) * max(len(case.federation.hospitals), 1) + limits.HEADER)
    if data is None and case.evidence.lost(number):
        words = "are not there (`pulseledger ledger blobs DIR get PLACE` brings back what was put somewhere)"
        yield Note(f"round {number}: the archived vectors {words}", unchecked=True)
        return None
    if data is None:
        yield finding("archive", "file", "readable vectors", None, "the archived vectors cannot be read", round=number)
        return None
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        message = f"the archived vectors are damaged: {error}"
        yield finding("archive", "file", "readable vectors", None, message, round=number)
        return None


def _check_files(case: Case) -> Iterator[Told]:
    """No round is archived that the journal does not hold; those of a run that goes on are archived first."""
    known, ahead = {vectors_name(number).removeprefix("updates/") for number in (0, *case.rounds)}, []
    for name in case.evidence.archived():
        if name in known:
            continue
        stem = name.removesuffix(".safetensors")
        where = int(stem) if stem.isascii() and stem.isdecimal() and len(stem) < 20 else None
        if where is not None and where > case.last and not case.finished:
            ahead.append(where)
        else:
            yield finding("archive", "file", None, name, "the archive holds an unrecorded round", round=where)
    if ahead:
        yield Note(f"the journal does not hold rounds {min(ahead)} to {max(ahead)} yet, whose vectors are archived")


def _masked_hash(case: Case, vector: np.ndarray) -> bytes:
    """SHA-256 of a masked update; b"" if it does not have the form of one."""
    entries = case.federation.parameters
    right = vector.ndim == 1 and vector.dtype == np.int64 and len(vector) == entries + 1
    return masks.digest_of(vector) if right else b""


def flat_hash(case: Case, vector: np.ndarray) -> bytes:
    """Hash of parameters or of a change of them; b"" if they do not have the layout's form."""
    try:
        return spec.flat_hash(vector, case.federation.layout)
    except ValueError:
        return b""
