"""Every reported number against what hospitals signed: scores, learning curve, gradients, sizes, trivial lines, predictions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.audit import limits, people, spec
from engine.audit.case import Case, Matrix, Statement
from engine.audit.report import Count, Note, Told, finding
from engine.audit.scores import federation_scores, scored_classes, scores, share
from engine.audit.selection import hostile
from engine.encoding import read_json
from engine.files import read_bytes
from engine.ledger.format import RESULT_VERSION

_ROWS = 20  # with more hospitals, a round does not list their scores one by one
_LEAST_GUESSED = 10  # beats on either side for membership inference
_PREDICTIONS = "predictions.parquet"
_PATHS = (
    "out",
    "data.folder",
    "data.patients",
    "data.other.folder",
    "data.other.patients",
    "ledger.keystore",
    "ledger.key_file",
    "tracking.uri",
)


def check(case: Case) -> Iterator[Told]:
    """Check what the run reports against the hospitals' statements, and the file of the predictions against both."""
    stated = {slot: one.content for slot, one in sorted(case.results.items()) if one.content is not None}
    yield from _check_samples(case, stated)
    if not case.reported or case.ending != "complete":
        return
    if not stated:
        if case.federation.slots == range(0) or missing_of(case):
            words = "no hospital signed a result: every reported score is the coordinator's word"
            yield Note(words, unchecked=True)
        return
    first = next(iter(stated.values())).classes
    if strange := [slot for slot, one in stated.items() if one.classes != first]:
        for slot in strange:
            message = "the hospital states other classes than the first one, so no score can follow from all"
            yield finding("hospital", "classes", first, stated[slot].classes, message, hospital=slot)
        return
    pooled = _look(case.config, "federation", "algorithm") == "centralised"
    own = dict(list(stated.items())[:-1]) if pooled and case.federation.slots[-1] in stated else stated
    for name, value in _expected(case, stated, own).items():
        yield Count("numbers")
        found = _look(case.reported, *name.split("."))
        if not _same(found, value):
            yield from _differences(name, value, found)
    if missing_of(case):
        yield Note("the learning curve was not recomputed: not every hospital signed its share", unchecked=True)
    yield from _check_predictions(case, own)


def missing_of(case: Case) -> Mapping[int, str]:
    """Hospitals that signed nothing at the end -> why."""
    return {} if case.closing is None else case.closing.missing


def _check_samples(case: Case, stated: Mapping[int, Statement]) -> Iterator[Told]:
    """The weights that hospitals committed to round by round are the sizes of their train parts."""
    for number, entry in sorted(case.rounds.items()):
        for slot, update in sorted(entry.updates.items()):
            if slot not in stated or update.opening is None:
                continue
            size = sum(stated[slot].counts["train"])
            if update.opening.samples != size:
                message = "the update's weight is not the size of the train part that the hospital states"
                where = {"round": number, "hospital": slot}
                yield finding("opening", "samples", size, update.opening.samples, message, **where)


def _expected(case: Case, stated: Mapping[int, Statement], own: Mapping[int, Statement]) -> dict[str, Any]:
    """Dotted name of each value of the result that follows from what was signed.

    Args:
        stated: by all hospitals; `own` are those without the imaginary one of pooled data.
    """
    classes = next(iter(stated.values())).classes
    scored = scored_classes(classes, _total(own, "validation", classes), _total(own, "test", classes))
    if missing_of(case):  # then it is the coordinator's word
        told = _look(case.reported, "cohort", "scored")
        scored = [name for name in classes if isinstance(told, list) and name in told]
    rounds, enemies = _look(case.reported, "rounds"), hostile(case.config)
    honest = {slot: one for slot, one in own.items() if slot not in enemies}
    expected: dict[str, Any] = {
        "version": RESULT_VERSION,
        **{f"config.{name}": value for name, value in _settings(case.config).items()},
        "name": case.config.get("name"),
        "parameters": case.federation.parameters,
        "hostile": sorted(enemies) or None,
        "backdoor": _backdoor(case, list(honest.values()), classes),
        "membership": _membership(case, honest),
        "lost": [reason for _, reason in sorted(missing_of(case).items())],
        "timing.personalisation_gradient_evaluations": sum(one.personalised for one in own.values()),
        "timing.gradient_evaluations": _evaluations(case, stated) + sum(one.personalised for one in own.values()),
    }
    for part, of in (("validation", "validation"), ("final", "test")):
        tables = {
            model: {slot: getattr(one, of)[model] for slot, one in honest.items()} for model in ("global", "personal")
        }
        expected[f"{part}.global"] = federation_scores(tables["global"], classes, scored)
        expected[f"{part}.personal"] = federation_scores(tables["personal"], classes, scored, tables["global"])
    for position in range(min(len(rounds), len(case.rounds) + 1) if isinstance(rounds, list) else 0):
        expected |= _round(case, position, {h: one for h, one in stated.items() if h not in enemies}, classes, scored)
    expected["rounds.length"] = len(case.rounds)
    return expected | _cohort(case, own, honest, classes, scored)


def _backdoor(case: Case, honest: Sequence[Statement], classes: Sequence[str]) -> dict[str, Any] | None:
    """How often a simulated backdoor opened at the honest hospitals."""
    if _look(case.config, "attack", "method") != "backdoor":
        return None
    target = _look(case.config, "attack", "target")
    found: dict[str, Any] = {"target": classes[0] if target is None else target}
    for model in ("global", "personal"):
        counts = [one.triggered[model] for one in honest if one.triggered]
        beats = sum(of for _, of in counts)
        found |= {"beats": beats, model: sum(hit for hit, _ in counts) / beats if beats else None}
    return found


def _membership(case: Case, honest: Mapping[int, Statement]) -> dict[str, Any] | None:
    """How far the models tell train beats from others, by the counts that the honest hospitals signed."""
    if _look(case.config, "privacy", "membership") is not True:
        return None
    rows: list[dict[str, Any]] = []
    for slot, one in sorted(honest.items()):
        members, others = (sum(one.counts[part]) for part in ("train", "test"))
        if min(members, others) < _LEAST_GUESSED:
            continue
        row: dict[str, Any] = {"id": slot, "members": members, "others": others}
        for model, (wins, hits, n, alarms, m) in one.guessed.items():
            if (n, m) == (members, others) and hits <= n and alarms <= m and wins <= 2 * n * m:
                row[model] = {"auc": wins / (2 * members * others), "advantage": hits / members - alarms / others}
        rows.append(row)
    if not all(row.keys() > {"global", "personal"} for row in rows):
        return {"hospitals": rows}  # somebody has not said what the configuration asks for, or what cannot be
    means = {
        model: {name: math.fsum(row[model][name] for row in rows) / len(rows) for name in ("auc", "advantage")}
        for model in ("global", "personal")
        if rows
    }
    return {**means, "hospitals": rows} if rows else None


def _evaluations(case: Case, stated: Mapping[int, Statement]) -> int:
    """Gradients of all updates: as committed to round by round, or, where openings were erased, as stated at the end."""
    updates = [update for entry in case.rounds.values() for update in entry.updates.values()]
    counts = [count for u in updates if isinstance(count := _metrics(u).get("gradient_evaluations"), int)]
    if len(counts) == len(updates):
        return sum(counts)
    return sum(one.trained for one in stated.values())


def _round(
    case: Case, position: int, stated: Mapping[int, Statement], classes: Sequence[str], scored: Sequence[str]
) -> dict[str, Any]:
    """A row of the learning curve."""
    number, name = position + 1, f"rounds.{position}"
    entry = case.rounds.get(number)
    if entry is None:
        return {f"{name}.round": None}
    expected: dict[str, Any] = {f"{name}.round": number, f"{name}.participants": len(entry.updates)}
    metrics = {slot: _metrics(update) for slot, update in sorted(entry.updates.items())}
    spent = {h: n for h, one in metrics.items() if isinstance(n := one.get("gradient_evaluations"), int)}
    if spent.keys() == metrics.keys():
        expected[f"{name}.gradient_evaluations"] = sum(spent.values())
    weights = {slot: u.opening.samples for slot, u in entry.updates.items() if u.opening is not None}
    losses = {h: loss for h, one in metrics.items() if isinstance(loss := one.get("loss"), int | float)}
    whole: int = sum(weights.values())
    if losses.keys() == metrics.keys() and whole:
        expected[f"{name}.train_loss"] = math.fsum(loss * weights[h] for h, loss in losses.items()) / whole
    tables = {slot: one.curve[number] for slot, one in stated.items() if number in one.curve}
    if not missing_of(case):
        expected[f"{name}.validation"] = federation_scores(tables, classes, scored, rows=len(tables) <= _ROWS)
    return expected


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a configuration without paths: those in the run's folder are written relative to it."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found |= _settings(value, f"{key}.")
        elif key not in _PATHS:
            found[key] = value
    return found


def _total(own: Mapping[int, Statement], part: str, classes: Sequence[str]) -> list[int]:
    """Beats of each class in a part of all hospitals."""
    return [sum(one.counts[part][i] for one in own.values()) for i in range(len(classes))]


def _metrics(update: Any) -> Mapping[str, Any]:
    if update.opening is None:
        return {}
    try:
        found = read_json(update.opening.metrics.decode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _cohort(
    case: Case,
    own: Mapping[int, Statement],
    honest: Mapping[int, Statement],
    classes: Sequence[str],
    scored: Sequence[str],
) -> dict[str, Any]:
    """Sizes and trivial lines, where every hospital of the cohort has signed; the lines of all are over the honest ones."""
    rows = _look(case.reported, "cohort", "hospitals")
    if not isinstance(rows, list) or len(rows) != len(own):
        return {} if missing_of(case) else {"cohort.hospitals.length": len(own)}
    size, expected = range(len(classes)), dict[str, Any]()
    train, test = {h: one.counts["train"] for h, one in own.items()}, {h: one.counts["test"] for h, one in own.items()}
    majority = {h: max(size, key=lambda i, h=h: (train[h][i], -i)) for h in own}  # type: ignore[misc]
    for position, (h, one) in enumerate(own.items()):
        name = f"cohort.hospitals.{position}"
        expected[f"{name}.id"] = h
        for part in ("train", "validation", "test"):
            expected[f"{name}.{part}"] = sum(one.counts[part])
        guess: Matrix = tuple(tuple(test[h][i] if j == majority[h] else 0 for j in size) for i in size)
        expected[f"{name}.not_testable"] = _not_testable(case, classes, test[h])
        lines = scores(guess, classes, scored)
        expected[f"{name}.local_majority_accuracy"] = lines["accuracy"]
        expected[f"{name}.local_majority_macro_f1"] = lines["macro_f1"]
    expected |= _whole(case, own, classes)
    constant: Matrix = tuple(tuple(sum(test[h][i] for h in honest if majority[h] == j) for j in size) for i in size)
    known = [sum(test[h][i] for h in honest) for i in size]
    commonest = max(size, key=lambda i: (sum(train[h][i] for h in honest), -i))
    lines = scores(constant, classes, scored)
    return expected | {
        "cohort.scored": list(scored),
        "cohort.not_testable": _not_testable(case, classes, [sum(test[h][i] for h in own) for i in size]),
        "cohort.local_majority_accuracy": lines["accuracy"],
        "cohort.local_majority_macro_f1": lines["macro_f1"],
        "cohort.global_majority_accuracy": share(known[commonest], sum(known)),
    }


def _not_testable(case: Case, classes: Sequence[str], beats: Sequence[int]) -> list[str]:
    """The classes with too few test beats to speak of."""
    least = _look(case.config, "cohort", "min_support")
    return [name for name, n in zip(classes, beats, strict=True) if not isinstance(least, int) or n < least]


def _whole(case: Case, own: Mapping[int, Statement], classes: Sequence[str]) -> dict[str, Any]:
    """All beats of each class: at least those in a part, as some lie between two parts; the sums over all hospitals."""
    rows, expected = _look(case.reported, "cohort", "hospitals"), dict[str, Any]()
    there: list[list[int]] = []
    for position, one in enumerate(own.values()):
        found = [_look(rows[position], "classes", name) for name in classes]
        least = [sum(part[i] for part in one.counts.values()) for i in range(len(classes))]
        there.append([n if type(n) is int and n >= low else low for n, low in zip(found, least, strict=True)])
        expected[f"cohort.hospitals.{position}.classes"] = dict(zip(classes, there[-1], strict=True))
    whole = [sum(column) for column in zip(*there, strict=True)]
    return expected | {"cohort.classes": dict(zip(classes, whole, strict=True)), "cohort.beats": sum(whole)}


# --- Predictions ------------------------------------------------------------------------------------------------------


def _check_predictions(case: Case, own: Mapping[int, Statement]) -> Iterator[Told]:
    """The file of predictions: as a whole what the run was closed with, hospital by hospital what each signed."""
    folder = case.evidence.folder
    if folder is None:
        return
    path = case.evidence.file(_PREDICTIONS)
    if not path.exists():
        if case.finished:  # else `closing.py` names what is not there
            yield finding("predictions", "file", _PREDICTIONS, None, "the predictions are missing")
        return
    import pyarrow as pa

    try:
        columns = _read_columns(path)
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, MemoryError) as error:
        yield finding("predictions", "file", "a readable table", None, f"{_PREDICTIONS} is damaged: {error}")
        return
    digest = spec.json_hash(_plain(columns))
    if case.closing is not None and digest != case.closing.record["predictions"]:
        message = "the predictions are not those that the run was closed with"
        yield finding("predictions", "digest", case.closing.record["predictions"], digest, message)
    try:
        rows = _by_hospital(columns)
    except (KeyError, TypeError, ValueError) as error:
        yield finding("predictions", "columns", "rows of test beats", None, f"{_PREDICTIONS} is no such table: {error}")
        return
    yield from _check_people(case, columns, next(iter(own.values())).classes if own else ())
    for slot in sorted(rows.keys() - own.keys()):
        if slot not in missing_of(case):
            message = "the file holds predictions of a hospital that signed none"
            yield finding("predictions", "hospital", None, slot, message)
    for slot, one in own.items():
        yield Count("predictions")
        said = rows.get(slot, {})
        if (spec.json_hash(_signed(said)) or b"").hex() != one.predictions:
            message = "the predictions are not those that the hospital signed"
            yield finding("predictions", "rows", one.predictions, len(said.get("global", ())), message, hospital=slot)
        for model, table in one.test.items():
            if _confusion(said.get(model, ()), one.classes) != table:
                message = f"the predictions of the {model} model do not give the hospital's confusion matrix"
                yield finding("predictions", f"{model}.confusion", table, None, message, hospital=slot)


def _check_people(case: Case, columns: Mapping[str, Any], classes: Sequence[str]) -> Iterator[Told]:
    """Patients, groups of patients and calibration follow from the file; who is in which group is the coordinator's word."""
    scored, least = _look(case.reported, "cohort", "scored"), _look(case.config, "cohort", "min_support")
    if not isinstance(scored, list) or type(least) is not int:
        return  # told where these are checked
    known = [name for name in classes if name in scored]
    try:
        expected = people.examined(columns, classes, known, least, sorted(hostile(case.config)))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{_PREDICTIONS} does not say whose beats these are: {error}"
        yield finding("predictions", "people", "a patient, groups and a confidence in each row", None, message)
        return
    for name, value in expected.items():
        yield Count("numbers")
        found = _look(case.reported, name)
        if not _same(found, value):
            yield from _differences(name, value, found)


def _read_columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a Parquet file; raises OSError or ValueError for one that is none, or swells as it is read."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    source = pa.BufferReader(read_bytes(path, limits.TABLE))
    with pq.ParquetFile(source) as plain:
        if plain.schema_arrow.metadata:
            raise ValueError("it holds more than its columns")
        told, texts = plain.metadata, [f.name for f in plain.schema_arrow if pa.types.is_string(f.type)]
    for group in range(told.num_row_groups):
        for column in range(told.num_columns):
            limits.require("predictions", told.row_group(group).column(column).num_values, limits.PREDICTIONS)
    limits.require("predictions", told.num_rows * max(told.num_columns, told.num_row_groups), 20 * limits.PREDICTIONS)
    source.seek(0)
    # each text once, however many rows have it
    with pq.ParquetFile(source, read_dictionary=texts) as file:
        table = file.read()
    for name in texts:
        for chunk in table[name].chunks:
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            limits.require("bytes of a text in the predictions", longest, limits.WORD)
    return dict(table.to_pydict())


def _plain(columns: Mapping[str, Any]) -> Any:
    kinds = (str, int, float, bool, type(None))
    return {name: [v if isinstance(v, kinds) else str(v) for v in values] for name, values in columns.items()}


_Row = tuple[str, int, str, str, int]  # record, sample, true, predicted, confidence


def _by_hospital(columns: Mapping[str, Any]) -> dict[int, dict[str, list[_Row]]]:
    found: dict[int, dict[str, list[_Row]]] = {}
    names = ("hospital", "model", "record", "sample", "true", "predicted", "confidence")
    for hospital, model, *row in zip(*(columns[name] for name in names), strict=True):
        kinds = (type(hospital), *(type(value) for value in row))
        if kinds != (int, str, int, str, str, int) or model not in ("global", "personal"):
            raise ValueError("a row is not one of a test beat")
        found.setdefault(hospital, {}).setdefault(model, []).append(tuple(row))
    return found


def _signed(said: Mapping[str, list[_Row]]) -> Any:
    """What a hospital hashes of its rows; those of both models are about the same beats."""
    first = said.get("global", [])
    apart = {
        model: [row[3] for row in rows] if [r[:3] for r in rows] == [r[:3] for r in first] else None
        for model, rows in said.items()
    }
    sure = {model: [row[4] for row in rows] for model, rows in said.items()}
    return {
        "record": [row[0] for row in first],
        "sample": [row[1] for row in first],
        "true": [row[2] for row in first],
        "predicted": {"global": [], "personal": [], **apart},
        "confidence": {"global": [], "personal": [], **sure},
    }


def _confusion(rows: Any, classes: Sequence[str]) -> Matrix:
    counts = dict[tuple[str, str], int]()
    for _, _, true, predicted, _ in rows:
        counts[true, predicted] = counts.get((true, predicted), 0) + 1
    return tuple(tuple(counts.get((a, b), 0) for b in classes) for a in classes)


# --- Comparing --------------------------------------------------------------------------------------------------------


def _look(value: Any, *names: str) -> Any:
    for name in names:
        if isinstance(value, list):
            if name == "length":
                value = len(value)
            else:
                value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, float) and type(found) in (int, float):
        return math.isclose(found, value, rel_tol=1e-12, abs_tol=1e-15)
    return type(found) is type(value) and bool(found == value)


def _differences(name: str, value: Any, found: Any) -> Iterator[Told]:
    """Findings with the names of the values that differ, as deep as both sides go."""
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        for key in sorted({*map(str, value), *map(str, found)}):
            if not _same(found.get(key), value.get(key)):
                yield from _differences(f"{name}.{key}", value.get(key), found.get(key))
    elif isinstance(value, list) and isinstance(found, list) and len(value) == len(found):
        for i, (one, other) in enumerate(zip(value, found, strict=True)):
            if not _same(other, one):
                yield from _differences(f"{name}.{i}", one, other)
    else:
        message = f"{name} of the result does not follow from what the hospitals signed"
        yield finding("result", name, value, found, message)
