"""From evidence to a case: every row is read once, and what cannot be read is told with its place.

Each function yields what is wrong with the rows of a table and returns what is right with them.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from engine.audit import limits, spec
from engine.audit.case import (
    Case,
    Closing,
    Federation,
    Matrix,
    Opening,
    Peer,
    Result,
    Rotation,
    Round,
    Rule,
    Statement,
    Step,
    Update,
    Verdicts,
)
from engine.audit.evidence import Evidence
from engine.audit.masks import read_maskings
from engine.audit.records import Absence, read_absence, read_object, read_record
from engine.audit.report import Reading, finding, text
from engine.audit.sittings import Sitting, Vote, read_sitting, read_vote
from engine.audit.spec import Domain, Record
from engine.audit.transactions import read_transactions
from engine.encoding import canonical_json
from engine.errors import LedgerError
from engine.ledger.format import GOVERNED, MEAN, NO_ROUND, OWN_RULE, PURPOSES, RUN, WEIGHTINGS

# Steps of governance that somebody signs.
SIGNED = {kind: f"Synthetic{kind.title()}" for kind in ("request", "preview", "review", "report")}

Row = Mapping[str, Any]
Rounds = Mapping[int, Any]
Place = tuple[int, int]  # round and slot


def read(evidence: Evidence) -> Reading[Case | None]:
    """Read all rows; None if the journal does not say what it belongs to."""
    meta = yield from read_meta(evidence)
    if meta is None:
        yield from evidence.problems
        return None
    federation, domain, backend, rule = meta
    slots = federation.slots
    rows = yield from _rounds(evidence)
    limits.require("slots of rounds", len(rows) * len(slots), limits.LEAVES)
    updates = yield from _updates(evidence, rows, slots)
    openings = yield from _openings(evidence, rows, slots, updates)
    receipts = yield from _signatures(evidence, "receipts", "receipt", rows, slots, updates)
    erasures = yield from _signatures(evidence, "erasures", "erasure", rows, slots, updates)
    digests = yield from _digests(evidence, rows)
    verdicts = yield from _verdicts(evidence, rows)
    peers = yield from _peers(evidence, rows, slots)
    judges = yield from _judges(evidence, rows, slots)
    absent = yield from _absences(evidence, rows, slots)
    sittings, votes = yield from _sittings(evidence, rows, slots)
    maskings = yield from read_maskings(evidence, rows)
    whole: dict[int, dict[int, Update]] = {number: {} for number in rows}
    for (number, slot), (leaf, record, signature) in updates.items():
        place = (number, slot)
        belongs = (openings.get(place), receipts.get(place), erasures.get(place))
        whole[number][slot] = Update(leaf, record, signature, *belongs)
    rounds = {
        number: Round(**values, updates=whole[number], digests=digests[number], verdicts=verdicts[number], peers=peers[number], judges=judges[number], sitting=sittings.get(number), votes=votes[number], absent=absent[number], maskings=maskings[number])
        for number, values in rows.items()
    }  # fmt: skip
    results = yield from _results(evidence, slots)
    closing = yield from _closing(evidence, slots)
    rotations = yield from _rotations(evidence, slots)
    steps = yield from _steps(evidence)
    transactions = yield from read_transactions(evidence.rows("transactions"), PURPOSES, _place_of)
    yield from evidence.problems
    told = (results, closing, tuple(rotations), tuple(steps), transactions)
    return Case(evidence, federation, domain, backend, rule, rounds, *told)


# --- What the journal belongs to --------------------------------------------------------------------------------------


def read_meta(evidence: Evidence) -> Reading[tuple[Federation, Domain, Mapping[str, Any], Rule] | None]:
    """Read what a journal belongs to; None if it does not say.

    Raises:
        LedgerError: it has another format.
    """
    values = yield from read_words(evidence.rows("meta"), "format", "federation", "domain", "backend", "rule")
    if "format" not in values:  # rows of a bundle that cannot be read, most often: what is wrong with it is told, too
        yield finding("meta", "format", RUN.format, None, "the journal does not say which format it has")
        return None
    if values["format"] != str(RUN.format):
        raise LedgerError(f"the journal has format {text(values['format'])}, this version reads {RUN.format}")
    federation = yield from _meta("federation", values, _federation)
    domain = yield from _meta("domain", values, read_domain)
    backend = yield from _meta("backend", values, read_object)
    rule = yield from _meta("rule", values, _rule)
    if federation is None or domain is None or backend is None:
        return None
    # Without a rule nothing can be added up, but all else can be checked.
    return federation, domain, backend, rule or Rule("", "", {})


def read_words(rows: Iterable[Row], *known: str) -> Reading[dict[str, Any]]:
    """What a journal says of itself, under each name once."""
    values: dict[str, Any] = {}
    for row in rows:
        key = row["key"]
        if not isinstance(key, str) or key not in known:
            message = "the journal says something that its format does not know"
            yield finding("meta", text(key), None, row["value"], message)
        elif key in values:
            yield finding("meta", key, "one", "two", "the journal says something twice")
        else:
            values[key] = row["value"]
    return values


def _meta(key: str, values: Row, read: Any) -> Reading[Any]:
    try:
        return read(values.get(key))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        yield finding("meta", key, f"a readable {key}", values.get(key), f"the {key} cannot be read: {error}")
        return None


def read_domain(text: Any) -> Domain:
    """Read chain and contract; raises ValueError."""
    values = read_object(text, "chain_id", "contract")
    domain = Domain(values["chain_id"], values["contract"])
    spec.encode("uint256", domain.chain_id)
    spec.encode("address", domain.contract)
    return domain


def _rule(text: Any) -> Rule:
    said = read_object(text)
    own, mean = said.get("name") == OWN_RULE, said.get("name") == MEAN
    aged = ("settings",) if isinstance(said, dict) and "settings" in said else ()
    more = ("part", "parameters") if own else aged if mean else ("settings",)
    gate = tuple(name for name in ("gate", "secure") if name in said)
    values = read_object(text, "name", "weighting", "server", *more, *gate)
    words = {"name": str, "weighting": str, "part": str}
    kinds = {**words, "server": dict, "parameters": dict, "settings": dict, "gate": bool, "secure": dict}
    for key, value in values.items():
        if not isinstance(value, kinds[key]):
            raise ValueError(f"the {key} of a rule is no {kinds[key].__name__}")
    if values["weighting"] not in WEIGHTINGS:
        raise ValueError(f"the weighting is none of {', '.join(WEIGHTINGS)}")
    return Rule(**values)


def _federation(text: Any) -> Federation:
    values = read_object(text, *Federation.__dataclass_fields__)
    hashes = {name: _hash(values[name]) for name in ("id", "config_hash", "genesis_model")}
    hospitals, organisations = tuple(values["hospitals"]), tuple(_hash(one) for one in values["organisations"])
    for address in hospitals:
        spec.read_address(address)
    if not hospitals or len({*hospitals}) != len(hospitals) or len(organisations) != len(hospitals):
        raise ValueError("every hospital needs an address of its own and an organisation")
    layout = tuple(_tensor(name, shape) for name, shape in values["layout"])
    limits.require("hospitals", len(hospitals), limits.SLOTS)
    limits.require("tensors of a model", len(layout), limits.TENSORS)
    limits.require("parameters of a model", sum(math.prod(shape) for _, shape in layout), limits.PARAMETERS)
    quorum, window, checks = values["quorum"], values["window"], values["checks"]
    spec.encode("uint24", quorum)
    spec.encode("uint24", window)
    spec.encode("uint24", checks)
    if not 1 <= quorum <= len(hospitals):
        raise ValueError(f"the quorum is not one of 1 to {len(hospitals)}")
    return Federation(
        **hashes,
        hospitals=hospitals,
        layout=layout,
        organisations=organisations,
        quorum=quorum,
        window=window,
        checks=checks,
    )


def _tensor(name: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    if (
        not isinstance(name, str)
        or not _encodes(name)
        or len(shape) > 32
        or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape)
    ):
        raise ValueError("a tensor of the layout is damaged")
    return name, tuple(shape)


def _hash(value: Any) -> bytes:
    found = spec.hash_of(value)
    if found is None:
        raise ValueError(f"not 32 bytes: {value!r:.80}")
    return found


# --- Rounds -----------------------------------------------------------------------------------------------------------


def _rounds(evidence: Evidence) -> Reading[dict[int, dict[str, Any]]]:
    found: dict[int, dict[str, Any]] = {}
    for row in evidence.rows("rounds"):
        number = row["round"]
        if type(number) is not int:
            yield finding("round", "round", "an integer", number, "a round has no number")
        elif not 1 <= number < NO_ROUND:
            yield finding("round", "round", f"1 to {NO_ROUND - 1}", number, "there is no such round", round=number)
        elif number in found:
            yield finding("round", "round", "one", "two", "the round is there twice", round=number)
        else:
            found[number] = yield from _round(number, row)
    # A gap is told once: a number that somebody wrote may be as large as he likes.
    for before, number in pairwise([0, *sorted(found)]):
        if number != before + 1:
            last = "" if number == before + 2 else f" to {number - 1}"
            message = f"round {before + 1}{last} is missing from the journal"
            yield finding("round", "round", before + 1, None, message, round=before + 1)
    return found


def _round(number: int, row: Row) -> Reading[dict[str, Any]]:
    values: dict[str, Any] = {}
    for name in ("parent_model", "model", "root", "annex", "head"):
        value = spec.hash_of(row[name])
        if value is None:
            message = f"{name} of the round is damaged"
            yield finding("round", name, "32 bytes", row[name], message, round=number)
        values[name] = value or spec.ZERO
    count = row["count"]
    if type(count) is not int:
        message = "count of the round is damaged"
        yield finding("round", "count", "an integer", count, message, round=number)
        count = -1
    return {**values, "count": count}


def _placed(
    evidence: Evidence, table: str, record: str, rounds: Rounds, slots: range
) -> Reading[list[tuple[Place, Row]]]:
    """The rows of a table that belong to a round and a hospital, in their order."""
    found: list[tuple[Place, Row]] = []
    for row in evidence.rows(table):
        number, slot = row["round"], row["slot"]
        if type(number) is not int or number not in rounds:
            message = f"the {record} belongs to no recorded round"
            where = {"round": number, "hospital": slot}
            yield finding(record, "round", f"one of {len(rounds)} rounds", number, message, **where)
        elif type(slot) is not int or slot not in slots:
            message = f"the {record} belongs to no hospital"
            yield finding(record, "slot", f"0 to {slots[-1]}", slot, message, round=number)
        else:
            found.append(((number, slot), row))
    return found


def _updates(
    evidence: Evidence, rounds: Rounds, slots: range
) -> Reading[dict[Place, tuple[bytes | None, Record | None, bytes]]]:
    found: dict[Place, tuple[bytes | None, Record | None, bytes]] = {}
    for place, row in (yield from _placed(evidence, "updates", "update", rounds, slots)):
        where = {"round": place[0], "hospital": place[1]}
        if place in found:
            yield finding("update", "slot", "one update", "two", "the hospital appears twice", **where)
            continue
        leaf, signature = spec.hash_of(row["leaf"]), spec.hex_bytes(row["signature"])
        if leaf is None:
            yield finding("update", "leaf", "32 bytes", row["leaf"], "the leaf is damaged", **where)
        if len(signature) != 65:
            message = "the signature is damaged"
            yield finding("update", "signature", "65 bytes", row["signature"], message, **where)
        record = yield from read_record("ModelUpdate", row["record"], "update", where)
        found[place] = (leaf, record, signature)
    return found


def _of_updates(
    evidence: Evidence, table: str, record: str, rounds: Rounds, slots: range, updates: Mapping[Place, Any]
) -> Reading[list[tuple[Place, Row]]]:
    """The rows of a table with one row for each update."""
    found: dict[Place, Row] = {}
    for place, row in (yield from _placed(evidence, table, record, rounds, slots)):
        if place in updates and place not in found:
            found[place] = row
            continue
        message = f"the {record} belongs to no update"
        yield finding(record, "slot", "one of an update", place[1], message, round=place[0], hospital=place[1])
    return list(found.items())


def _openings(
    evidence: Evidence, rounds: Rounds, slots: range, updates: Mapping[Place, Any]
) -> Reading[dict[Place, Opening]]:
    found: dict[Place, Opening] = {}
    for place, row in (yield from _of_updates(evidence, "openings", "opening", rounds, slots, updates)):
        try:
            found[place] = _opening(row["opening"])
        except ValueError as error:
            message = f"the opening is damaged: {error}"
            where = {"round": place[0], "hospital": place[1]}
            yield finding("opening", "opening", "a readable opening", row["opening"], message, **where)
    return found


def _opening(text: Any) -> Opening:
    values = read_object(text, "samples", "samples_salt", "metrics", "metrics_salt", "privacy")
    spec.encode("uint64", values["samples"])
    metrics, privacy = values["metrics"], values["privacy"]
    if not isinstance(metrics, dict) or not isinstance(privacy, dict | None):
        raise ValueError("metrics and privacy must be objects")
    return Opening(
        values["samples"],
        _hash(values["samples_salt"]),
        canonical_json(metrics).encode(),
        _hash(values["metrics_salt"]),
        None if privacy is None else canonical_json(privacy).encode(),
    )


def _signatures(
    evidence: Evidence, table: str, record: str, rounds: Rounds, slots: range, updates: Mapping[Place, Any]
) -> Reading[dict[Place, bytes]]:
    rows = yield from _of_updates(evidence, table, record, rounds, slots, updates)
    return {place: spec.hex_bytes(row["signature"]) for place, row in rows}


def _digests(evidence: Evidence, rounds: Rounds) -> Reading[dict[int, dict[str, bytes]]]:
    found: dict[int, dict[str, bytes]] = {number: {} for number in rounds}
    for row in evidence.rows("annexes"):
        number, name, digest = row["round"], row["name"], spec.hash_of(row["digest"])
        if type(number) is not int or number not in found:
            message = "a digest belongs to no recorded round"
            yield finding("annex", "round", "a recorded round", number, message, round=number)
        elif not isinstance(name, str) or not _encodes(name):
            yield finding("annex", "name", "a name", name, "a digest has no name", round=number)
        elif digest is None or not any(digest):
            message = f"the digest of the {name} is damaged"
            yield finding("annex", "digest", "32 bytes, not all zero", row["digest"], message, round=number)
        elif name in found[number]:
            message = f"the round has two digests of its {name}"
            yield finding("annex", "name", "one", "two", message, round=number)
        else:
            found[number][name] = digest
    return found


def _encodes(text: str) -> bool:
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def _verdicts(evidence: Evidence, rounds: Rounds) -> Reading[dict[int, tuple[Verdicts, ...]]]:
    found: dict[int, tuple[Verdicts, ...]] = dict.fromkeys(rounds, ())
    for row in evidence.rows("scores"):
        number = row["round"]
        if type(number) is not int or number not in found:
            message = "verdicts belong to no recorded round"
            yield finding("scores", "round", "a recorded round", number, message)
            continue
        try:
            values = read_object(row["verdicts"], *Verdicts.__dataclass_fields__)
            for name, value in values.items():
                spec.encode("uint32" if name == "index" else "uint16", value)
            found[number] += (Verdicts(**values),)
        except ValueError as error:
            message = f"the verdicts are damaged: {error}"
            yield finding("scores", "verdicts", "readable verdicts", row["verdicts"], message, round=number)
    return found


def _peers(evidence: Evidence, rounds: Rounds, slots: range) -> Reading[dict[int, tuple[Peer, ...]]]:
    found: dict[int, list[Peer]] = {number: [] for number in rounds}
    for (number, slot), row in (yield from _placed(evidence, "peers", "scores", rounds, slots)):
        values = [row[name] for name in ("judge", "correct", "total")]
        if all(type(value) is int and 0 <= value < 1 << 63 for value in values):
            found[number].append(Peer(slot, *values))
        else:
            where = {"round": number, "hospital": slot}
            yield finding("scores", "peers", "a share of a judge's beats", values, "a score is damaged", **where)
    return {number: tuple(peers) for number, peers in found.items()}


def _judges(evidence: Evidence, rounds: Rounds, slots: range) -> Reading[dict[int, dict[int, bytes]]]:
    found: dict[int, dict[int, bytes]] = {number: {} for number in rounds}
    for (number, slot), row in (yield from _placed(evidence, "judges", "scores", rounds, slots)):
        if slot in found[number]:
            message = "a judge signed the scores of the round twice"
            yield finding("scores", "slot", "one signature", "two", message, round=number, hospital=slot)
        found[number][slot] = spec.hex_bytes(row["signature"])
    return found


def _absences(evidence: Evidence, rounds: Rounds, slots: range) -> Reading[dict[int, tuple[Absence, ...]]]:
    found: dict[int, list[Absence]] = {number: [] for number in rounds}
    for (number, slot), row in (yield from _placed(evidence, "absences", "absence", rounds, slots)):
        one = yield from read_absence(number, slot, row)
        found[number] += [] if one is None else [one]
    return {number: tuple(sorted(rows)) for number, rows in found.items()}


def _sittings(
    evidence: Evidence, rounds: Rounds, slots: range
) -> Reading[tuple[dict[int, Sitting], dict[int, dict[int, Vote]]]]:
    sittings: dict[int, Sitting] = {}
    votes: dict[int, dict[int, Vote]] = {number: {} for number in rounds}
    for one in evidence.rows("sittings"):
        number = one["round"]
        if type(number) is not int or number not in rounds or number in sittings:
            message = "what a committee said belongs to no recorded round, or to one that has another"
            yield finding("committee", "round", "a recorded round", number, message)
            continue
        try:
            sittings[number] = read_sitting(one["sitting"])
        except ValueError as error:
            message = f"what the committee said is damaged: {error}"
            yield finding("committee", "sitting", "readable words", one["sitting"], message, round=number)
    for (number, slot), row in (yield from _placed(evidence, "votes", "committee", rounds, slots)):
        where = {"round": number, "hospital": slot}
        if slot in votes[number]:
            yield finding("committee", "slot", "one vote", "two", "a judge voted twice", **where)
        try:
            votes[number][slot] = read_vote(row)
        except ValueError as error:
            yield finding(
                "committee", "scores", "readable scores", row["scores"], f"a vote is damaged: {error}", **where
            )
    return sittings, votes


# --- The end ----------------------------------------------------------------------------------------------------------


def _results(evidence: Evidence, slots: range) -> Reading[dict[int, Result]]:
    found: dict[int, Result] = {}
    for row in evidence.rows("results"):
        slot, text = row["slot"], row["content"]
        if type(slot) is not int or slot not in slots or slot in found:
            message = "a result at the end belongs to no hospital, or to one that has another"
            yield finding("hospital", "slot", f"0 to {slots[-1]}, each once", slot, message)
            continue
        record = yield from read_record("HospitalResult", row["record"], "hospital", {"hospital": slot})
        content = None
        try:
            content = _statement(text)
        except (ValueError, TypeError, KeyError) as error:
            message = f"what the hospital states cannot be read: {error}"
            yield finding("hospital", "content", "a readable statement", text, message, hospital=slot)
        if record is not None:
            words = text if isinstance(text, str) else ""
            found[slot] = Result(record, spec.hex_bytes(row["signature"]), words, content)
    return found


def _statement(text: Any) -> Statement:
    names = ("data", "classes", "counts", "validation", "test", "predictions", "gradients", "curve")
    said = read_object(text)
    values = read_object(text, *names, *(name for name in ("privacy", "triggered", "guessed") if name in said))
    classes = values["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are names")
    if not 0 < len(set(classes)) == len(classes):
        raise ValueError("classes are different names, one at least")
    if not all(isinstance(values[name], str) for name in ("data", "predictions")):
        raise ValueError("data and predictions are digests")
    size, gradients = len(classes), _members(values["gradients"], "rounds", "personalisation")
    return Statement(
        values["data"],
        tuple(classes),
        {part: _numbers(row, size) for part, row in _members(values["counts"], "train", "validation", "test").items()},
        _matrices(values["validation"], size),
        _matrices(values["test"], size),
        values["predictions"],
        _number(gradients["rounds"]),
        _number(gradients["personalisation"]),
        {_number(number): _matrix(table, size) for number, table in values["curve"]},
        _object(values.get("privacy", {})) or None,
        **{
            attack: {name: _numbers(row, size) for name, row in _members(values[attack], "global", "personal").items()}
            for attack, size in (("triggered", 2), ("guessed", 5))
            if attack in values
        },
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def _members(value: Any, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"expected the fields {', '.join(names)}")
    return value


def _matrices(value: Any, size: int) -> dict[str, Matrix]:
    return {model: _matrix(table, size) for model, table in _members(value, "global", "personal").items()}


def _matrix(value: Any, size: int) -> Matrix:
    if not isinstance(value, list) or len(value) != size:
        raise ValueError(f"a confusion matrix has not {size} rows")
    return tuple(_numbers(row, size) for row in value)


def _numbers(value: Any, size: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != size:
        raise ValueError(f"not {size} numbers")
    return tuple(_number(each) for each in value)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"not a number of something: {value!r:.40}")
    return value


def _closing(evidence: Evidence, slots: range) -> Reading[Closing | None]:
    found = None
    for row in evidence.rows("closings"):
        if found is not None:
            yield finding("closing", "round", "one", "two", "the run was closed twice", round=row["round"])
            continue
        record = yield from read_record("RunClosing", row["record"], "closing", {"round": row["round"]})
        if record is None:
            continue
        missing: dict[int, str] = {}
        try:
            listed = read_object(row["content"], "missing")["missing"]
            missing = {int(slot): str(reason) for slot, reason in listed.items()}
            if not missing.keys() <= {*slots} or [str(slot) for slot in missing] != [*listed]:
                raise ValueError("no hospital of the run")
        except (ValueError, AttributeError) as error:
            message = f"the list of hospitals without a result cannot be read: {error}"
            yield finding("closing", "content", "hospitals and reasons", row["content"], message)
        found = Closing(row["round"], record, spec.hex_bytes(row["signature"]), missing)
    return found


# --- Keys, steps ------------------------------------------------------------------------------------------------------


def _rotations(evidence: Evidence, slots: range) -> Reading[list[Rotation]]:
    found = []
    for row in evidence.rows("rotations"):
        where = {"round": row["round"], "hospital": row["slot"]}
        record = yield from read_record("KeyRotation", row["record"], "rotation", where)
        if record is None:
            continue
        if record["slot"] not in slots:
            message = "the rotation belongs to no hospital"
            yield finding("rotation", "slot", f"0 to {slots[-1]}", record["slot"], message, **where)
            continue
        signatures = (spec.hex_bytes(row["old_signature"]), spec.hex_bytes(row["new_signature"]))
        found.append(Rotation(row["slot"], row["round"], record, *signatures))
    return found


def _steps(evidence: Evidence) -> Reading[list[Step]]:
    found = []
    for position, row in enumerate(evidence.rows("synthetic"), start=1):
        kind, text = row["kind"], row["record"]
        if row["seq"] != position:
            message = "the steps of governance are not numbered without a gap"
            yield finding("synthetic", "seq", position, row["seq"], message)
        if not isinstance(kind, str) or kind not in GOVERNED:
            message = "the step of governance is unknown"
            yield finding("synthetic", "kind", ", ".join(GOVERNED), kind, message)
            continue
        record: Record | Mapping[str, Any] | None
        if kind in SIGNED:
            record = yield from read_record(SIGNED[kind], text, "synthetic", {})
        else:
            record = yield from _content(kind, text)
        if record is not None:
            found.append(Step(kind, row["id"], record, row["signature"], row["sender"]))
    return found


def _content(kind: str, text: Any) -> Reading[Mapping[str, Any] | None]:
    try:
        return read_object(text)
    except ValueError as error:
        message = f"the {kind} is damaged: {error}"
        yield finding("synthetic", "record", "readable JSON", text, message)
        return None


def _place_of(row: Row) -> dict[str, Any]:
    return {"round": row["round"]}
