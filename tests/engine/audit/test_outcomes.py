"""What the contract decided on synthetic data, executed again: outcomes, the chain of decisions, quotas, result and files."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import change, finish, names, places, set_value
from finished import row_of as row_in
from nodes import Node
from simulators import Run

from engine.audit import outcomes, quality
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.known import Known
from engine.audit.outcomes import STATUS
from engine.audit.reading import read
from engine.audit.report import Verdict, collected
from engine.audit.run import audit
from engine.ledger.chain.contracts import artefact
from engine.ledger.chain.rpc import KEY_VARIABLE
from engine.ledger.format import BUNDLE


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("run")), full=True)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def case(original: Path) -> Iterator[Case]:
    with Evidence(original) as evidence:
        found, told = collected(read(evidence))
        assert told == []
        assert found is not None
        yield found


def test_outcomes_are_those_that_the_contract_decided(case: Case):
    found = [
        (one.request["slot"], STATUS[one.status], one.granted, one.counted) for one in outcomes.outcomes(case).values()
    ]
    denied = (0, "denied", 0, 0)
    assert found == [denied, (0, "accepted", 8, 7), (0, "rejected", 8, 0), (2, "expired", 0, 0), *[denied] * 4]
    assert case.chain.state is not None
    assert case.chain.state.used == {(0, 2): 7, (0, 4): 0, (2, 2): 0}


def test_the_status_names_are_the_contracts():
    source = (Path(outcomes.__file__).parents[2] / "contracts/src/ISyntheticLedger.sol").read_text()
    inside = source.split("enum Status {")[1].split("}")[0]
    assert tuple(word.strip().lower() for word in inside.split(",")) == STATUS
    (event,) = (i for i in artefact("SyntheticLedger")["abi"] if i.get("name") == "SyntheticStatusChanged")
    wanted = {"id", "federation", "status", "counted", "record", "decisions"}
    assert wanted <= {part["name"] for part in event["inputs"]}


def test_a_round_that_names_an_earlier_decision_is_named(folder: Path, case: Case):
    """Everything else of a forged round could fit: only the order of the decisions gives it away."""
    heads = [e.values["decisions"] for events in case.chain.events.values() for e in events if "decisions" in e.values]
    assert len(heads) == 13
    rowid, _ = row_in(folder, "annexes", "name = 'decisions' AND round = 4")
    set_value(folder, "annexes", rowid, "digest", heads[5])
    (found,) = (f for f in audit(folder, [outcomes.check]).findings if f.record == "annex")
    assert (found.round, found.field) == (4, "decisions")
    assert found.message == "the chain of decisions went back"
    set_value(folder, "annexes", rowid, "digest", b"\x05" * 32)
    (found,) = (f for f in audit(folder, [outcomes.check]).findings if f.record == "annex")
    assert found.message == "the chain of decisions never had this value"


def test_decisions_where_there_was_never_a_contract_for_them_are_named(tmp_path: Path):
    plain = finish(Run(tmp_path), rounds=2)
    change(plain, "INSERT INTO annexes VALUES (2, 'decisions', ?)", arguments=(b"\x05" * 32,))
    assert (2, None, "annex", "decisions") in places(audit(plain, [outcomes.check]))


def test_a_step_that_the_journal_holds_no_more_is_told_by_the_chain(folder: Path):
    change(folder, "DELETE FROM synthetic WHERE seq = 8")
    report = audit(folder)
    messages = {f.message for f in report.findings if f.record == "synthetic"}
    assert any("shows the contract a review that is not in the journal" in message for message in messages)
    change(folder, "DELETE FROM synthetic WHERE kind = 'request' AND seq < 5")
    messages = {f.message for f in audit(folder).findings if f.record == "synthetic"}
    assert "the report is about a request that the journal does not hold" in messages
    assert "the review is about a request that the journal does not hold" in messages


# --- Result and files -------------------------------------------------------------------------------------------------


def edit(folder: Path, what: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    what(result)
    path.write_text(json.dumps(result))


@pytest.mark.parametrize("value", [77, None, []])
@pytest.mark.parametrize("name", ["request", "hospital", "class", "wanted", "status", "granted", "accepted"])
def test_a_changed_outcome_in_the_result_is_named(folder: Path, name: str, value: Any):
    edit(folder, lambda result: result["synthesis"][1].update({name: value}))
    assert names(audit(folder, [outcomes.check])) == {("result", "synthesis")}


@pytest.mark.parametrize("rows", [None, 5, "x", [], [5], {"a": 1}])
def test_outcomes_of_another_form_are_named(folder: Path, rows: Any):
    edit(folder, lambda result: result.update(synthesis=rows))
    assert names(audit(folder, [outcomes.check])) == (set() if rows is None else {("result", "synthesis")})


def beats(folder: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "synthetic" / "hospital-0.npz"
    with np.load(path) as arrays:
        parts = {name: changes.get(name, lambda part: part)(arrays[name]) for name in ("x", "rr", "y")}
    np.savez(path, **parts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: beats(folder, x=lambda x: x + 1),
        lambda folder: beats(folder, y=lambda y: y + 1),
        lambda folder: beats(folder, rr=lambda rr: rr.astype(np.float64)),
        lambda folder: beats(folder, x=lambda x: x[:-1], rr=lambda rr: rr[:-1], y=lambda y: y[:-1]),
        lambda folder: beats(folder, x=lambda x: np.concatenate([x, x])),
        lambda folder: beats(folder, x=lambda x: x[0, 0]),
        lambda folder: (folder / "synthetic/hospital-0.npz").write_bytes(b"no"),
        lambda folder: np.savez_compressed(folder / "synthetic/hospital-0.npz", x=np.zeros(7)),
    ],
)
def test_changed_beats_are_named(folder: Path, damage: Callable[[Path], Any]):
    damage(folder)
    assert {(f.hospital, f.record, f.field) for f in audit(folder).findings} == {(0, "synthetic", "batch")}


def test_changed_evidence_and_reasons_are_named(folder: Path):
    path = sorted((folder / "synthetic").glob("evidence-*.json"))[0]
    kept = path.read_text()
    for text in (kept.replace("0.2", "0.3"), "[" * 5000, "{", "5", '{"a": NaN}', '{"a": "\\ud800"}'):
        path.write_text(text)
        assert places(audit(folder, [quality.check])) == {(None, 0, "synthetic", "evidence")}
    path.write_text(kept)
    for path in (folder / "ledger" / "reviews").glob("*.json"):
        path.write_text(json.dumps({"reason": "another"}))
    report = audit(folder)
    assert places(report) == {(None, 0, "synthetic", "reason")}
    assert report.counts["reasons"] == 2


def test_numbers_that_do_not_follow_from_the_evidence_are_named(folder: Path):
    """A hospital can sign other numbers than its evidence gives; nobody else can."""
    for name, value in (("auc_bp", 1999), ("nndr_bp", 101), ("duplicates", 1), ("utility_bp", -499)):
        rowid, row = row_in(folder, "synthetic", "kind = 'report' AND seq = 6")
        record = json.loads(row["record"])
        set_value(folder, "synthetic", rowid, "record", json.dumps({**record, name: value}))
        assert places(audit(folder, [quality.check])) == {(None, 0, "synthetic", name)}
        set_value(folder, "synthetic", rowid, "record", row["record"])


def test_what_is_not_in_the_folder_is_told(folder: Path):
    shutil.rmtree(folder / "synthetic")
    report = audit(folder)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert report.unchecked == [
        "the synthetic beats of hospital 0 are not in the folder",
        "2 reports on the quality of synthetic beats are not in the folder",
    ]


# --- On a node --------------------------------------------------------------------------------------------------------


def test_a_node_is_asked_what_was_decided(tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil")
    folder = finish(Run(tmp_path), full=True, backend="rpc", url=node.url)
    known = Known(rpc=node.url)
    report = audit(folder, known=known)
    assert (report.findings, report.notes) == ([], [])
    assert {"quotas", "reputations", "batches", "evidence", "reasons"} <= report.counts.keys()
    edit(folder, lambda result: result["synthesis"][1].update(granted=9))
    assert names(audit(folder, known=known)) == {("result", "synthesis")}
    node.kill()
    report = audit(folder / "ledger" / BUNDLE, known=known)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert [note.split(":")[0] for note in report.unchecked] == [
        "the chain was not compared",
        "what the contract decided on synthetic data was not checked",
    ]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    from nodes import KEY

    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    nodes: list[Node] = []

    def begin(program: str) -> Node:
        nodes.append(Node(program))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.kill()
