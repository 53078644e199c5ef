"""Drawn hospitals compute a round again before they sign on: a coordinator that aggregates something else is stopped."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_utils import keccak
from reference import numbers
from simulators import DOMAIN, LAYOUT, Run, reference_leaf, reference_root

from engine.audit import vectors
from engine.audit.run import audit
from engine.config import RunConfig, config_hash
from engine.data.cohort import HospitalData
from engine.errors import HospitalError, LedgerError, Stopped
from engine.experiment import HERE, Place, join
from engine.experiment import run as run_experiment
from engine.hospital import Task
from engine.ledger import archive
from engine.ledger.format import RUN, vectors_name
from engine.ledger.recount import Shown, drawn, packed, remembered, weighed
from engine.ledger.signer import Notice
from engine.ledger.subjects.updates import Header, head_of
from engine.messages import Asked, LoopState, State, Taken, Trained, Verdicts
from engine.model import vector_hash
from engine.pools.local import InProcessPool
from engine.rounds import run_rounds

EMBEDDED = {"ledger.backend": "embedded", "federation.rounds": 4}

# --- Who is drawn -----------------------------------------------------------------------------------------------------


def test_the_draw_is_the_first_slots_by_a_hash_of_head_and_slot():
    head = bytes(range(32))
    ranks = {keccak(b"PulseLedger check 1" + head + slot.to_bytes(4, "big")): slot for slot in range(7)}
    assert drawn(head, 7, 3) == {ranks[rank] for rank in sorted(ranks)[:3]}
    assert drawn(head, 7, 0) == set()
    assert drawn(head, 7, 9) == set(range(7))


def test_every_hospital_is_drawn_equally_often():
    heads = [keccak(number.to_bytes(4, "big")) for number in range(3000)]
    counts = np.bincount([slot for head in heads for slot in drawn(head, 5, 1)], minlength=5)
    assert counts.sum() == 3000
    # Four standard deviations of a fair draw, which is 22.
    assert np.abs(counts - 600).max() < 88


# --- What is shown ----------------------------------------------------------------------------------------------------


class Scene:
    """An honest round of three hospitals, as it is shown to one that is drawn."""

    def __init__(self, folder: Path) -> None:
        self.run, self.domain = Run(folder), DOMAIN
        entry = self.run.entry(1, self.domain)
        self.updates, self.openings = list(entry.updates), list(entry.openings)
        root = reference_root([reference_leaf(one, self.domain) for one in self.updates])
        self.header = Header(1, b"\x01" * 32, root, self.run.model(0), self.run.model(1), 3, bytes(32))
        archive.write_round(folder, 1, self.run.vectors(1))
        self.folder = folder
        self.holders = [(one,) for one in self.run.federation.hospitals]

    def look(self, **changes: Any) -> list[Any]:
        content = packed(self.updates, self.openings)
        shown = Shown(1, self.run.params(0), self.folder / vectors_name(1), content)
        return weighed(
            replace(shown, **changes),
            self.header,
            self.domain,
            self.holders,
            LAYOUT,
            lambda _, vector: vector_hash(vector, LAYOUT),
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_an_honest_round_is_what_the_hospitals_sent(scene: Scene):
    found = scene.look()
    assert [(one.slot, one.samples) for one in found] == [(slot, scene.run.samples(slot)) for slot in range(3)]
    for one in found:
        np.testing.assert_array_equal(one.vector, scene.run.vectors(1)[one.slot])


def other_vector(scene: Scene) -> dict[str, Any]:
    vectors = scene.run.vectors(1)
    archive.write_round(scene.folder, 1, vectors | {1: vectors[1] + 1})
    return {}


def left_out(scene: Scene) -> dict[str, Any]:
    del scene.updates[2], scene.openings[2]
    return {}


def twice(scene: Scene) -> dict[str, Any]:
    scene.updates.append(scene.updates[2])
    scene.openings.append(scene.openings[2])
    return {}


def of_another(scene: Scene) -> dict[str, Any]:
    scene.holders[1] = ("0x" + "01" * 20,)
    return {}


def other_weight(scene: Scene) -> dict[str, Any]:
    scene.openings[0] = replace(scene.openings[0], samples=101)
    return {}


LIES: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "hospital 1: the vector that is shown is not the one that it signed": other_vector,
    "the updates that are shown are not those under the head": left_out,
    "hospital 2: it has no place in the round": twice,
    "hospital 1: the update that is shown is not signed by it": of_another,
    "hospital 0: the weight that is shown is not the one that it committed to": other_weight,
    "starts from another model": lambda scene: {"before": scene.run.params(1)},
    "the updates that are shown are damaged": lambda scene: {"updates": b"[[1, 2]]"},
    "cannot be read by a hospital .* ledger.checks: 0": lambda scene: {"vectors": scene.folder / "absent"},
}


@pytest.mark.parametrize("sentence", LIES)
def test_a_drawn_hospital_takes_nothing_but_what_was_signed(scene: Scene, sentence: str):
    changes = LIES[sentence](scene)
    with pytest.raises(LedgerError, match=sentence):
        scene.look(**changes)


# --- In a run ---------------------------------------------------------------------------------------------------------


def cheated(config: RunConfig, folder: Path, round: int) -> HospitalError:
    """What ends a run whose coordinator moves the model of one round by a little more than the updates say."""
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), folder, HERE, stack)
        honest = joined.parts.rule.direction

        def direction(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray | None:
            found = honest(state, taken, verdicts)
            assert found is not None
            return found + 1e-6 if state.round + 1 == round else found

        parts = replace(joined.parts, rule=replace(joined.parts.rule, direction=direction))
        with pytest.raises(HospitalError) as refused:
            run_rounds(state, parts)
    return refused.value


@pytest.mark.parametrize("pool", ["inprocess", "threads", "ray"])
def test_a_coordinator_that_cheats_in_the_aggregate_is_stopped_in_the_next_round(
    pool: str, tiny_config: Callable[..., RunConfig], tmp_path: Path, request: pytest.FixtureRequest
):
    if pool == "ray":
        request.getfixturevalue("ray2")
    error = cheated(tiny_config(**EMBEDDED, **{"execution.pool": pool}), tmp_path, round=2)
    assert (error.round, error.stage) == (3, "ledger")
    assert "the updates of round 2 give model" in error.cause


ON_EVERY_DEVICE = {**EMBEDDED, "ledger.checks": 3}  # of three hospitals


def test_all_hospitals_aggregate_on_their_own_and_say_alike_that_the_coordinator_differs(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    error = cheated(tiny_config(**ON_EVERY_DEVICE), tmp_path, round=2)
    assert (error.round, error.stage) == (3, "ledger")
    assert "the updates of round 2 give model" in error.cause
    assert "(so say hospitals 0, 1 and 2)" in error.cause


class OneDiffers:
    """A pool whose hospital 1 aggregates on a device of its own, by the median."""

    def __init__(self, hospitals: Sequence[HospitalData], task: Task) -> None:
        rule = task.config.aggregation.model_copy(update={"rule": "median"})
        other = replace(task, config=task.config.model_copy(update={"aggregation": rule}))
        self.pool, self.device = InProcessPool(hospitals, task), InProcessPool(hospitals, other)

    def train(self, asked: Asked, notice: Notice | None) -> Trained:
        ours, one = (replace(asked, hospitals=ids) for ids in ((0, 2), (1,)))
        found = [*self.pool.train(ours, notice).answers, *self.device.train(one, notice).answers]
        return Trained(sorted(found, key=lambda answer: answer.hospital), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)


@pytest.mark.parametrize("least", [None, 2])
def test_a_hospital_whose_own_aggregate_differs_is_named_and_no_other(
    least: int | None, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    config, place = tiny_config(**ON_EVERY_DEVICE, **{"federation.min_hospitals": least}), Place(pool=OneDiffers)
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), tmp_path, place, stack)
        if least is None:
            with pytest.raises(HospitalError) as refused:
                run_rounds(state, joined.parts)
            assert (refused.value.hospital, refused.value.round, refused.value.stage) == (1, 2, "ledger")
            assert "the updates of round 1 give model" in refused.value.cause
            assert "so say" not in refused.value.cause
        else:  # the others, whose models are equal, go on
            told = [row.lost for row in run_rounds(state, joined.parts).history]
            assert not told[0]
            assert all(len(row) == 1 and row[0].startswith("hospital 1, round") for row in told[1:])
            assert "the updates of round 1 give model" in told[1][0]


@pytest.mark.parametrize("method", ["momentum", "adam", "yogi"])
def test_of_a_server_s_optimiser_the_model_and_what_it_remembers_are_computed_again(
    method: str, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    config = tiny_config(**EMBEDDED, **{"aggregation.server.method": method})
    for name in ("model", "memory"):
        (tmp_path / name).mkdir()
    error = cheated(config, tmp_path / "model", round=2)
    assert "the updates of round 2 give model" in error.cause
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), tmp_path / "memory", HERE, stack)
        honest, calls = joined.parts.rule.step, []

        def step(params: np.ndarray, direction: np.ndarray, server: State, round: int) -> tuple[np.ndarray, State]:
            calls.append(1)
            moved, kept = honest(params, direction, server, round)
            return moved, {"m": kept["m"] + 1e-9, **{n: kept[n] for n in kept if n != "m"}} if len(calls) == 2 else kept

        with pytest.raises(HospitalError, match="remembers something else after round 2 than follows") as refused:
            run_rounds(state, replace(joined.parts, rule=replace(joined.parts.rule, step=step)))
    assert (refused.value.round, refused.value.stage) == (3, "ledger")


def test_a_run_with_a_server_s_optimiser_is_checked_by_hospitals_and_audit(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    result = run_experiment(tiny_config(**EMBEDDED, **{"aggregation.server.method": "adam"}), tmp_path)
    assert result.ledger.checked == 4
    assert audit(tmp_path).findings == []
    with sqlite3.connect(tmp_path / "ledger" / RUN.file) as journal:
        journal.execute("UPDATE annexes SET digest = randomblob(32) WHERE name = 'server' AND round = 3")
    journal.close()
    found = {(f.round, f.record, f.field) for f in audit(tmp_path, [vectors.check]).findings}
    assert (3, "annex", "server") in found


LATER = {
    "the round before is not shown as its head commits to it": {"previous": None},
    "the digests of the round before are not those under its head": {"digests": ({"server": b"\x01" * 32}, {})},
    "remembered is not what the round before committed to": {"server": {"m": np.ones(3)}},
    "the digests that are shown are not those under the head": {"digests": ({}, {"server": b"\x01" * 32})},
}


@pytest.mark.parametrize("sentence", LATER)
def test_what_is_shown_of_the_round_before_must_be_what_its_head_commits_to(scene: Scene, sentence: str):
    federation, before = scene.run.federation.id, replace(scene.header, previous_head=b"\x02" * 32)
    before = replace(before, head=head_of(before, scene.domain, federation))
    header = replace(scene.header, round=2, previous_head=before.head)
    shown = Shown(2, scene.run.params(1), scene.folder / vectors_name(1), b"[]", previous=before)
    assert remembered(shown, header, scene.domain, federation) == bytes(32)
    with pytest.raises(LedgerError, match=sentence):
        remembered(replace(shown, **LATER[sentence]), header, scene.domain, federation)


def test_without_checks_only_the_audit_finds_it(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    with pytest.raises(pytest.fail.Exception):
        cheated(tiny_config(**EMBEDDED, **{"ledger.checks": 0}), tmp_path, round=2)


def test_checks_change_no_number_and_are_counted(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    found = {}
    for checks in (0, 1, 3):
        folder = tmp_path / str(checks)
        result = run_experiment(tiny_config(**EMBEDDED, **{"ledger.checks": checks}), folder)
        found[checks] = numbers(result, folder)
        assert result.ledger.checked == (4 if checks else 0)
        report = audit(folder)
        assert not report.findings
        told = [note for note in report.notes if "no hospital was asked to compute a round again" in note]
        assert len(told) == (0 if checks else 1)
    assert found[0] == found[1] == found[3]


def test_a_drawn_hospital_that_is_shown_nothing_does_not_sign(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    config = tiny_config(**EMBEDDED)
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), tmp_path, HERE, stack)
        ledger = joined.parts.ledger

        class Silent:
            def notice(self, asked: Asked) -> Any:
                return replace(ledger.notice(asked), shown=None)

            def __getattr__(self, name: str) -> Any:
                return getattr(ledger, name)

        with pytest.raises(HospitalError) as refused:
            run_rounds(state, replace(joined.parts, ledger=Silent()))
    assert (refused.value.round, refused.value.stage) == (2, "ledger")
    assert "is drawn to compute round 1 again, but is not shown its updates" in refused.value.cause


def test_a_round_before_an_interruption_is_computed_again_after_it(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    config, stops = tiny_config(**EMBEDDED), iter([False, True])
    with pytest.raises(Stopped):
        run_experiment(config, tmp_path, Place(stopping=lambda: next(stops)))
    with contextlib.ExitStack() as stack:
        joined, state = join(config, config_hash(config), tmp_path, HERE, stack)
        shown = joined.parts.ledger.notice(Asked(3, (0, 1, 2), state.params, b"")).shown
        assert shown.round == 2
        joined.parts.ledger.leave()
    result = run_experiment(config, tmp_path)
    assert result.ledger.checked == 4
    assert not audit(tmp_path).findings
