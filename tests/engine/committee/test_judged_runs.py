"""Runs whose updates a committee judges: the same bits everywhere, gated or not, and what the audit makes of them."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from finished import OFFLINE, audit, change, names
from reference import Interrupted, StopAfter, numbers

from engine.audit import committee as check
from engine.audit.report import Verdict
from engine.experiment import Place, run
from engine.ledger.format import LEADER_REWARD
from engine.result import Result
from sweeps.verdicts import verdicts_of

FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "federation.rounds": 3}
LEDGER = {"ledger.backend": "embedded", "ledger.window": 0, "ledger.reputation": "committee"}
OTHERS = {"committee.method": "others"}
DRAWN = {"committee.method": "drawn", "committee.size": 2}


@pytest.mark.parametrize(
    "committee",
    [
        pytest.param(OTHERS, id="others", marks=pytest.mark.long),
        pytest.param({**DRAWN, "committee.election": "score"}, id="drawn"),
    ],
)
def test_a_gated_run_goes_on_bit_for_bit_and_is_clean(committee, tiny_config, tmp_path: Path):
    gate = {"committee.gate": True, "attack.method": "sign-flip", "attack.hospitals": [1], "attack.strength": 20.0}
    config = tiny_config(**FIVE, **LEDGER, **committee, **gate)
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stumbling", Place(observers=(StopAfter(2),)))
    assert numbers(run(config, tmp_path / "stumbling"), tmp_path / "stumbling") == expected
    report = audit(tmp_path / "stumbling")
    assert report.findings == []
    assert report.verdict is Verdict.CLEAN


def test_one_lying_judge_among_five_turns_nobody_honest_away(tiny_config, tmp_path: Path):
    """Of four judges of an update one lies; a majority of hostile ones rules the verdicts, which the median cannot help."""
    lie = {**FIVE, **OTHERS, "federation.rounds": 2, "committee.hostile": "lie", "attack.method": "free-rider"}
    one = run(tiny_config(**lie, **{"attack.hospitals": [1]}), tmp_path / "one")
    plain = run(tiny_config(**{**FIVE, **OTHERS, "federation.rounds": 2}), tmp_path / "plain")
    found, expected = (scores_of(result) for result in (one, plain))
    assert all(
        found[h] <= expected[h] for h in (0, 2, 3, 4)
    )  # a lie of nothing moves a lower median down, to a neighbour
    assert min(found[h] for h in (0, 2, 3, 4)) > 0
    most = run(tiny_config(**lie, **{"attack.hospitals": [1, 2, 3, 4]}), tmp_path / "most")
    assert scores_of(most)[0] == 0
    assert most.rounds[0].committee is not None
    assert {one.hospital for one in most.rounds[0].committee.verdicts if one.qualified} == {1, 2, 3, 4}


def scores_of(result: Result) -> dict[int, int]:
    committee = result.rounds[0].committee
    assert committee is not None
    return {one.hospital: one.score for one in committee.verdicts}


@pytest.mark.long
def test_the_pool_changes_no_bit(tiny_config, tmp_path: Path, ray2):
    changes = {**FIVE, **DRAWN, **LEDGER, "committee.gate": True}
    here = run(tiny_config(**changes), tmp_path / "one")
    actors = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    there = run(tiny_config(**changes, **actors), tmp_path / "ray")
    assert there.model_hash == here.model_hash
    assert [row.committee for row in there.rounds] == [row.committee for row in here.rounds]


def test_without_a_ledger_the_same_hospitals_sit_and_find_the_same(original: Path, tiny_config, tmp_path: Path):
    found, expected = run(tiny_config(**FIVE, **DRAWN), tmp_path), Result.read(original)
    assert found.model_hash == expected.model_hash
    assert [row.committee for row in found.rounds] == [row.committee for row in expected.rounds]


def test_a_committee_without_a_gate_changes_no_bit(tiny_config, tmp_path: Path):
    few = {**FIVE, "federation.rounds": 2}
    judged, plain = (run(tiny_config(**few, **other), tmp_path / str(len(other))) for other in (OTHERS, {}))
    assert judged.model_hash == plain.model_hash
    assert (judged.rounds[1].committee is None, plain.rounds[1].committee is None) == (False, True)


LED = {**OTHERS, "committee.leader": True, "committee.measure": "mae", "ledger.checks": 1}


@pytest.fixture(scope="module")
def led(tiny_config, tmp_path_factory) -> Path:
    """A run whose rounds are led by whose update was found best."""
    folder = tmp_path_factory.mktemp("led") / "run"
    run(tiny_config(**FIVE, **LEDGER, **LED), folder)
    return folder


def test_a_round_is_led_by_a_hospital_that_its_audit_finds_too_and_that_earns_more(led: Path):
    report, result = audit(led), Result.read(led)
    assert report.findings == []
    assert report.verdict is Verdict.CLEAN
    leaders = [row.committee.leader for row in result.rounds if row.committee is not None]
    assert len(leaders) == 3
    assert all(leader is not None for leader in leaders)
    assert result.ledger is not None
    assert result.ledger.checked == 3
    assert result.ledger.hospitals is not None
    rewards = {one.id: one.reward for one in result.ledger.hospitals}
    # an update that always qualifies earns 11 + 12 + 13, and each led round a hundred
    assert {h: rewards[h] - LEADER_REWARD * leaders.count(h) for h in rewards}[leaders[0]] <= 36
    assert sum(rewards.values()) > LEADER_REWARD * 3


def test_a_led_run_goes_on_bit_for_bit(led: Path, tiny_config, tmp_path: Path):
    config = tiny_config(**FIVE, **LEDGER, **LED)
    with pytest.raises(Interrupted):
        run(config, tmp_path, Place(observers=(StopAfter(2),)))
    assert numbers(run(config, tmp_path), tmp_path) == numbers(Result.read(led), led)
    assert audit(tmp_path).verdict is Verdict.CLEAN


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE sittings SET sitting = json_set(sitting, '$.cap', 9999) WHERE round = 2", ("committee", "cap")),
        ("UPDATE sittings SET sitting = json_set(sitting, '$.own', 100) WHERE round = 2", ("committee", "own")),
        (
            "UPDATE annexes SET digest = zeroblob(31) || x'01' WHERE name = 'rewards' AND round = 2",
            ("annex", "rewards"),
        ),
    ],
    ids=["cap", "own", "rewards"],
)
def test_a_change_of_who_leads_is_found(led: Path, tmp_path: Path, statement: str, named: tuple[str, str]):
    folder = Path(shutil.copytree(led, tmp_path / "run"))
    change(folder, statement)
    assert named in names(audit(folder, OFFLINE))


def test_the_leader_that_the_result_names_is_held_against_the_votes(led: Path, tmp_path: Path):
    folder = Path(shutil.copytree(led, tmp_path / "run"))
    path = folder / "result.json"
    said = json.loads(path.read_text())
    row = said["rounds"][1]["committee"]
    row["leader"] = (row["leader"] + 1) % 5
    path.write_text(json.dumps(said))
    assert ("result", "rounds.2.committee") in names(audit(folder, [check.check]))


@pytest.fixture(scope="module")
def original(tiny_config, tmp_path_factory) -> Path:
    """A drawn committee of two, without a gate, so that a change of what it said changes no model."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    run(tiny_config(**FIVE, **LEDGER, **DRAWN), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def rounds(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "result.json").read_text())["rounds"]


def test_members_change_and_do_not_train(original: Path):
    rows = rounds(original)
    for row in rows:
        committee = row["committee"]
        trained = {one["hospital"] for one in committee["verdicts"]}
        assert (len(committee["judges"]), row["participants"]) == (2, 3)
        assert not trained & {*committee["judges"]}
    for before, after in pairwise(rows):
        good = {one["hospital"] for one in before["committee"]["verdicts"] if one["qualified"]}
        assert {*after["committee"]["judges"]} <= good or len(good) < 2
    assert verdicts_of([Result.read(original)]).startswith("qualified: ")


# what is changed in the journal -> what the audit names, among more
CHANGES: dict[str, tuple[str, tuple[str, str]]] = {
    "a share": ("UPDATE sittings SET sitting = json_set(sitting, '$.shares[0]', 17) WHERE round = 2", ("committee", "shares")),
    "percent": ("UPDATE sittings SET sitting = json_set(sitting, '$.percent', 1) WHERE round = 2", ("committee", "percent")),
    "another judge": ("UPDATE sittings SET sitting = json_set(sitting, '$.judges', json('[0,1]')) WHERE round = 2", ("committee", "members")),
    "an absent judge": ("UPDATE sittings SET sitting = json_set(sitting, '$.absent', json('[4]')) WHERE round = 2", ("committee", "members")),
    "trainers": ("UPDATE sittings SET sitting = json_set(sitting, '$.trainers[0]', 77) WHERE round = 2", ("committee", "sitting")),
    "a sitting": ("DELETE FROM sittings WHERE round = 2", ("committee", "sitting")),
    "two sittings": ("INSERT INTO sittings SELECT * FROM sittings WHERE round = 2", ("committee", "round")),
    "the round of a sitting": ("UPDATE sittings SET round = 9 WHERE round = 2", ("committee", "round")),
    "no sitting": ("UPDATE sittings SET sitting = '[' WHERE round = 2", ("committee", "sitting")),
    "scores": ("UPDATE votes SET scores = replace(scores, '[[', '[[0,') WHERE round = 2", ("committee", "scores")),
    "fewer right": ("UPDATE votes SET scores = json_set(scores, '$[1][0][1][0]', 0) WHERE round = 2", ("committee", "commitment")),
    "beats": ("UPDATE votes SET scores = json_set(scores, '$[0][0]', 4000) WHERE round = 2", ("committee", "signature")),
    "no scores": ("UPDATE votes SET scores = '' WHERE round = 2", ("committee", "scores")),
    "a commitment": ("UPDATE votes SET commitment = zeroblob(32) WHERE round = 2", ("committee", "committed")),
    "no commitment": ("UPDATE votes SET commitment = x'' WHERE round = 2", ("committee", "commitment")),
    "a signed commitment": ("UPDATE votes SET committed = zeroblob(65) WHERE round = 2", ("committee", "committed")),
    "a salt": ("UPDATE votes SET salt = zeroblob(32) WHERE round = 2", ("committee", "commitment")),
    "a signature": ("UPDATE votes SET signature = zeroblob(65) WHERE round = 2", ("committee", "signature")),
    "a vote": ("DELETE FROM votes WHERE rowid = (SELECT min(rowid) FROM votes WHERE round = 2)", ("committee", "votes")),
    "the round of a vote": ("UPDATE votes SET round = 9 WHERE round = 2", ("committee", "round")),
    "whose vote": ("UPDATE votes SET slot = slot + 50 WHERE round = 2", ("committee", "slot")),
    "two votes": ("INSERT INTO votes SELECT * FROM votes WHERE round = 2", ("committee", "slot")),
    "the annex": ("UPDATE annexes SET digest = zeroblob(31) || x'01' WHERE name = 'committee' AND round = 2", ("annex", "committee")),
    "the call": ("DELETE FROM transactions WHERE purpose = 'judge' AND round = 2", ("committee", "transaction")),
    "verdicts": ("UPDATE scores SET verdicts = json_set(verdicts, '$.accepted', 0) WHERE round = 2", ("scores", "verdicts")),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_a_committee_said_is_found_and_named(folder: Path, what: str):
    statement, named = CHANGES[what]
    change(folder, statement)
    report = audit(folder, OFFLINE)
    assert named in names(report), [(f.record, f.field, f.round) for f in report.findings]
    assert all("\n" not in line for line in report.lines())


def test_what_the_result_says_of_committees_is_held_against_the_votes(folder: Path):
    path = folder / "result.json"
    said = json.loads(path.read_text())
    row = said["rounds"][1]["committee"]
    for name, wrong in (("judges", [0]), ("absent", [1]), ("verdicts", row["verdicts"][:1])):
        other = json.loads(path.read_text())
        other["rounds"][1]["committee"][name] = wrong
        path.write_text(json.dumps(other))
        assert ("result", "rounds.2.committee") in names(audit(folder, [check.check]))
        path.write_text(json.dumps(said))


def test_a_judge_that_was_shown_another_list_of_commitments_is_found(original: Path, folder: Path, tiny_config):
    """Scores that were told before everybody had committed carry another digest of the commitments."""
    assert audit(original, [check.check]).findings == []
    change(folder, "UPDATE votes SET commitment = x'' WHERE rowid = (SELECT max(rowid) FROM votes WHERE round = 1)")
    signed = [f for f in audit(folder, [check.check]).findings if f.field == "signature"]
    assert {f.round for f in signed} == {1}
    assert len(signed) == 2  # the signatures of both are over both commitments
