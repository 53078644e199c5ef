"""The ledger in a run: hospitals that are lied to stop it, those that were away check all, and a checkpoint needs its ledger."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reference import numbers
from simulators import POLICY, REVIEWER, Run, rule_of

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.config import RunConfig, config_hash
from engine.errors import HospitalError, LedgerError, Stopped
from engine.experiment import HERE, Place, join
from engine.experiment import run as run_experiment
from engine.ledger import keyfiles, keystore
from engine.ledger.config import LedgerConfig
from engine.ledger.format import DECISIONS, RUN
from engine.ledger.observer import LedgerObserver
from engine.ledger.signer import Notice
from engine.ledger.signing import address
from engine.ledger.store import read_only
from engine.ledger.subjects.synthetic import SetPolicy, SetReviewer
from engine.messages import Asked
from engine.rounds import run_rounds


class Liar:
    """The ledger of a run whose notices are bent before hospitals see them."""

    def __init__(self, ledger: Any, bend: Callable[[Asked, Notice], Notice]) -> None:
        self._ledger, self._bend = ledger, bend

    def notice(self, asked: Asked) -> Notice:
        return self._bend(asked, self._ledger.notice(asked))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def lied_to(config: RunConfig, folder: Path, bend: Callable[[Asked, Notice], Notice]) -> HospitalError:
    """What ends a run whose coordinator lies."""
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), folder, HERE, stack)
        parts = replace(joined.parts, ledger=Liar(joined.parts.ledger, bend))
        with pytest.raises(HospitalError) as refused:
            run_rounds(state, parts)
    return refused.value


def test_a_lying_coordinator_stops_the_run_with_hospital_round_and_stage(tiny_config, tmp_path: Path):
    def bend(asked: Asked, notice: Notice) -> Notice:
        return replace(notice, paths=notice.paths | {1: notice.paths[2]}) if asked.round == 2 else notice

    error = lied_to(tiny_config(**{"ledger.backend": "embedded"}), tmp_path, bend)
    assert (error.hospital, error.round, error.stage) == (1, 2, "ledger")
    assert "the proof does not lead" in error.cause


def test_a_hospital_signs_only_for_the_model_that_it_was_given(tiny_config, tmp_path: Path):
    config = tiny_config(**{"ledger.backend": "embedded"})
    error = lied_to(config, tmp_path, lambda asked, notice: replace(notice, model=b"\x01" * 32))
    assert (error.hospital, error.round, error.stage) == (0, 1, "ledger")
    assert "the model that was given is not the one that would be signed for" in error.cause


def test_a_run_with_partial_participation_and_keystore(tiny_config, tmp_path: Path, monkeypatch):
    """Hospitals that are away for some rounds check all of them when they come back."""
    monkeypatch.setenv(keyfiles.PASSWORD_VARIABLE, "secret")
    stored = tmp_path / "keys"
    addresses = keystore.create_keystore(stored, 3, ("A", "A", "B"), work=2)
    config = tiny_config(
        **{
            "ledger.backend": "embedded",
            "ledger.keystore": str(stored),
            "federation.rounds": 6,
            "federation.participation": 0.5,
        }
    )
    result = run_experiment(config, tmp_path / "run")
    assert result.ledger.cosigned == 3
    with read_only(tmp_path / "run" / "ledger" / RUN.file) as journal:
        rows = journal.execute("SELECT round, slot FROM updates").fetchall()
        [text] = journal.execute("SELECT value FROM meta WHERE key = 'federation'").fetchone()
    rounds = [sorted(slot for number, slot in rows if number == n) for n in range(1, 7)]
    assert all(len(slots) == 2 for slots in rounds)
    assert len(set(map(tuple, rounds))) > 1
    federation = json.loads(text)
    assert federation["hospitals"] == addresses
    assert federation["organisations"][0] == federation["organisations"][1] != federation["organisations"][2]
    plain = run_experiment(config.model_copy(update={"ledger": LedgerConfig(backend="none")}), tmp_path / "plain")
    assert plain.model_hash == result.model_hash


AGAIN = build_rule(AggregationConfig(), "samples").again


def observer(run: Run, rounds: int = 5) -> LedgerObserver:
    """The observer of the simulators' federation."""
    return LedgerObserver(run.ledger_folder, run.federation, rule_of(run.weighting), LedgerConfig(), False, rounds)


def test_a_checkpoint_without_its_ledger_is_refused(tmp_path: Path):
    there = observer(Run(tmp_path))
    try:
        there.replay([], 0, AGAIN)
        with pytest.raises(LedgerError, match=r"the checkpoint is after round 3, the ledger in .* ends with round 0"):
            there.replay([], 3, AGAIN)
    finally:
        there.abandon()


@pytest.mark.parametrize("change", [{"updates": 3}, {"digests": {"scores": "zz"}}, {"rows": None}, {"parent": "0x0"}])
def test_a_damaged_checkpoint_gives_one_sentence(tmp_path: Path, change: dict[str, Any]):
    there = observer(Run(tmp_path))
    entry = {
        "round": 1,
        "parent": "0x",
        "model": "0x",
        "updates": [],
        "digests": {},
        "rows": {},
        "next_deadline": 0,
    }
    try:
        with pytest.raises(LedgerError, match="the checkpoint's ledger entries are damaged") as refused:
            there.replay([{**entry, **change}], 1, AGAIN)
        assert "\n" not in str(refused.value)
    finally:
        there.abandon()


def test_rounds_name_the_decisions_that_were_taken_before(tiny_config, tmp_path: Path):
    """Steps of governance go to the contract at once; the head of the next round commits to what it decided."""
    config = tiny_config(**{"ledger.backend": "embedded"})
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), tmp_path, HERE, stack)
        ledger: Any = joined.parts.ledger
        ledger.govern(SetPolicy(POLICY))
        done = ledger.govern(SetReviewer(address(REVIEWER), b"\x05" * 32))
        governance = ledger.governance()
        assert governance.steps == (SetPolicy(POLICY), SetReviewer(address(REVIEWER), b"\x05" * 32))
        assert governance.decisions == done.decisions == ledger.decisions
        run_rounds(state, joined.parts)
        ledger.leave()
    with read_only(tmp_path / "ledger" / RUN.file) as journal:
        named = journal.execute("SELECT DISTINCT name FROM annexes").fetchall()
    assert [name for (name,) in named] == ([DECISIONS] if any(done.decisions) else [])


@pytest.mark.parametrize("peers", ["none", "peers"])
def test_an_interrupted_run_ends_as_one_that_was_not(tiny_config, tmp_path: Path, peers: str):
    """The rounds that the ledger had not confirmed are in the checkpoint and are taken up from there."""
    config = tiny_config(**{"ledger.backend": "embedded", "ledger.reputation": peers, "federation.rounds": 3})
    straight = run_experiment(config, tmp_path / "straight")
    with pytest.raises(Stopped):
        run_experiment(config, tmp_path / "stopped", Place(stopping=lambda: True))
    again = run_experiment(config, tmp_path / "stopped")
    assert again.ledger.head == straight.ledger.head
    assert again.ledger.transactions == straight.ledger.transactions
    assert again.ledger.closing == straight.ledger.closing  # and with it everything that hospitals signed
    one, other = (numbers(r, tmp_path / n) for r, n in ((straight, "straight"), (again, "stopped")))
    assert one == other
