"""What a runner answers to an order: every ending has a name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import ALONE, study_of

from engine.config import config_hash
from engine.errors import StudyError
from engine.result import Result
from engine.tracked import Shown
from sweeps.folder import read_progress, repeat_folder
from sweeps.space import conditions, resolve
from sweeps.trial import AtCheckpoint, AtRung, Done, Numbers, Order, TrialRunner, Waiting, next_attempt

F1, GAS = "validation/personal/macro_f1", "ledger/gas_per_round"
NOBODY = Shown("", "", {}, "")


def order_of(folder: Path, repeats: int = 1, **more: Any) -> Order:
    study = study_of(ALONE, federation={"rounds": 4}, repeats=repeats)
    (condition,) = conditions(study)
    configs = tuple(resolve(study, condition, {}, repeat) for repeat in range(repeats))
    (folder / "trial").mkdir(exist_ok=True)
    return Order(configs, folder / "trial", NOBODY, (F1, GAS), **more)


def numbers(order: Order, repeat: int) -> Numbers:
    result = Result.read(repeat_folder(order.folder, repeat))
    return Numbers(config_hash(order.configs[repeat]), {F1: result.validation.personal.macro_f1, GAS: None})


def test_a_trial_pauses_at_its_rungs_and_ends_with_the_numbers_that_were_ordered(tmp_path: Path):
    order = order_of(tmp_path, repeats=2, rungs=(1, 3))
    runner = TrialRunner()
    replies = [runner.begin(order, None), runner.advance(), runner.advance()]
    assert [type(reply) for reply in replies] == [AtRung, AtRung, Done]
    assert [reply.step for reply in replies if isinstance(reply, AtRung)] == [1, 3]
    done = replies[-1]
    assert isinstance(done, Done)
    assert done.repeats == (numbers(order, 0), numbers(order, 1))
    assert done.repeats[0] != done.repeats[1]  # another seed
    assert all(reply.trained > 0 for reply in replies)
    rounds = [row for repeat in (0, 1) for row in Result.read(repeat_folder(order.folder, repeat)).rounds]
    assert sum(reply.trained for reply in replies) == pytest.approx(sum(row.train_seconds for row in rounds))
    assert read_progress(order.folder).round == 8


def test_rungs_may_be_repeats(tmp_path: Path):
    order = order_of(tmp_path, repeats=2, rungs=(1,), by_repeat=True)
    runner = TrialRunner()
    first = runner.begin(order, None)
    assert first == AtRung(first.trained, 1, numbers(order, 0))
    assert isinstance(runner.advance(), Done)


def test_a_file_ends_a_trial_at_its_next_checkpoint_and_it_goes_on_from_there(tmp_path: Path):
    stop = tmp_path / "stop"
    order = order_of(tmp_path, rungs=(2,), stops=(tmp_path / "never", stop))
    runner = TrialRunner()
    assert isinstance(runner.begin(order, None), AtRung)
    stop.touch()
    assert isinstance(runner.advance(), AtCheckpoint)
    assert read_progress(order.folder).round == 3
    stop.unlink()
    again = TrialRunner().begin(replace(order, attempt=1), None)
    assert isinstance(again, Done)  # the rung lies behind
    (tmp_path / "whole").mkdir()
    undisturbed = TrialRunner().begin(order_of(tmp_path / "whole"), None)
    assert isinstance(undisturbed, Done)
    assert undisturbed.repeats == again.repeats


def test_a_trial_that_is_dropped_lets_go_and_the_runner_takes_the_next(tmp_path: Path):
    runner = TrialRunner()
    assert isinstance(runner.begin(order_of(tmp_path, rungs=(1,)), None), AtRung)
    runner.drop()
    (tmp_path / "next").mkdir()
    assert isinstance(runner.begin(order_of(tmp_path / "next"), None), Done)


def test_a_review_that_is_wanted_is_an_ending_of_its_own(tmp_path: Path):
    policy = {"mode": "human", "preview": 0, "quota": 500, "ratio": 50, "share_cap": 1}
    order = order_of(tmp_path)
    balance = {"method": "smote", "policy": policy}
    config = study_of(ALONE, federation={"rounds": 2}, balance=balance)
    (condition,) = conditions(config)
    reply = TrialRunner().begin(replace(order, configs=(resolve(config, condition, {}, 0),)), None)
    assert isinstance(reply, Waiting)
    assert "for a reviewer" in reply.reason


def test_attempts_are_counted_in_the_folder_and_fence_off_older_runners(tmp_path: Path):
    order = order_of(tmp_path, repeats=2)
    second = next_attempt(next_attempt(order))
    assert second.attempt == 2
    assert [(repeat_folder(order.folder, r) / "attempt").read_text() for r in (0, 1)] == ["2", "2"]
    with pytest.raises(StudyError, match="attempt 2 has taken over from attempt 1"):
        TrialRunner().begin(replace(order, attempt=1), None)
    assert isinstance(TrialRunner().begin(second, None), Done)


def test_a_node_that_does_not_see_the_studys_folder_says_so(tmp_path: Path):
    with pytest.raises(StudyError, match="must be on a disk that all nodes of the cluster share"):
        TrialRunner().begin(replace(order_of(tmp_path), folder=tmp_path / "elsewhere"), None)
