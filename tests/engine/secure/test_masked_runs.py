"""Runs whose updates are masked: the same bits as without masks, for every loss and after every interruption, and an audit that sees none."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import OFFLINE, audit, change, names
from reference import Interrupted, numbers
from safetensors.numpy import load_file, save_file

from engine.audit import secure as check
from engine.audit import vectors
from engine.audit.report import Verdict
from engine.errors import ConfigError, HospitalError, MaskError, PulseLedgerError
from engine.experiment import Place, run
from engine.ledger.bundle import write_bundle
from engine.messages import Asked, Trained
from engine.pools.build import build_pool
from engine.result import Result
from engine.secure.part import STEPS
from sweeps.__main__ import main
from sweeps.rows import outcome_of

FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "ledger.backend": "embedded", "ledger.window": 0}
MASKS = {"aggregation.secure.method": "masks"}


class Losing:
    """A pool that loses hospitals in steps: step -> round -> hospitals whose answer never arrives; "train" is one, too."""

    def __init__(
        self, pool: Any, lost: Mapping[str, Mapping[int, Sequence[int]]], stop: tuple[int, str] = (0, "")
    ) -> None:
        self._pool, self._lost, self._stop = pool, lost, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def train(self, asked: Asked, notice: Any) -> Trained:
        gone = self._lost.get("train", {}).get(asked.round, ())
        found = self._pool.train(Asked(asked.round, tuple(h for h in asked.hospitals if h not in gone), asked.params, asked.model), notice)  # fmt: skip
        answers = iter(found.answers)
        lost = [HospitalError(h, asked.round, "train", "lost") if h in gone else next(answers) for h in asked.hospitals]
        return Trained(lost, found.summed)

    def secure(self, step: str, groups: Any, notice: Any, ids: Sequence[int]) -> list[Any]:
        round = notice.headers[-1].round + 1
        if (round, step) == self._stop:
            raise Interrupted
        answers = self._pool.secure(step, groups, notice, ids)
        gone = self._lost.get(step, {}).get(round, ())
        return [HospitalError(h, round, step, "lost") if h in gone else a for h, a in zip(ids, answers, strict=True)]


def losing(lost: Mapping[str, Mapping[int, Sequence[int]]], stop: tuple[int, str] = (0, "")) -> Place:
    return Place(pool=lambda hospitals, task: Losing(build_pool(hospitals, task), lost, stop))  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def original(tiny_config, tmp_path_factory) -> Path:
    """Five hospitals, of which one is lost in round 2 after it has dealt its shares."""
    folder = tmp_path_factory.mktemp("masked") / "run"
    settings = {**FIVE, **MASKS, "federation.min_hospitals": 4, "federation.rounds": 3}
    run(tiny_config(**settings), folder, losing({"masked": {2: [3]}}))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_the_model_is_the_same_to_the_bit_whoever_is_lost_in_whichever_step(
    original: Path, tiny_config, tmp_path: Path
):
    """One hospital is lost in each step, in a round of its own; after `masked` it is in the sum."""
    settings = {**FIVE, "federation.min_hospitals": 4, "federation.rounds": 5}
    lost = {step: {number: [number - 1]} for number, step in enumerate(STEPS, 1)}
    hidden = run(tiny_config(**settings, **MASKS), tmp_path / "masked", losing(lost))
    never = {"train": {number: [number - 1] for number in (1, 2, 3)}}
    plain = run(tiny_config(**settings), tmp_path / "plain", losing(never))
    assert hidden.model_hash == plain.model_hash
    assert [row.participants for row in hidden.rounds] == [row.participants for row in plain.rounds] == [4, 4, 4, 5, 5]
    assert [len(row.lost) for row in hidden.rounds] == [1] * 5
    report = audit(tmp_path / "masked")
    assert report.findings == []
    assert report.verdict is Verdict.CLEAN


def test_a_run_that_was_stopped_between_any_two_steps_repeats_to_the_bit(tiny_config, tmp_path: Path):
    config = tiny_config(**FIVE, **MASKS, **{"federation.rounds": 2})
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    for number, step in ((1, "keys"), (1, "dealt"), (1, "masked"), (1, "agreed"), (2, "revealed")):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "stumbling", losing({}, (number, step)))
    assert numbers(run(config, tmp_path / "stumbling"), tmp_path / "stumbling") == expected


def test_a_hospital_signs_no_other_sum_after_it_was_started_again(tiny_config, tmp_path: Path):
    """The difference of both sums would be the update of hospital 4."""
    config = tiny_config(**FIVE, **MASKS, **{"federation.rounds": 1, "federation.min_hospitals": 4})
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", losing({}, (1, "revealed")))
    with pytest.raises(PulseLedgerError, match=r"signs no other one for round 1: the difference of two sums"):
        run(config, tmp_path / "run", losing({"masked": {1: [4]}}))
    assert not (tmp_path / "run" / "result.json").exists()


def test_below_the_threshold_the_round_fails_and_says_so(tiny_config, tmp_path: Path):
    config = tiny_config(**FIVE, **MASKS, **{"federation.rounds": 1, "federation.min_hospitals": 1})
    with pytest.raises(MaskError, match="of 3 hospitals, fewer than the threshold of 4; nothing was revealed"):
        run(config, tmp_path / "run", losing({"masked": {1: [3, 4]}}))


def test_without_leave_to_lose_hospitals_a_lost_answer_ends_the_run(tiny_config, tmp_path: Path):
    with pytest.raises(HospitalError, match="hospital 2, round 1, revealed: lost"):
        run(tiny_config(**FIVE, **MASKS), tmp_path / "run", losing({"revealed": {1: [2]}}))


def test_a_robust_rule_decides_over_the_means_of_drawn_buckets(tiny_config, tmp_path: Path):
    nine = {**FIVE, "cohort.hospitals": 9, "data.simulated.patients": 12, "federation.rounds": 2, **MASKS}
    settings = {**nine, "aggregation.secure.buckets": 3, "aggregation.rule": "median"}
    result = run(tiny_config(**settings), tmp_path / "run")
    report = audit(tmp_path / "run")
    assert (report.findings, report.verdict) == ([], Verdict.CLEAN)
    drawn = [json.loads(row)["members"] for row in said(tmp_path / "run", 1)]
    assert sorted(len(members) for members in drawn) == [3, 3, 3]
    assert sorted(sum(drawn, [])) == list(range(9))
    other = [json.loads(row)["members"] for row in said(tmp_path / "run", 2)]
    assert other != drawn
    assert result.model_hash != run(tiny_config(**{**nine, "ledger.backend": "embedded"}), tmp_path / "mean").model_hash


@pytest.mark.long
def test_the_pool_changes_no_bit(tiny_config, tmp_path: Path, ray2):
    settings = {**FIVE, **MASKS, "federation.rounds": 2}
    here = run(tiny_config(**settings), tmp_path / "one")
    threads = run(tiny_config(**settings, **{"execution.pool": "threads", "execution.cpus": 3}), tmp_path / "threads")
    actors = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    there = run(tiny_config(**settings, **actors), tmp_path / "ray")
    plain = run(tiny_config(**{**settings, "aggregation.secure.method": "none"}), tmp_path / "plain")
    assert {here.model_hash, threads.model_hash, there.model_hash} == {plain.model_hash}
    assert here.ledger.head == threads.ledger.head == there.ledger.head


class Killing:
    """A pool of actors of which the first is killed before step after step of masked sums, one in each round."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def secure(self, step: str, groups: Any, notice: Any, ids: Sequence[int]) -> list[Any]:
        if step == STEPS[notice.headers[-1].round % len(STEPS)]:
            os.kill(self._pool.processes()[0], signal.SIGKILL)
        return self._pool.secure(step, groups, notice, ids)


@pytest.mark.long
def test_a_host_that_dies_between_training_and_masking_repeats_its_training(tiny_config, tmp_path: Path, ray2):
    """What is lost with it only hospitals have had: their updates. A private state would show a step too much or too few."""
    private = {"privacy.method": "dp-sgd", "privacy.noise": 1.0, "privacy.steps": 2}
    settings = {**FIVE, **MASKS, **private, "federation.rounds": 5, "federation.min_hospitals": 4}
    here = run(tiny_config(**settings), tmp_path / "here")
    actors = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 3}
    killing = Place(pool=lambda hospitals, task: Killing(build_pool(hospitals, task)))  # type: ignore[arg-type, return-value]
    there = run(tiny_config(**settings, **actors), tmp_path / "there", killing)
    assert [len(row.lost) for row in there.rounds] == [0] * 5
    assert (there.model_hash, there.ledger.head) == (here.model_hash, here.ledger.head)
    assert numbers(there, tmp_path / "there") == numbers(here, tmp_path / "here")


def said(folder: Path, number: int) -> list[str]:
    with sqlite3.connect(folder / "ledger" / "journal.sqlite") as journal:
        rows = journal.execute("SELECT said FROM maskings WHERE round = ? ORDER BY bucket", (number,)).fetchall()
    return [text for (text,) in rows]


def test_no_update_leaves_its_hospital(original: Path, tiny_config, tmp_path: Path):
    """What is archived of round 1 is neither what a run without masks archives, nor near it."""
    settings = {**FIVE, "federation.min_hospitals": 4, "federation.rounds": 3}
    run(tiny_config(**settings), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "ledger" / "updates" / "00001.safetensors")
    hidden = load_file(original / "ledger" / "updates" / "00001.safetensors")
    assert plain.keys() == hidden.keys()
    for name, vector in hidden.items():
        assert len(vector) == len(plain[name]) + 1
        assert np.median(np.abs(vector.astype(float))) > 2.0**60
    journal = (original / "ledger" / "journal.sqlite").read_bytes()
    assert not any(vector.tobytes()[:64] in journal for vector in plain.values())


def test_the_vault_of_a_hospital_is_its_own(original: Path):
    files = sorted((original / "secure").iterdir())
    assert [file.name for file in files] == [f"{slot:04d}.json" for slot in range(5)]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
    assert json.loads(files[0].read_text()) == {"signed": [3, [0, 1, 2, 3, 4]]}


# --- Refusals at load -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two hospitals": ({"cohort.hospitals": 2}, "needs at least 3 hospitals in a round, not 2"),
    "a crowd": ({"cohort.hospitals": 65}, r"at most 64 hospitals, not 65: .* allowed: aggregation.secure.buckets from 2 on"),
    "few are asked": ({"federation.participation": 0.4}, "needs at least 3 hospitals in a round, not 2"),
    "small buckets": ({"aggregation.secure.buckets": 2}, "at least 3 hospitals in a round in each of 2 buckets, not 5"),
    "a low threshold": ({"aggregation.secure.threshold": 3}, r"threshold is 3; allowed: auto, or 4 .* to 5"),
    "a high threshold": ({"aggregation.secure.threshold": 6}, "threshold is 6"),
    "a sum of two": ({"aggregation.secure.min_summands": 2}, "min_summands is 2"),
    "a robust rule": ({"aggregation.rule": "median"}, "median needs the single updates; allowed with masks: mean, or"),
    "a committee": ({"committee.method": "others"}, "committee.method others judges single updates"),
    "peers": ({"ledger.reputation": "peers"}, "ledger.reputation peers follows from scores of single updates"),
    "compression": ({"update.compression": "int8"}, "update.compression int8 saves nothing"),
    "a clock": ({"clock.fleet": "equal"}, "clock.fleet equal knows no time"),
    "attackers that see all": ({"attack.method": "alie"}, "attack.method alie sees the updates of others"),
    "no ledger": ({"ledger.backend": "none"}, "needs a ledger, whose keys hospitals know each other by"),
    "nothing to add": ({"federation.algorithm": "local"}, "with federation.algorithm local no updates are added up"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_with_masks_is_refused_by_name(what: str, tiny_config):
    changes, says = REFUSED[what]
    with pytest.raises(ConfigError, match=says):
        tiny_config(**{**FIVE, **MASKS, **changes})


def test_readers_are_told_what_is_hidden_what_is_not_and_what_it_weighs(original: Path, capsys):
    result = Result.read(original)
    [row] = [outcome_of([result])]
    says = "masks hide the update of each hospital; visible are the sum of each round"
    assert row.hidden.startswith(says)
    took = sum(one.participants for one in result.rounds)
    assert took == 14
    models = 4 * result.parameters * (took + 5)
    assert row.exchanged == models + 8 * (result.parameters + 1) * took
    assert main(["plan", "ready:secure"]) == 0
    assert says in capsys.readouterr().out


def test_a_privacy_budget_goes_with_masks(tiny_config, tmp_path: Path):
    private = {"privacy.method": "dp-sgd", "privacy.noise": 1.0, "privacy.steps": 2, "federation.rounds": 2}
    hidden = run(tiny_config(**FIVE, **MASKS, **private), tmp_path / "masked")
    plain = run(tiny_config(**FIVE, **private), tmp_path / "plain")
    assert hidden.model_hash == plain.model_hash
    assert hidden.privacy == plain.privacy
    assert audit(tmp_path / "masked", OFFLINE).findings == []


# --- What the audit finds ---------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]


def _flip(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def _at(values: Any, *path: Any) -> Change:
    """Changes the last hex digit of what stands at a path."""

    def flip(found: dict[str, Any]) -> None:
        inner: Any = found
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = _flip(inner[path[-1]])

    return flip


CHANGES: dict[str, tuple[Change, tuple[str, str]]] = {
    "a channel key": (_at(0, "keys", 0, 1), ("masks", "keys")),
    "a mask key": (_at(0, "keys", 0, 2), ("masks", "keys")),
    "the mask key of one that was lost": (_at(0, "keys", 3, 2), ("masks", "pair")),
    "a seal": (_at(0, "keys", 0, 3), ("masks", "seal")),
    "a commitment": (_at(0, "keys", 0, 4), ("masks", "commitment")),
    "a signature over keys": (_at(0, "keys", 0, 5), ("masks", "keys")),
    "hashes of shares": (_at(0, "dealt", 1, 1), ("masks", "dealt")),
    "a signature over shares": (_at(0, "dealt", 1, 2), ("masks", "dealt")),
    "the hash of a masked update": (_at(0, "masked", 0, 1), ("archive", "update")),
    "a signature over a masked update": (_at(0, "masked", 0, 2), ("masks", "masked")),
    "a signature over the set": (_at(0, "agreed", 0, 1), ("masks", "agreed")),
    "a share of a seed": (_at(0, "revealed", 0, 1), ("masks", "revealed")),
    "a share of a mask key": (_at(0, "revealed", 0, 2), ("masks", "revealed")),
    "a missing signature over the set": (lambda said: [said["agreed"].pop() for _ in range(1)], ("masks", "revealed")),
    "too few signatures over the set": (lambda said: said.update(agreed=said["agreed"][:3]), ("masks", "agreed")),
    "too few shares": (lambda said: said.update(revealed=said["revealed"][:3]), ("masks", "revealed")),
    "the threshold": (lambda said: said.update(threshold=3), ("masks", "threshold")),
    "members": (lambda said: said.update(members=said["members"][:4]), ("masks", "keys")),
    "a stranger": (lambda said: said["agreed"].append([9, said["agreed"][0][1]]), ("masks", "agreed")),
    "a row twice": (lambda said: said["agreed"].append(said["agreed"][0]), ("masks", "said")),
    "words": (lambda said: said.update(more=1), ("masks", "said")),
    "a smaller set": (lambda said: said.update(masked=said["masked"][:3]), ("masks", "said")),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_was_said_is_found_and_named(folder: Path, what: str):
    alter, named = CHANGES[what]
    found = json.loads(said(folder, 2)[0])
    alter(found)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    change(folder, "UPDATE maskings SET said = ? WHERE round = 2", arguments=(text,))
    report = audit(folder, [check.check, vectors.check])
    assert named in names(report), sorted(names(report))
    assert ("annex", "masks") in names(report)
    assert {f.round for f in report.findings} <= {2, None}
    assert all("\n" not in line for line in report.lines())


@pytest.mark.parametrize("statement", [
    "DELETE FROM maskings WHERE round = 2",
    "UPDATE maskings SET round = 9 WHERE round = 2",
    "UPDATE maskings SET bucket = 1 WHERE round = 2",
    "INSERT INTO maskings SELECT * FROM maskings WHERE round = 2",
    "UPDATE maskings SET said = '[' WHERE round = 2",
])  # fmt: skip
def test_a_change_of_the_rows_of_masked_sums_is_found(folder: Path, statement: str):
    change(folder, statement)
    assert "masks" in {record for record, _ in names(audit(folder, OFFLINE))}


@pytest.mark.parametrize("kind", ["flipped", "float32", "shorter", "gone"])
def test_a_masked_update_that_was_altered_is_named_with_its_hospital(folder: Path, kind: str):
    path = folder / "ledger" / "updates" / "00002.safetensors"
    tensors = load_file(path)
    name = "slot-0001"
    other = {
        "flipped": tensors[name] ^ (np.arange(len(tensors[name])) == 5),
        "float32": tensors[name].astype(np.float32),
        "shorter": tensors[name][:-1],
    }
    save_file(
        {**tensors, name: other[kind]} if kind in other else {k: v for k, v in tensors.items() if k != name}, path
    )
    write_bundle(
        folder / "ledger", json.loads((folder / "result.json").read_text()), (folder / "config.yaml").read_text()
    )
    found = audit(folder, [check.check, vectors.check]).findings
    assert {(f.round, f.hospital, f.record, f.field) for f in found} == {(2, 1, "archive", "update")}
