"""The audit's own rule of reputations and rewards: by hand, to the unit as the writer's, and in a run with peer scores."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished import audit
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import spec
from engine.audit.case import Peer, Verdicts
from engine.audit.reputation import Standing, accepted_by_peers, packed
from engine.config import RunConfig
from engine.experiment import run
from engine.ledger.format import BASE_REPUTATION, MAX_REPUTATION
from engine.ledger.subjects import reputation as writers


@pytest.mark.parametrize(
    ("before", "accepted", "threshold", "after"),
    [
        (10, True, 10, 11),
        (12, True, 10, 13),
        (MAX_REPUTATION, True, 10, MAX_REPUTATION),
        (12, False, 10, 11),
        (11, False, 10, 10),
        (10, False, 10, 0),
        (0, True, 10, 1),
        (0, False, 10, 1),
        (9, False, 10, 10),
        (0, False, 0, 0),
        (0, True, 0, 1),
    ],
)
def test_the_rule_by_hand(before: int, accepted: bool, threshold: int, after: int):
    standing = Standing()
    standing.reputations[3] = before
    standing.judge(3, accepted, threshold)
    assert standing.reputations == {3: after}
    assert standing.rewards == ({3: after} if accepted else {})


def test_two_rounds_by_hand():
    standing = Standing()
    assert standing.threshold([0, 1]) == BASE_REPUTATION
    standing.judge(0, True, 10)
    standing.judge(1, False, 10)
    assert (standing.reputations, standing.rewards) == ({0: 11, 1: 0}, {0: 11})
    assert standing.threshold([0, 1]) == 5  # the mean of 11 and 0, rounded down
    standing.judge(0, True, 5)
    standing.judge(1, True, 5)  # serves its penalty
    assert (standing.reputations, standing.rewards) == ({0: 12, 1: 1}, {0: 23, 1: 1})
    assert standing.rewards_root == spec.paired_root([spec.reward_leaf(0, 23), spec.reward_leaf(1, 1)])


def test_the_lower_median_of_the_others_by_hand():
    # hospital 2 sends rubbish and praises itself; hospital 0 lies about hospital 1
    peers = [Peer(0, 1, 90, 100), Peer(0, 2, 88, 100), Peer(1, 0, 0, 100), Peer(1, 2, 91, 100)]
    rubbish = [Peer(2, 0, 10, 100), Peer(2, 1, 12, 100), Peer(2, 2, 100, 100)]
    assert accepted_by_peers([*peers, *rubbish]) == {0: True, 1: False, 2: False}
    assert accepted_by_peers([Peer(0, 1, 1, 1), Peer(1, 0, 1, 2)]) == {0: True, 1: True}  # half of the best is enough
    assert accepted_by_peers([Peer(0, 1, 1, 1), Peer(1, 0, 499_999, 1_000_000)]) == {0: True, 1: False}
    assert accepted_by_peers([Peer(0, 0, 1, 1)]) == {}  # nobody else has judged it
    assert accepted_by_peers([Peer(0, 1, 0, 0), Peer(1, 0, 0, 0)]) == {0: True, 1: True}  # nothing to predict


def test_sixteen_hospitals_go_into_a_word():
    words = packed({0: True, 15: False, 16: True, 33: True}, 12)
    assert words == (Verdicts(0, 0b1000000000000001, 0b1, 12), Verdicts(1, 0b1, 0b1, 12), Verdicts(2, 0b10, 0b10, 12))
    assert [one.judged for one in words] == [{0: True, 15: False}, {16: True}, {33: True}]


rounds = st.lists(
    st.dictionaries(
        st.integers(0, 20), st.lists(st.integers(0, 100), min_size=21, max_size=21), min_size=2, max_size=6
    ),
    min_size=1,
    max_size=12,
)


@given(rounds)
def test_any_history_is_the_writers_to_the_unit(history: list[dict[int, list[int]]]):
    theirs, ours = writers.Standing(), Standing()
    for number, row in enumerate(history, start=1):
        slots = sorted(row)
        scores = {slot: {by: (row[slot][by], 100) for by in slots if by != slot} for slot in slots}
        judged = writers.judge(scores, slots, theirs)
        peers = [Peer(one.slot, one.judge, one.correct, one.total) for one in judged.peers]
        level = ours.threshold(slots)
        words = packed(accepted_by_peers(peers), level)
        assert [(w.index, w.participated, w.accepted, w.threshold) for w in words] == [
            (w.index, w.participated, w.accepted, w.threshold) for w in judged.verdicts
        ]
        theirs = theirs.after(judged.verdicts)
        for word in words:
            for slot, accepted in word.judged.items():
                ours.judge(slot, accepted, level)
        assert (ours.reputations, ours.rewards) == (theirs.reputations, theirs.rewards)
        named = writers.digests(number, judged, theirs)
        assert ours.rewards_root == named.get("rewards", bytes(32))


# --- In a run ---------------------------------------------------------------------------------------------------------

ROUNDS = 4


@pytest.fixture(scope="module")
def honest(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    keys = {"cohort.hospitals": 4, "data.simulated.patients": 8, "federation.local_epochs": 3}
    keys |= {
        "ledger.backend": "embedded",
        "ledger.reputation": "peers",
        "federation.rounds": ROUNDS,
        "ledger.window": 0,
    }
    run(tiny_config(**keys), folder)
    return folder


def test_a_run_with_peer_scores_is_clean(honest: Path):
    report = audit(honest)
    assert (report.findings, report.notes) == ([], [])
    assert report.counts["peer scores"] == ROUNDS * 4 * 3
    assert report.counts["verdicts"] == ROUNDS
    alone = audit(honest / "ledger" / "bundle.plb")
    assert (alone.findings, alone.head) == ([], report.head)


def test_a_changed_score_verdict_or_reputation_is_named(honest: Path, tmp_path: Path):
    folder = Path(shutil.copytree(honest, tmp_path / "run"))
    path = folder / "ledger" / "journal.sqlite"
    original = path.read_bytes()

    def places() -> set[tuple[Any, ...]]:
        return {(f.round, f.record, f.field) for f in audit(folder).findings}

    for statement, expected in (
        # too small a change for another verdict is found, too
        ("UPDATE peers SET total = total + 1 WHERE round = 2 AND slot = 1 AND judge = 0", (2, "annex", "scores")),
        ("UPDATE peers SET correct = 0 WHERE round = 2 AND slot = 1", (2, "scores", "verdicts")),
        ("UPDATE scores SET verdicts = replace(verdicts, '15', '7') WHERE round = 3", (3, "scores", "verdicts")),
        ("DELETE FROM peers WHERE round = 2", (2, "annex", "scores")),
    ):
        with sqlite3.connect(path) as connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()
        assert expected in places(), statement
        path.write_bytes(original)
    result = json.loads((folder / "result.json").read_text())
    result["ledger"]["hospitals"][1]["reputation"] += 1
    (folder / "result.json").write_text(json.dumps(result))
    assert places() == {(None, "result", "ledger.hospitals")}
