"""What the contract decided on synthetic data, executed again: outcomes, the chain of decisions, quotas, result and files."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import REAL, SALT, audit, change, finish, names, places, set_value
from finished import row_of as row_in
from nodes import Node
from simulators import Run

from engine.audit import outcomes, quality
from engine.audit import policy as policy_check
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.known import Known
from engine.audit.outcomes import STATUS
from engine.audit.reading import read
from engine.audit.report import Verdict, collected
from engine.data.config import CLASSES
from engine.encoding import hexed
from engine.ledger.chain.contracts import artefact
from engine.ledger.chain.embedded import EMBEDDED_ADMIN
from engine.ledger.chain.rpc import KEY_VARIABLE
from engine.ledger.format import BUNDLE
from engine.ledger.signing import address
from engine.ledger.subjects.policy import policy_of
from engine.ledger.subjects.synthetic import to_contract
from engine.result import SyntheticRow
from engine.synthesis.config import LARGEST, LEAST, PolicyConfig


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
    assert found == [denied, (0, "accepted", 8, 7), (0, "rejected", 8, 8), (2, "expired", 0, 0), *[denied] * 4]
    assert case.chain.state is not None
    assert case.chain.state.used == {(0, 2): 15, (0, 4): 0, (2, 2): 0}


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
    assert len(heads) == 15
    rowid, _ = row_in(folder, "annexes", "name = 'decisions' AND round = 4")
    set_value(folder, "annexes", rowid, "digest", heads[5])
    (found,) = (f for f in audit(folder, [outcomes.check]).findings if f.record == "annex")
    assert (found.round, found.field) == (4, "decisions")
    assert found.message == "the chain of decisions went back"
    set_value(folder, "annexes", rowid, "digest", b"\x05" * 32)
    (found,) = (f for f in audit(folder, [outcomes.check]).findings if f.record == "annex")
    assert found.message == "the chain of decisions never had this value"


def test_decisions_where_there_was_never_a_contract_for_them_are_named(tmp_path: Path):
    plain = finish(Run(tmp_path))
    change(plain, "INSERT INTO annexes VALUES (2, 'decisions', ?)", arguments=(b"\x05" * 32,))
    assert (2, None, "annex", "decisions") in places(audit(plain, [outcomes.check]))


def test_a_step_that_the_journal_holds_no_more_is_told_by_the_chain(folder: Path):
    change(folder, "DELETE FROM synthetic WHERE seq = 10")
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


# What the ledger does not hold: the sum that a policy would still grant, and the reasons in words.
UNBOUND = {"allowed", "reasons"}
TOLD = sorted({field.serialization_alias or name for name, field in SyntheticRow.model_fields.items()} - UNBOUND)


@pytest.mark.parametrize("name", TOLD)
def test_a_changed_outcome_in_the_result_is_named(folder: Path, name: str):
    for value in (77, "x", [], None):
        edit(folder, lambda result, value=value: result["synthesis"][1].update({name: value}))
        assert names(audit(folder, [outcomes.check])) == {("result", "synthesis")}, value


@pytest.mark.parametrize("rows", [None, 5, "x", [], [5], {"a": 1}])
def test_outcomes_of_another_form_are_named(folder: Path, rows: Any):
    edit(folder, lambda result: result.update(synthesis=rows))
    assert names(audit(folder, [outcomes.check])) == {("result", "synthesis")}


def test_outcomes_that_the_result_leaves_out_are_named(folder: Path):
    edit(folder, lambda result: result.pop("synthesis"))
    report = audit(folder, [outcomes.check])
    assert [f.expected for f in report.findings if "status" in f.message] == [
        "denied",
        "accepted",
        "rejected",
        "expired",
        *["denied"] * 4,
    ]


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
    for name in quality.NUMBERS:
        rowid, row = row_in(folder, "synthetic", "kind = 'report' AND seq = 7")
        record = json.loads(row["record"])
        set_value(folder, "synthetic", rowid, "record", json.dumps({**record, name: record[name] + 1}))
        assert places(audit(folder, [quality.check])) == {(None, 0, "synthetic", name)}
        set_value(folder, "synthetic", rowid, "record", row["record"])


def test_what_is_not_in_the_folder_is_told(folder: Path):
    shutil.rmtree(folder / "synthetic")
    report = audit(folder)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert report.unchecked == [
        "the synthetic beats of hospital 0 are not in the evidence",
        "4 files of previews of synthetic beats are not in the folder",
        "the real beats behind 8 requests for synthetic ones are not opened",
        "2 reports on the quality of synthetic beats are not in the folder",
    ]
    report = audit(folder / "ledger" / BUNDLE)
    assert report.findings == []
    assert report.unchecked == [
        "the synthetic beats of hospital 0 are not in the evidence",
        "a bundle has no previews of synthetic beats",
        "a bundle has no quality reports, counts of real beats and reasons",
    ]


# --- Real beats, and what a hospital may sign that is not so ----------------------------------------------------------


def opened_count(folder: Path, **values: Any) -> None:
    path = sorted((folder / "synthetic").glob("count-*.json"))[0]
    path.write_text(json.dumps({"count": REAL, "salt": hexed(SALT), **values}))


def test_a_count_of_real_beats_that_does_not_open_its_commitment_is_named(folder: Path):
    assert audit(folder, [quality.check]).counts["real counts"] == 8
    for wrong in ({"count": 34}, {"count": -1}, {"count": "33"}, {"count": 2**40}, {"salt": "0x00"}, {"salt": None}):
        opened_count(folder, **wrong)
        assert names(audit(folder, [quality.check])) == {("synthetic", "real_count")}, wrong
    opened_count(folder)
    assert names(audit(folder, [quality.check])) == set()


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 49, 50, 99, 100, 199, 200, 1999, 2000, 10**6, 2**32 - 1])
def test_the_ladder_of_the_audit_is_that_of_the_requests(count: int):
    from engine.ledger.subjects.synthetic import real_floor

    assert quality.real_floor(count) == real_floor(count)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("label", "S", "label"),
        ("generator", "timegan", "generator"),
        ("synthetic", 8, "synthetic"),
        ("real", 9, "real"),
    ],
)
def test_evidence_about_something_else_than_was_asked_for_is_named(tmp_path: Path, name: str, value: Any, field: str):
    """Signed as it is: the digest fits, and still it speaks of other beats."""
    folder = finish(Run(tmp_path), full=True, evidence={name: value})
    assert ("synthetic", field) in names(audit(folder, [quality.check]))


def test_repetition_that_a_hospital_does_not_admit_is_counted_in_the_beats(tmp_path: Path):
    """The numbers and the evidence are the hospital's own; the beats in the folder tell."""
    folder = finish(Run(tmp_path), full=True, same=True)
    (found,) = audit(folder).findings
    assert (found.record, found.field, found.expected, found.found) == ("synthetic", "repeated", "6", "0")


@pytest.mark.parametrize("seed", range(3))
def test_repetition_is_counted_as_the_quality_report_counts_it(seed: int):
    from engine.synthesis.distances import repeated

    draw = np.random.default_rng(seed)
    x = draw.normal(size=(40, 30)).astype(np.float32)
    x[draw.integers(40, size=25)] = x[0] + draw.normal(0, 0.01, (25, 30)).astype(np.float32)
    assert repeated(x) in quality.repeats(x)
    assert 10 < repeated(x) < 40


# --- The policy -------------------------------------------------------------------------------------------------------


def test_the_limits_that_the_audit_knows_are_the_default():
    policy = to_contract(policy_of(PolicyConfig(), CLASSES))
    assert dict(policy_check.LIMITS.values()) == {key: policy[key] for key, _ in policy_check.LIMITS.values()}
    assert set(policy_check.LIMITS) == set(LARGEST + LEAST)
    assert list(policy_check.MIN_REAL) == policy["minReal"]


def test_a_looser_policy_is_told_with_who_set_it(tmp_path: Path):
    folder = finish(Run(tmp_path), full=True, policy={"max_repeated_bp": 10_000, "min_spread_bp": 0})
    report = audit(folder)
    assert report.findings == []
    (note,) = [note for note in report.notes if "were lost" not in note]
    assert note == (
        f"policy 1 on synthetic data, set by {address(EMBEDDED_ADMIN)}, is looser than the default: "
        "max_repeated 1 (default 0.4), min_spread 0 (default 0.15)"
    )


def test_a_policy_in_the_configuration_that_is_not_the_ledgers_is_named(folder: Path):
    kept = dict.fromkeys(policy_check.LIMITS, 0.0)
    edit(folder, lambda result: result.update(config={"balance": {"method": "smote", "policy": kept}}))
    wrong = {field for _, field in names(audit(folder, [policy_check.check]))}
    assert wrong == {f"config.balance.policy.{name}" for name in policy_check.LIMITS}


# --- On a node --------------------------------------------------------------------------------------------------------


def test_a_node_is_asked_what_was_decided(tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil")
    key = tmp_path / "admin.hex"  # policies and reviewers are the admin's acts, which cost money on a node
    key.write_text(EMBEDDED_ADMIN.hex())
    node("anvil_setBalance", address(EMBEDDED_ADMIN), hex(10**20))
    folder = finish(Run(tmp_path), full=True, backend="rpc", url=node.url, admin_key_file=str(key))
    known = Known(rpc=node.url)
    report = audit(folder, known=known)
    assert (report.findings, report.unchecked) == ([], [])
    assert {"quotas", "reputations", "batches", "evidence", "reasons"} <= report.counts.keys()
    edit(folder, lambda result: result["synthesis"][1].update(granted=9))
    assert names(audit(folder, known=known)) == {("result", "synthesis"), ("result", "digest")}
    node.kill()
    report = audit(folder / "ledger" / BUNDLE, known=known)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert [note.split(":")[0] for note in report.unchecked] == [
        "the chain was not compared",
        "what the contract decided on synthetic data was not checked",
        "a bundle has no previews of synthetic beats",
        "a bundle has no quality reports, counts of real beats and reasons",
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
