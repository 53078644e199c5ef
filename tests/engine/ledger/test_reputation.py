"""Peer scores in the loop: they change no bit of the training, and a poisoned hospital falls."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import settled

from engine.config import RunConfig
from engine.errors import ConfigError, LedgerError, Stopped
from engine.experiment import Place, run
from engine.hospital import Hospital
from engine.ledger.config import LedgerConfig
from engine.ledger.format import BASE_REPUTATION as BASE
from engine.ledger.run import reopened
from engine.ledger.subjects.reputation import Verdicts, accepted_of, step
from engine.ledger.typed import record_from_json
from engine.result import Result

ROUNDS = 4


def poisoned(monkeypatch: pytest.MonkeyPatch, hospital: int) -> None:
    """One hospital sends the opposite of what it learned, three times as large: the others' updates together, undone.

    Patched into the class, because hospitals are made inside the run and no setting makes one of them bad.
    """
    make = Hospital.__init__

    def made(self: Any, *given: Any) -> None:
        make(self, *given)
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
        | {"federation.local_epochs": 3, "ledger.reputation": "peers", "ledger.window": 0, **keys}
    )


@pytest.fixture(scope="module")
def honest(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    run(federation_of(tiny_config), folder)
    return folder


def test_scores_change_no_bit_of_the_training(honest: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path):
    result = Result.read(honest)
    without = run(federation_of(tiny_config, **{"ledger.reputation": "none"}), tmp_path / "without")
    assert (result.model_hash, result.config_hash) == (without.model_hash, without.config_hash)
    assert result.final == without.final
    assert without.ledger.hospitals is None


def test_a_poisoned_hospital_falls_and_the_others_rise(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poisoned(monkeypatch, 2)
    hospitals = run(federation_of(tiny_config), tmp_path).ledger.hospitals
    assert [row.id for row in hospitals] == [0, 1, 2, 3]
    accepted = accepted_in(tmp_path)
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
    # the contract holds the same, and pays each reward once
    with reopened(tmp_path / "ledger", LedgerConfig()) as ledger:
        federation, contract = ledger.registry.federation.id, ledger.reputation.contract
        asked = ("ReputationLedger", contract)
        assert [ledger.book.query(*asked, "reputation", federation, slot) for slot in range(4)] == held
        for _ in range(2):  # the same again is not sent again
            assert ledger.reputation.claim(0) == hospitals[0].reward
        assert ledger.book.query(*asked, "claimed", federation, 0) == hospitals[0].reward
        with pytest.raises(LedgerError, match="hospital 2 has no reward"):
            ledger.reputation.claim(2)


def accepted_in(folder: Path) -> dict[int, dict[int, bool]]:
    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    rows = connection.execute("SELECT round, verdicts FROM scores").fetchall()
    connection.close()
    return {number: accepted_of([record_from_json(Verdicts, text)]) for number, text in rows}


def test_the_same_on_ray_and_after_an_interruption(
    ray2: Any, honest: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    settled()
    result = Result.read(honest)
    on_ray = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    config = federation_of(tiny_config, **on_ray)
    with pytest.raises(Stopped):
        run(config, tmp_path, Place(stopping=lambda: True))
    again = run(config, tmp_path)
    assert again.model_hash == result.model_hash
    assert (again.ledger.head, again.ledger.hospitals) == (result.ledger.head, result.ledger.hospitals)


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
