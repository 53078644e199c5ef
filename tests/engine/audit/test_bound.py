"""What a run reports at its end is bound: every value of every file, unless it is listed as not bound.

The changes come from the model of the result and from the files of a run that the engine made: a field without a check
fails here.
"""

import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished import audit, change, names, other, places, remembered, row_of
from paths import Path_, at, changed, general, leaves
from results import whole

from engine.audit import closing, numbers, result, selection, state
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.execution import Executed, RunState
from engine.audit.reading import read
from engine.audit.report import Finding, collected
from engine.audit.run import CHECKS
from engine.config import RunConfig
from engine.encoding import canonical_json
from engine.experiment import run
from engine.ledger.format import BUNDLE, MANIFEST, RUN, UNBOUND
from engine.result import Result

REPORTED = (closing.check, result.check, numbers.check, selection.check)


@pytest.fixture(scope="module")
def original(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a result can hold: hospitals that judge each other, requests for synthetic beats."""
    folder = tmp_path_factory.mktemp("original") / "run"
    keys = {"ledger.backend": "embedded", "ledger.reputation": "peers", "balance.method": "smote"}
    run(tiny_config(**keys, **{"federation.participation": 0.7}), folder)
    assert audit(folder).lines()[-1].endswith("clean")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def document(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def put(folder: Path, value: Any) -> None:
    (folder / "result.json").write_text(json.dumps(value))


# --- Every value of result.json ---------------------------------------------------------------------------------------


def different(value: Any) -> Any:
    return [*value, 1] if isinstance(value, list) else other(value)


def case_of(folder: Path) -> Iterator[Case]:
    with Evidence(folder) as evidence:
        case, told = collected(read(evidence))
        assert case is not None
        assert told == []
        yield case


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 8], ids=["all", "an eighth"])
def test_every_value_of_a_result_is_bound_or_listed_as_not_bound(folder: Path, each: int):
    said = document(folder)
    paths = {general(path): path for path in leaves(said)}
    free = paths.keys() & set(UNBOUND)
    chosen = {name: paths[name] for name in [*sorted(paths.keys() - free)[::each], *free]}
    unbound = []
    for case in case_of(folder):
        for path in chosen.values():
            put(folder, changed(said, path, different(at(said, path))))
            fresh = replace(case)  # with nothing cached
            told = [one for check in (closing.check, result.check) for one in check(fresh)]
            if not any(isinstance(one, Finding) for one in told):
                unbound.append(general(path))
    assert sorted(unbound) == sorted(free)
    assert len(unbound) >= 12


ASIDE = {
    "config",
    "hostile",
    "backdoor",
    "membership",
    "committee",
    "privacy",
    "clock",
    "virtual",
    "association",
    "topology",
    "preview",
    "terms",
}  # changed elsewhere


def test_no_field_of_a_result_lacks_coverage(original: Path):
    """All fields of the model are in the run of this test: what one adds is changed above.

    Nobody plays an attacker in it; `hostile` and `backdoor` are changed where somebody does, in test_attacked_runs, what committees found in
    tests/engine/committee, what was spent of privacy in tests/engine/audit/test_privacy, membership inference in tests/engine/privacy, the virtual clock in tests/engine/schedule/test_late, miners in tests/engine/association,
    previews in test_previews, and terms of successors in tests/engine/test_failover.
    """
    covered = {general(path).split(".config.")[0] for path in leaves(document(original))}
    model = {general(path) for path in leaves(whole(Result)) if not ASIDE & {*path}}

    def there(path: str) -> bool:
        parts = path.removesuffix(".*").split(".")  # a list may be empty
        plain = parts[: parts.index("N")] if "N" in parts else parts  # the model of a mapping has the entry N
        return any(one.split(".")[: len(plain)] == plain for one in covered)

    assert [path for path in sorted(model) if not there(path)] == []


def test_whatever_is_taken_away_or_added_is_found(folder: Path):
    said = document(folder)
    for name in said:
        put(folder, {key: value for key, value in said.items() if key != name})
        assert not audit(folder, REPORTED).clean, name
    put(folder, {**said, "added": 1})
    assert ("result", "digest") in names(audit(folder, REPORTED))


# --- The coordinator as the one who writes ----------------------------------------------------------------------------

# where -> what of the report must be named, even where the digests are those of the edited document
SIGNED_BY_HOSPITALS: dict[str, Path_] = {
    "final.global.accuracy": ("final", "global", "accuracy"),
    "final.personal.macro_f1": ("final", "personal", "macro_f1"),
    "final.global.confusion": ("final", "global", "confusion", 0, 0),
    "final.personal.per_hospital": ("final", "personal", "per_hospital", 1, "accuracy"),
    "final.personal.hurt_share": ("final", "personal", "hurt_share"),
    "validation.global.recall": ("validation", "global", "recall", "N"),
    "cohort.local_majority_accuracy": ("cohort", "local_majority_accuracy"),
    "cohort.global_majority_accuracy": ("cohort", "global_majority_accuracy"),
    "cohort.hospitals.0.test": ("cohort", "hospitals", 0, "test"),
    "cohort.scored": ("cohort", "scored", 0),
    "cohort.beats": ("cohort", "beats"),
    "cohort.classes": ("cohort", "classes", "S"),
    "rounds.1.validation": ("rounds", 1, "validation", "accuracy"),
    "rounds.0.train_loss": ("rounds", 0, "train_loss"),
    "rounds.0.gradient_evaluations": ("rounds", 0, "gradient_evaluations"),
    "rounds.1.participants": ("rounds", 1, "participants"),
    "timing.gradient_evaluations": ("timing", "gradient_evaluations"),
    "timing.personalisation_gradient_evaluations": ("timing", "personalisation_gradient_evaluations"),
    "config.seed": ("config", "seed"),
    "config.federation.learning_rate": ("config", "federation", "learning_rate"),
    "version": ("version",),
    "parameters": ("parameters",),
}


@pytest.mark.parametrize("name", SIGNED_BY_HOSPITALS)
def test_a_number_that_does_not_follow_from_what_hospitals_signed_is_named(folder: Path, name: str):
    said, path = document(folder), SIGNED_BY_HOSPITALS[name]
    put(folder, changed(said, path, other(at(said, path))))
    found = [field for record, field in names(audit(folder, (numbers.check,))) if record == "result"]
    assert any(field.startswith(name) for field in found), found


def test_a_hospital_of_other_classes_does_not_keep_scores_from_being_checked(folder: Path):
    def renamed(content: str) -> str:
        return content.replace('"N"', '"M"')

    _, row = row_of(folder, "results", "slot = 1")
    change(folder, "UPDATE results SET content = ? WHERE slot = 1", arguments=(renamed(row["content"]),))
    assert ("hospital", "classes") in names(audit(folder, (numbers.check,)))


def test_fewer_beats_of_a_class_than_its_hospital_has_signed_for_are_named(folder: Path):
    said = document(folder)
    said["cohort"]["hospitals"][1]["classes"]["V"] = 1
    put(folder, said)
    assert ("result", "cohort.hospitals.1.classes.V") in names(audit(folder, (numbers.check,)))


def test_what_the_ledger_does_not_hold_has_no_place_in_the_part_on_it(folder: Path):
    said = document(folder)
    said["ledger"] |= {"witnesses": 7, "final": True}
    put(folder, said)
    assert ("result", "ledger.witnesses") in names(audit(folder, (result.check,)))
    (case,) = case_of(folder)
    unsettled = replace(case, execute=lambda *given: _not_final(remembered(*given)))
    assert ("result", "ledger.final") in {(f.record, f.field) for f in state.check(unsettled) if isinstance(f, Finding)}


def _not_final(executed: Executed[RunState]) -> Executed[RunState]:
    assert executed.state is not None
    return replace(executed, state=replace(executed.state, federation={**executed.state.federation, "finalized": 1}))


@pytest.mark.parametrize(
    "name",
    ["transactions", "gas_total", "gas_per_round", "cosigned", "closing", "rounds", "updates", "head", "hospitals"],
)
def test_what_the_result_says_of_the_ledger_is_counted_again(folder: Path, name: str):
    said = document(folder)
    said["ledger"][name] = different(said["ledger"][name])
    put(folder, said)
    assert ("result", f"ledger.{name}") in names(audit(folder, (result.check,)))


def test_lost_hospitals_that_nobody_signed_for_are_named(folder: Path):
    put(folder, {**document(folder), "lost": ["hospital 1, round 2, finish: gone"]})
    assert {("result", "lost"), ("result", "digest")} <= names(audit(folder, REPORTED))


# --- Files ------------------------------------------------------------------------------------------------------------


def test_an_edited_configuration_is_named(folder: Path):
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("\nseed: 0\n", "\nseed: 1\n", 1))
    assert path.read_text() != text
    found = names(audit(folder, REPORTED))
    assert {("config", "file"), ("config", "config_hash"), ("result", "config.seed")} <= found
    path.write_text(text + "# a comment\n")
    assert names(audit(folder, REPORTED)) == {("config", "file")}
    path.write_text(text.replace("name: run", "name: other", 1))
    assert {("config", "file"), ("meta", "federation")} <= names(audit(folder, REPORTED))


def edit(folder: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change the columns of the predictions."""
    path = folder / "predictions.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, table.schema), path)


def swap(columns: dict[str, list[Any]], row: int) -> None:
    columns["predicted"][row] = "S" if columns["predicted"][row] != "S" else "N"


EDITS: dict[str, Callable[[dict[str, list[Any]]], None]] = {
    "a prediction": lambda columns: swap(columns, 5),
    "a true class": lambda columns: columns["true"].__setitem__(5, "Q"),
    "a place": lambda columns: columns["sample"].__setitem__(5, 1),
    "a record": lambda columns: columns["record"].__setitem__(5, "x"),
    "a patient": lambda columns: columns["patient"].__setitem__(5, "x"),
    "a sex": lambda columns: columns["sex"].__setitem__(5, "male"),
    "an age": lambda columns: columns["age"].__setitem__(5, ">=65"),
    "a confidence": lambda columns: columns["confidence"].__setitem__(5, columns["confidence"][5] ^ 1),
    "a hospital": lambda columns: columns["hospital"].__setitem__(0, 2),
    "a row less": lambda columns: [values.pop() for values in columns.values()] and None,
    "the order": lambda columns: [values.reverse() for values in columns.values()] and None,
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_file_of_predictions_is_named(folder: Path, what: str):
    edit(folder, EDITS[what])
    found = names(audit(folder, REPORTED))
    assert ("predictions", "digest") in found
    if what not in ("a patient", "a sex", "an age"):  # hospitals sign what they predicted, not whose beats they are
        assert ("predictions", "rows") in found
    if what in ("a patient", "a sex", "an age", "a confidence"):
        assert {field.split(".")[0] for record, field in found if record in ("result", "predictions")} & {
            "patients",
            "people",
            "calibration",
        }
    if what == "a prediction":
        assert ("predictions", "global.confusion") in found


def test_predictions_that_are_missing_or_damaged_are_named(folder: Path):
    path = folder / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert ("predictions", "file") in names(audit(folder, REPORTED))
    path.unlink()
    assert ("predictions", "file") in names(audit(folder, REPORTED))


def rewritten(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a bundle."""
    with zipfile.ZipFile(bundle) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(entries[MANIFEST])
    change(manifest)
    entries[MANIFEST] = canonical_json(manifest).encode()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_every_value_of_a_manifest_is_bound(original: Path, folder: Path):
    """Builds of the contracts differ from release to release: that is a note."""
    bundle = folder / "ledger" / BUNDLE
    with zipfile.ZipFile(bundle) as archive:
        said = json.loads(archive.read(MANIFEST))
    for path in leaves({**said, "result": {}}):
        if path[0] == "result":
            continue
        rewritten(
            bundle, lambda manifest, path=path: manifest.update(changed(manifest, path, different(at(said, path))))
        )
        report = audit(bundle, REPORTED)
        assert report.notes if path[0] == "contracts" else report.findings, path
        shutil.copyfile(original / "ledger" / BUNDLE, bundle)


def test_an_edited_result_in_the_bundle_is_named_even_with_its_digest(folder: Path):
    from engine.encoding import json_hash

    bundle = folder / "ledger" / BUNDLE

    def edit(manifest: dict[str, Any]) -> None:
        manifest["result"]["final"]["global"]["accuracy"] = 0.99
        manifest["result_digest"] = json_hash(manifest["result"]).hex()

    rewritten(bundle, edit)
    assert {("result", "digest"), ("result", "final.global.accuracy")} <= names(audit(bundle, REPORTED))
    assert ("result", "final") in names(audit(folder, REPORTED))


# --- What hospitals state ---------------------------------------------------------------------------------------------


def journal(folder: Path, *statements: str, arguments: tuple = ()) -> None:
    """Change the journal behind the back of everything."""
    connection = sqlite3.connect(folder / "ledger" / RUN.file)
    for statement in statements:
        assert connection.execute(statement, arguments).rowcount > 0, statement
    connection.commit()
    connection.close()


def test_every_value_of_a_statement_is_bound(original: Path, folder: Path):
    connection = sqlite3.connect(original / "ledger" / RUN.file)
    [text] = connection.execute("SELECT content FROM results WHERE slot = 1").fetchone()
    connection.close()
    said = json.loads(text)
    for path in leaves(said):
        new = canonical_json(changed(said, path, different(at(said, path))))
        journal(folder, "UPDATE results SET content = ? WHERE slot = 1", arguments=(new,))
        assert (None, 1, "hospital", "content") in places(audit(folder, (closing.check, numbers.check))), path


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("DELETE FROM results WHERE slot = 2", (None, 2, "hospital", "signature")),
        ("DELETE FROM results WHERE slot = 2", (2, None, "closing", "results")),
        ('UPDATE closings SET content = \'{"missing":{"2":"gone"}}\'', (2, None, "closing", "missing")),
        ("UPDATE closings SET signature = x'00'", (2, None, "closing", "signature")),
        ("DELETE FROM closings", (None, None, "closing", "record")),
        ("DELETE FROM judges WHERE round = 2", (2, None, "scores", "signature")),
        ("DELETE FROM transactions WHERE purpose = 'close'", (None, None, "closing", "transaction")),
        ("DELETE FROM transactions WHERE purpose = 'reputation' AND round = 1", (1, None, "scores", "transaction")),
    ],
)
def test_a_tail_that_is_cut_is_named(folder: Path, statement: str, place: tuple):
    journal(folder, statement)
    found = places(audit(folder, CHECKS))
    if place[2:] == ("scores", "signature"):
        assert any(one[0] == 2 and one[2:] == place[2:] for one in found)
    else:
        assert place in found, sorted(found, key=str)


def test_a_bundle_that_is_gone_is_named_and_a_result_that_is_gone_is_no_end(folder: Path):
    (folder / "ledger" / BUNDLE).unlink()
    assert ("bundle", "file") in names(audit(folder, REPORTED))
    (folder / "result.json").unlink()
    report = audit(folder, REPORTED)
    assert not report.finished
    assert any("was closed as complete" in note and "result.json" in note for note in report.notes), report.notes
    assert report.verdict.value == "not verified"


@pytest.mark.parametrize(
    "column", ["hospital", "model", "record", "sample", "true", "predicted", "confidence", "patient", "sex", "age"]
)
@pytest.mark.parametrize("value", [None, b"x", [1], 1.5, "x"], ids=repr)
def test_no_file_of_predictions_ends_in_a_traceback(folder: Path, column: str, value: Any):
    path = folder / "predictions.parquet"
    columns = pq.read_table(path).to_pydict()
    columns[column] = [value] * len(columns[column])
    pq.write_table(pa.table(columns), path)
    assert ("predictions", "digest") in names(audit(folder, (numbers.check,)))


NO_RESULTS = [None, [], {}, "x", -1, 1e400, [[]]]


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 4], ids=["all", "a fourth"])
@pytest.mark.parametrize("value", NO_RESULTS, ids=repr)
def test_no_result_ends_in_a_traceback(folder: Path, value: Any, each: int):
    said = document(folder)
    for name in list(said)[NO_RESULTS.index(value) % each :: each]:  # other names for the next value
        put(folder, {**said, name: value})
        # of a list that is empty anyway, nothing was changed
        assert audit(folder, REPORTED).clean == (json.dumps(value) == json.dumps(said[name])), name
