"""The rule of reputation worked out by hand, its properties, verdicts by the median of peers, and the packed words."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st
from reference import settled

from engine.config import RunConfig
from engine.errors import ConfigError, LedgerError, Stopped
from engine.experiment import Place, run
from engine.ledger.audit import audit
from engine.ledger.chain import query
from engine.ledger.config import LedgerConfig
from engine.ledger.ledger import Ledger
from engine.ledger.merkle import paired_path
from engine.ledger.records import Verdicts, federation_from_json, verdicts_from_json
from engine.ledger.reputation import (
    BASE,
    HIGHEST,
    accepted_of,
    after,
    earned,
    reward_leaf,
    rewards_levels,
    rewards_root,
    score,
    step,
    threshold,
    verdicts,
    words,
)
from engine.result import Result


@pytest.mark.parametrize(
    ("reputation", "accepted", "level", "expected"),
    [
        (10, True, 10, 11),
        (12, True, 10, 13),
        (HIGHEST, True, 10, HIGHEST),
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
def test_rule(reputation: int, accepted: bool, level: int, expected: int) -> None:
    assert step(reputation, accepted, level) == expected


@given(st.integers(0, HIGHEST), st.booleans(), st.integers(0, HIGHEST))
def test_rule_is_exhaustive_disjoint_and_stays_in_range(reputation: int, accepted: bool, level: int) -> None:
    cases = [
        accepted and reputation >= level,
        not accepted and reputation >= level + 1,
        not accepted and reputation == level,
        reputation < level,
    ]
    assert sum(cases) == 1
    results = [min(reputation + 1, HIGHEST), reputation - 1, 0, reputation + 1]
    assert step(reputation, accepted, level) == results[cases.index(True)]
    assert 0 <= step(reputation, accepted, level) <= HIGHEST


def test_threshold_is_the_mean_of_the_participants_rounded_down() -> None:
    assert threshold({0: 10, 1: 13, 2: 90}, [0, 1]) == 11
    assert threshold({}, [4, 5]) == BASE


def test_verdict_is_the_median_of_the_others() -> None:
    # hospital 2 sends rubbish and praises itself; hospital 0 lies about everybody
    scores = {
        0: {1: 900_000, 2: 880_000},
        1: {0: 0, 2: 910_000},
        2: {0: 100_000, 1: 120_000, 2: 1_000_000},
    }
    assert verdicts(scores) == {0: True, 1: False, 2: False}  # medians 880,000, 0 (lower of two) and 100,000
    scores[1] = {0: 0, 2: 910_000, 3: 900_000}
    assert verdicts(scores)[1]  # two honest judges outvote one liar


def test_half_of_the_best_is_enough() -> None:
    assert verdicts({0: {1: 1_000_000}, 1: {0: 500_000}}) == {0: True, 1: True}
    assert verdicts({0: {1: 1_000_000}, 1: {0: 499_999}}) == {0: True, 1: False}


def test_an_update_without_a_judge_is_an_error() -> None:
    with pytest.raises(LedgerError, match="update of hospital 0 has no judge"):
        verdicts({0: {0: 1}})


def test_score_in_parts_per_million() -> None:
    assert score(1, 3) == 333_333
    assert score(0, 0) == 0


def test_words_pack_sixteen_hospitals() -> None:
    assert words({0: True, 15: False, 16: True, 33: True}, 12) == (
        Verdicts(0, 0b1000000000000001, 0b1, 12),
        Verdicts(1, 0b1, 0b1, 12),
        Verdicts(2, 0b10, 0b10, 12),
    )


def test_a_round_of_reputation_and_rewards() -> None:
    accepted = {0: True, 1: False}
    reputations = after({}, accepted, BASE)
    assert reputations == {0: 11, 1: 0}
    rewards = earned({}, reputations, accepted)
    assert rewards == {0: 11}
    later = after(reputations, {0: True, 1: True}, threshold(reputations, [0, 1]))
    assert later == {0: 12, 1: 1}  # mean 5: hospital 1 serves its penalty
    assert earned(rewards, later, {0: True, 1: True}) == {0: 23, 1: 1}


@given(st.integers(1, 12), st.data())
def test_proofs_lead_to_the_root(count: int, data: st.DataObject) -> None:
    rewards = {slot: 100 + slot for slot in range(count)}
    position = data.draw(st.integers(0, count - 1))
    node = reward_leaf(position, 100 + position)
    for sibling in paired_path(rewards_levels(rewards), position):
        node = keccak(min(node, sibling) + max(node, sibling))
    assert node == rewards_root(rewards)


def test_leaves_by_hand() -> None:
    assert reward_leaf(3, 500) == keccak(keccak((3).to_bytes(32, "big") + (500).to_bytes(32, "big")))
    assert rewards_root({}) == bytes(32)


# --- In the loop ------------------------------------------------------------------------------------------------------

ROUNDS = 4


def poisoned(monkeypatch: pytest.MonkeyPatch, hospital: int) -> None:
    """One hospital sends the opposite of what it learned, three times as large: the others' updates together, undone."""
    from engine.hospital import Hospital

    local = Hospital.__init__

    def made(self: Any, data: Any, task: Any, oracle: Any) -> None:
        local(self, data, task, oracle)
        if self.id == hospital:
            learned = self._algorithm.local

            def opposite(*args: Any) -> Any:
                result = learned(*args)
                return replace(result, update=np.float32(-3) * result.update)

            self._algorithm = replace(self._algorithm, local=opposite)

    monkeypatch.setattr(Hospital, "__init__", made)


def federation_of(tiny_config: Callable[..., RunConfig], **keys: Any) -> RunConfig:
    return tiny_config(
        **{
            "ledger.backend": "embedded",
            "cohort.hospitals": 4,
            "data.simulated.patients": 8,
            "federation.rounds": ROUNDS,
        }
        | {"federation.local_epochs": 3, "ledger.reputation": "peers", **keys}
    )


@pytest.fixture(scope="module")
def honest(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    run(federation_of(tiny_config), folder)
    return folder


def test_scores_are_audited_and_change_no_bit_of_the_training(
    honest: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    result = Result.read(honest)
    without = run(federation_of(tiny_config, **{"ledger.reputation": "none"}), tmp_path / "without")
    assert (result.model_hash, result.config_hash) == (without.model_hash, without.config_hash)
    assert result.final == without.final
    assert without.ledger.hospitals is None
    report = audit(honest)
    assert (report.findings, report.notes) == ([], [])
    assert report.counts["peer scores"] == ROUNDS * 4 * 3
    assert report.counts["verdicts"] == ROUNDS
    alone = audit(honest / "ledger" / "bundle.plb")
    assert (alone.findings, alone.head) == ([], report.head)


def test_a_poisoned_hospital_falls_and_the_others_rise(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poisoned(monkeypatch, 2)
    result = run(federation_of(tiny_config), tmp_path / "run")
    hospitals = result.ledger.hospitals
    assert [row.id for row in hospitals] == [0, 1, 2, 3]
    accepted = journal_of(tmp_path / "run")
    for number in range(1, ROUNDS + 1):
        assert not accepted[number][2]
    assert hospitals[2].reputation < BASE
    held, points = [BASE] * 4, [0] * 4
    for number in range(1, ROUNDS + 1):
        level = sum(held) // 4
        held = [step(value, accepted[number][slot], level) for slot, value in enumerate(held)]
        points = [p + held[slot] * accepted[number][slot] for slot, p in enumerate(points)]
    assert [(row.reputation, row.reward) for row in hospitals] == list(zip(held, points, strict=True))
    assert hospitals[2].reward == 0
    for row in (hospitals[0], hospitals[1], hospitals[3]):
        assert row.reputation > BASE
        assert row.reward > BASE
    assert audit(tmp_path / "run").clean
    # the contract holds the same, and pays each reward once
    config = LedgerConfig()
    with sqlite3.connect(tmp_path / "run" / "ledger" / "journal.sqlite") as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = 'federation'").fetchone()
    connection.close()
    with Ledger(tmp_path / "run" / "ledger", federation_from_json(text), config.backend) as ledger:
        asked = (ledger._chain, ledger.domain.contract)
        held = [query(*asked, "reputation", ledger._federation.id, slot) for slot in range(4)]
        assert held == [row.reputation for row in hospitals]
        assert ledger.claim(0) == hospitals[0].reward
        assert ledger.claim(0) == hospitals[0].reward  # the same again is not sent again
        assert query(*asked, "claimed", ledger._federation.id, 0) == hospitals[0].reward
        with pytest.raises(LedgerError, match="hospital 2 has no reward"):
            ledger.claim(2)


def journal_of(folder: Path) -> dict[int, dict[int, bool]]:
    with sqlite3.connect(folder / "ledger" / "journal.sqlite") as connection:
        rows = connection.execute("SELECT round, verdicts FROM scores").fetchall()
    connection.close()
    return {number: accepted_of([verdicts_from_json(text)]) for number, text in rows}


def test_the_same_on_ray_and_after_an_interruption(
    ray2: Any, honest: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    settled()
    result = Result.read(honest)
    on_ray = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    config, folder = federation_of(tiny_config, **on_ray), tmp_path / "ray"
    with pytest.raises(Stopped):
        run(config, folder, Place(stopping=lambda: True))
    again = run(config, folder)
    assert again.model_hash == result.model_hash
    assert (again.ledger.head, again.ledger.hospitals) == (result.ledger.head, result.ledger.hospitals)
    assert audit(folder).clean


def test_a_changed_score_verdict_or_reputation_is_named(honest: Path, tmp_path: Path):
    folder = Path(shutil.copytree(honest, tmp_path / "run"))
    path = folder / "ledger" / "journal.sqlite"
    original = path.read_bytes()

    def places() -> set[tuple[Any, ...]]:
        return {(f.round, f.record, f.field) for f in audit(folder).findings}

    for statement, expected in (
        # too small a change for another verdict is found, too
        ("UPDATE peers SET total = total + 1 WHERE round = 2 AND slot = 1 AND judge = 0", (2, "round", "scores_root")),
        ("UPDATE peers SET correct = 0 WHERE round = 2 AND slot = 1", (2, "scores", "verdicts")),
        ("UPDATE scores SET verdicts = replace(verdicts, '15', '7') WHERE round = 3", (3, "scores", "verdicts")),
        ("DELETE FROM peers WHERE round = 2", (2, "round", "scores_root")),
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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ledger.backend": "none"}, "reputation 'peers' needs a ledger"),
        ({"federation.participation": 0.25}, "at least two hospitals in a round"),
    ],
)
def test_peers_that_cannot_be_are_refused(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, keys: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message) as error:
        run(federation_of(tiny_config, **keys), tmp_path)
    assert "\n" not in str(error.value)
