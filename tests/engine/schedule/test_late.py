"""Whole runs in which updates are late: ledger, audit, interruption; the same wherever hospitals live."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished import other
from paths import Path_, at, changed, general, leaves
from results import whole

from engine.audit import clock
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Finding, Verdict, collected
from engine.audit.run import audit
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.experiment import Place, run
from engine.ledger.format import RUN
from engine.messages import RoundRecord
from engine.result import Result
from sweeps.rows import outcome_of

LATE = {
    "cohort.hospitals": 4,
    "ledger.backend": "embedded",
    "federation.rounds": 6,
    "clock.fleet": "stragglers",
    "clock.slow": [1],
    "clock.dropout": 0.1,
    "clock.target": 0.2,
    "schedule.mode": "buffered",
    "schedule.buffer": 2,
}


class Interrupted(Exception):
    """As of a machine that stops."""


class StopAfter:
    """Interrupts a run between a round and its checkpoint."""

    def __init__(self, round: int) -> None:
        self.round = round

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self.round:
            raise Interrupted


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("late")
    return run(tiny_config(**LATE), folder / "run"), folder / "run"


def numbers(result: Result) -> tuple[Any, ...]:
    return result.model_hash, result.ledger.head, result.clock, [row.virtual for row in result.rounds], result.final


def change(folder: Path, statement: str, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    with sqlite3.connect(copy / "ledger" / RUN.file) as journal:
        assert journal.execute(statement).rowcount > 0
    journal.close()
    return copy


def test_late_updates_name_the_model_that_they_began_from_and_the_audit_computes_all_of_it_again(
    finished: tuple[Result, Path],
):
    result, folder = finished
    report = audit(folder)
    assert (report.findings, report.clean) == ([], True)
    assert report.counts["clocks"] == 6
    assert report.counts["aggregates"] == 6
    assert report.counts["absences"] == sum(len(row.virtual.absent) for row in result.rounds if row.virtual) > 0
    assert any(one.start < row.round - 1 for row in result.rounds if row.virtual for one in row.virtual.arrived)
    assert result.clock is not None
    assert result.clock.virtual_seconds == result.rounds[-1].virtual.seconds  # type: ignore[union-attr]
    assert result.score("clock/virtual_seconds") == result.clock.virtual_seconds
    assert result.clock.compute_joules > 0
    first = next(row.virtual for row in result.rounds if row.validation.macro_f1 >= 0.2)
    assert first is not None
    assert result.clock.target_seconds == first.seconds
    assert result.clock.target_joules == first.compute_joules + first.radio_joules


def test_a_target_that_no_model_reaches_has_no_time_and_its_mean_over_seeds_is_not_that_of_the_others(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, finished: tuple[Result, Path]
):
    result = run(tiny_config(**{**LATE, "clock.target": 0.999, "ledger.backend": "none"}), tmp_path)
    assert result.clock is not None
    assert (result.clock.target_seconds, result.clock.target_joules) == (None, None)
    assert outcome_of([finished[0]]).mean("clock/target_seconds") == finished[0].score("clock/target_seconds")
    assert outcome_of([finished[0], result]).mean("clock/target_seconds") is None


def test_an_interrupted_run_with_jobs_under_way_goes_on_bit_for_bit(
    finished: tuple[Result, Path], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    for stop in (2, 4):
        with pytest.raises(Interrupted):
            run(tiny_config(**LATE), tmp_path, Place(observers=(StopAfter(stop),)))
        assert audit(tmp_path).verdict is Verdict.UNFINISHED
    assert numbers(run(tiny_config(**LATE), tmp_path)) == numbers(finished[0])
    assert audit(tmp_path).clean


def test_threads_give_the_same(finished: tuple[Result, Path], tiny_config: Callable[..., RunConfig], tmp_path: Path):
    other = run(tiny_config(**LATE, **{"execution.pool": "threads", "execution.cpus": 2}), tmp_path)
    assert numbers(other) == numbers(finished[0])


def test_silence_about_a_job_and_a_word_about_none_are_named(finished: tuple[Result, Path], tmp_path: Path):
    silent = change(finished[1], "DELETE FROM absences WHERE rowid = 1", tmp_path / "silent")
    found = {(one.record, one.field, one.message.partition(" job")[0]) for one in audit(silent).findings}
    assert ("absence", "job", "by the clock") in found
    said = "UPDATE absences SET job = job + 7 WHERE rowid = 1"
    found = {(one.record, one.field) for one in audit(change(finished[1], said, tmp_path / "said")).findings}
    assert ("absence", "signature") in found
    assert ("absence", "job") in found


def test_every_value_that_a_result_says_of_the_clock_is_held_against_the_auditors_own(
    finished: tuple[Result, Path], tmp_path: Path
):
    """By what follows from the configuration, whatever the digests say; no field of the model is missing in this run."""

    def clocked(said: Any) -> dict[str, Path_]:
        found = {general(path): path for path in leaves(said) if path[0] == "clock" or "virtual" in path}
        return {name.removesuffix(".*"): path for name, path in found.items()}

    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    path = folder / "result.json"
    said = json.loads(path.read_text())
    there = {name for i in range(6) for name in clocked({**said, "rounds": said["rounds"][i : i + 1]})}
    assert there - {"rounds.*.virtual.absent"} == set(clocked(whole(Result)))
    with Evidence(folder) as evidence:
        case, _ = collected(read(evidence))
        assert not [one for one in clock.check(case) if isinstance(one, Finding)]
        for name, place in clocked(said).items():
            path.write_text(json.dumps(changed(said, place, other(at(said, place)))))
            fields = [one.field for one in clock.check(replace(case)) if isinstance(one, Finding)]
            assert len(fields) == 1, name
            assert ".".join(map(str, place)).startswith(fields[0]), name


def test_models_are_mixed_as_fedasync_says_and_recomputed(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    result = run(tiny_config(**{**LATE, "schedule.mode": "fedasync", "schedule.staleness": "hinge"}), tmp_path)
    assert [row.participants for row in result.rounds] == [1] * 6
    report = audit(tmp_path)
    assert (report.findings, report.counts["aggregates"]) == ([], 6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clock.fleet": "none"}, "schedule.mode buffered needs a virtual clock"),
        ({"schedule.buffer": 5}, "schedule.buffer is 5, but only 4 hospitals work at a time"),
        ({"aggregation.rule": "median"}, "needs aggregation.rule mean"),
        ({"federation.algorithm": "local"}, "no models are merged"),
        ({"clock.slow": [4]}, "there is no hospital 4"),
        ({"schedule.mode": "semi-synchronous", "schedule.first": None}, "needs first, deadline or both"),
        ({"schedule.mode": "fedasync", "ledger.reputation": "peers"}, "no two updates meet"),
    ],
)
def test_what_cannot_be_on_a_clock_is_refused(
    tiny_config: Callable[..., RunConfig], keys: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message) as error:
        tiny_config(**{**LATE, **keys})
    assert "\n" not in str(error.value)
