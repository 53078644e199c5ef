"""The study on disk is the study: what was edited is refused, what is gone is named and run again, what was moved goes on."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from reference import Heard
from simulated_ray import simulated
from studies import ALONE, outcome, study_of, trials_of

from engine.errors import ConfigError, DataError, PulseLedgerError, StudyError
from engine.homes import kind_of
from sweeps import Study
from sweeps.definition import definition, refuse_changed
from sweeps.folder import STUDY_FILE, repeat_folder, trial_folder
from sweeps.rows import rows_of
from sweeps.start import resume_study, start_study

SMALL: dict[str, Any] = {
    **ALONE,
    "name": "small",
    "federation": {"rounds": 1},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 2,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A finished study of two trials; tests take copies."""
    folder = tmp_path_factory.mktemp("small") / "study"
    start_study(study_of(SMALL), folder, Heard(), means=simulated())
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit(folder: Path, **keys: Any) -> None:
    """Changes the study's file by hand."""
    path = folder / STUDY_FILE
    values = yaml.safe_load(path.read_text())
    for name, value in keys.items():
        section, _, key = name.partition("__")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    path.write_text(yaml.safe_dump(values))


def resume(folder: Path, trials: int | None = None) -> Heard:
    heard = Heard()
    resume_study(folder, heard, means=simulated(), trials=trials)
    return heard


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "rounds": ({"federation__rounds": 2}, "federation.rounds is 2, but the study was begun with 1"),
    "repeats": ({"repeats": 3}, "repeats is 3, but the study was begun with 1"),
    "seed": ({"seed": 7}, "seed is 7, but the study was begun with 0"),
    "name": ({"name": "other"}, "name is 'other', but the study was begun with 'small'"),
    "cohort": ({"cohort__hospitals": 2}, "cohort.hospitals is 2, but the study was begun with 5"),
    "search": (
        {"search": {"federation.learning_rate": {"log_uniform": [0.01, 0.2]}}},
        r"search.federation.learning_rate.log_uniform is \[0.01, 0.2\], but the study was begun with \[0.01, 0.1\]",
    ),
    "conditions": ({"conditions": {"cohort.hospitals": [2]}}, "conditions.cohort.hospitals is"),
    "objectives": ({"objectives": {"validation/global/macro_f1": "maximize"}}, "objectives.validation/global/macro_f1"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_study_is_neither_gone_on_with_nor_shown(case: str, small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    keys, sentence = EDITS[case]
    edit(folder, **keys)
    for use in (resume, rows_of):
        with pytest.raises(StudyError, match=rf"study\.yaml: {sentence}.*; put it back"):
            use(folder)


def test_another_order_of_what_is_known_by_its_place_is_another_study():
    """Values of objectives would stand under each other's names; conditions would be other ones without trials."""
    goals = {"validation/personal/macro_f1": "maximize", "ledger/gas_per_round": "minimize"}
    axes = {"cohort.hospitals": [2, 3], "data.normalise": ["record", "beat"]}
    begun = study_of(SMALL, ledger={"backend": "embedded"}, objectives=goals, conditions=axes)
    for name, value in (("objectives", goals), ("conditions", axes)):
        turned = dict(reversed(value.items()))
        now = begun.model_copy(update={name: turned})
        with pytest.raises(
            StudyError, match=f"the order of {name} is another .* which was {', '.join(value)}; put it back"
        ):
            refuse_changed(definition(now), definition(begun), Path())
    refuse_changed(definition(begun), definition(begun), Path())


def test_trials_that_a_study_cannot_have_are_refused_in_its_file_too(tmp_path: Path):
    grid = {"search": {"federation.batch_size": {"choice": [8, 16]}}, "sampler": "grid"}
    folder = tmp_path / "grid"
    start_study(study_of(SMALL, **grid, trials=1), folder, Heard(), means=simulated())
    edit(folder, trials=3)
    with pytest.raises(ConfigError, match=r"trials is 3, but all that differ are 2"):
        resume(folder)
    edit(folder, trials=2)
    resume(folder)
    assert [trial.state for trial in trials_of(folder)] == ["COMPLETE"] * 2


def test_what_may_change_goes_on(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    edit(folder, trials=3, concurrency=1, execution__cpus=1)
    resume(folder)
    assert [trial.state for trial in trials_of(folder)] == ["COMPLETE"] * 3
    assert outcome(folder)[:2] == outcome(small)


def test_a_study_of_another_definition_is_refused_in_the_same_folder(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    with pytest.raises(StudyError, match=r"federation\.rounds is 2, but the study was begun with 1"):
        start_study(study_of(SMALL, federation={"rounds": 2}), folder, Heard(), means=simulated())
    assert yaml.safe_load((folder / STUDY_FILE).read_text())["federation"]["rounds"] == 1


def test_a_key_of_a_later_release_has_its_default_in_an_earlier_study():
    now = definition(study_of(SMALL))
    earlier = {key: value for key, value in now.items() if key != "federation.decay"}
    refuse_changed(now, earlier, Path())


def test_more_trials_are_asked_for_with_resume(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    resume(folder, trials=3)
    assert len(trials_of(folder)) == 3
    assert yaml.safe_load((folder / STUDY_FILE).read_text())["trials"] == 3
    for wanted in (2, 0, -1):
        with pytest.raises(ConfigError, match=rf"--trials {wanted}: 3 trials have begun already"):
            resume(folder, trials=wanted)
    assert len(trials_of(folder)) == 3


def test_a_trial_whose_folder_is_gone_is_named_and_run_again(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    whole = (repeat_folder(trial_folder(folder, 0), 0) / "model.safetensors").read_bytes()
    shutil.rmtree(trial_folder(folder, 0))
    by_number = {row.trial: row for row in rows_of(folder)}
    assert {number: row.state for number, row in by_number.items()} == {0: "LOST", 1: "COMPLETE"}
    assert by_number[0].reason == "trials/0000/seed-0/result.json is gone; `pulseledger resume` runs it again"
    assert Study(folder).best()["trial"] == 1
    assert len(Study(folder).rounds()) == 1

    heard = resume(folder)
    assert "trial 0: its results are gone, it is run again" in heard.notes
    assert heard.starts == [0]
    assert [row.state for row in rows_of(folder)] == ["COMPLETE"] * 2
    assert outcome(folder) == outcome(small)
    assert (repeat_folder(trial_folder(folder, 0), 0) / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("left", [None, b""])
def test_a_study_without_its_database_is_neither_shown_as_empty_nor_begun_again(
    left: bytes | None, small: Path, tmp_path: Path
):
    folder = copied(small, tmp_path / "study")
    (folder / "optuna.db").unlink() if left is None else (folder / "optuna.db").write_bytes(left)
    for use in (rows_of, resume):
        with pytest.raises(StudyError, match=r"optuna\.db: is (gone|empty), while trials/ holds results; put it back"):
            use(folder)


def test_results_of_another_trial_are_not_shown_as_those_of_this_one(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    first, second, aside = trial_folder(folder, 0), trial_folder(folder, 1), tmp_path / "aside"
    for path, to in ((first, aside), (second, first), (aside, second)):
        path.rename(to)
    with pytest.raises(
        DataError, match=r"0000/seed-0/result\.json: is the result of another configuration than that of trial 0"
    ):
        rows_of(folder)


def test_a_study_that_has_lost_its_name_is_told_so(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path / "study")
    (folder / ".id").unlink()
    with pytest.raises(StudyError, match=r"\.id: is gone, which names the study on the ledger and in MLflow"):
        resume(folder)
    assert not (folder / ".id").exists()


def test_a_moved_study_goes_on_and_writes_nothing_where_it_was(small: Path, tmp_path: Path):
    first, second = copied(small, tmp_path / "first"), tmp_path / "else" / "second"
    second.parent.mkdir()
    first.rename(second)
    resume(second, trials=3)
    assert len(trials_of(second)) == 3
    assert not first.exists()


def test_a_foreign_study_yaml_is_left_alone(tmp_path: Path):
    (tmp_path / STUDY_FILE).write_text("# my notes\nname: mine\n")
    with pytest.raises(ConfigError, match=r"holds a study\.yaml that no study of PulseLedger has written"):
        start_study(study_of(SMALL), tmp_path, Heard(), means=simulated())
    assert (tmp_path / STUDY_FILE).read_text() == "# my notes\nname: mine\n"
    assert [path.name for path in tmp_path.iterdir()] == [STUDY_FILE]
    assert kind_of(tmp_path) == ""


def test_one_process_runs_one_study_at_a_time(tmp_path: Path):
    """A second one, from another thread, is told so at once; the first goes on."""
    inside, told = threading.Event(), threading.Event()

    class Watched(Heard):
        def started(self, number: int, label: str, condition: str, rounds: int) -> None:
            super().started(number, label, condition, rounds)
            inside.set()
            assert told.wait(60)

    def first() -> None:
        start_study(study_of(SMALL), tmp_path / "first", Watched(), means=simulated())

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(
            StudyError, match="second: this process runs another study, and one process runs one at a time"
        ):
            start_study(study_of(SMALL), tmp_path / "second", Heard(), means=simulated())
    finally:
        told.set()
        thread.join()
    assert [trial.state for trial in trials_of(tmp_path / "first")] == ["COMPLETE"] * 2
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("storage", [None, "postgresql+psycopg://127.0.0.1:1/none"])
def test_a_store_that_is_not_there_is_told_before_a_study_has_begun(storage: str | None, tmp_path: Path):
    """Whatever database the study has: that one has been asked says nothing of the other."""
    tracking = {"backend": "mlflow", "uri": "http://127.0.0.1:1"}
    for _ in range(2):
        with pytest.raises(PulseLedgerError, match=r"^tracking\.uri: no MLflow store at http://127\.0\.0\.1:1 "):
            start_study(study_of(SMALL, storage=storage, tracking=tracking), tmp_path / "x", Heard(), means=simulated())
    assert not (tmp_path / "x" / ".id").exists()
