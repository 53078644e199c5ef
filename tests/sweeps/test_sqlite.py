"""The trials of a study in an SQLite file: who else may have it, and what its folder may be called."""

import sqlite3
from pathlib import Path

import optuna
import pytest
from studies import ALONE, study_of

from engine.clock import JumpingClock
from engine.errors import StudyError
from sweeps.storage import DATABASE, driver_storage, reading_storage


class _Released(JumpingClock):
    """A clock on which another program lets go of the database at the third look."""

    def __init__(self, held: sqlite3.Connection) -> None:
        super().__init__()
        self._held, self._looks = held, 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._looks += 1
        if self._looks == 3:
            self._held.rollback()


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_foreign_lock_is_waited_for(lock: str, tmp_path: Path):
    """A backup, a browser or a note in a dashboard: at the opening, and in the middle."""
    study = study_of(ALONE, name="locked")
    with driver_storage(study, tmp_path, print) as storage:
        optuna.create_study(storage=storage, study_name="before")
    held = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    for opening in (True, False):
        said: list[str] = []
        clock = _Released(held)
        if opening:
            held.execute(f"BEGIN {lock}")
        with driver_storage(study, tmp_path, said.append, clock, lock_seconds=0.01) as storage:
            if not opening:
                held.execute(f"BEGIN {lock}")
            optuna.create_study(storage=storage, study_name=f"made {opening}")
            assert {found.study_name for found in storage.get_all_studies()} >= {"before", f"made {opening}"}
        assert any("locked" in text for text in said)
    held.close()


def test_a_lock_that_stays_ends_in_a_sentence_that_says_how_to_go_on(tmp_path: Path):
    study = study_of(ALONE, name="locked")
    with driver_storage(study, tmp_path, print):
        pass
    held = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    with driver_storage(study, tmp_path, lambda text: None, JumpingClock(), 1, lock_seconds=0.01) as storage:
        held.execute("BEGIN IMMEDIATE")
        told = r"has been away for 1 s \(database is locked by another program\); nothing is lost"
        with pytest.raises(StudyError, match=told):
            optuna.create_study(storage=storage, study_name="never")
    held.close()


def test_a_database_is_whole_or_not_there(tmp_path: Path):
    """What a driver that was killed while it made it has left is swept away."""
    (tmp_path / f".{DATABASE}.4711").write_text("half")
    with driver_storage(study_of(ALONE, name="whole"), tmp_path, print) as storage:
        assert storage.get_all_studies() == []
    assert [path.name for path in tmp_path.iterdir()] == [DATABASE]


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b c"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path):
    folder = tmp_path / name
    folder.mkdir()
    study = study_of(ALONE, name="named")
    with driver_storage(study, folder, print) as storage:
        optuna.create_study(storage=storage, study_name="named")
    with reading_storage(study, folder) as read:
        assert read is not None
        assert [found.study_name for found in read.get_all_studies()] == ["named"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
