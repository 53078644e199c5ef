"""Synthetic beats in a run: who gets how many and why, what they leave in its folder, and what an interruption leaves."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from governed import ID, OPEN, SMOTE, After, Flow, beats_of, plain, waiting
from reference import Interrupted, numbers
from simulators import rule_of

from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.encoding import json_hash
from engine.errors import HospitalError, ReviewPending, Stopped, SynthesisError
from engine.experiment import Place, run
from engine.ledger.config import LedgerConfig
from engine.ledger.format import DECISIONS
from engine.ledger.run import RunLedger, reopened
from engine.ledger.signing import address, hospital_key
from engine.ledger.store import read_only
from engine.ledger.subjects.policy import Books
from engine.oracles.base import Batch
from engine.result import Result
from engine.synthesis.files import FOLDER, hospital_file, load_synthetic, provenance_file
from engine.synthesis.generators import Synthetic, generate
from engine.synthesis.reviews import read_state, undecided, write_review
from engine.synthesis.timegan import interpreter
from engine.synthesis.workshop import Generate, Workshop
from engine.tracked import Shown, track
from engine.tracking.curves import final_metrics
from engine.tracking.tracker import Tracker

SEALED = (
    "rounds 1 to 2 are sealed, not final: disputes are possible for 3600 s after the last seal, and until "
    "`pulseledger ledger finalize`"
)

# --- A run ------------------------------------------------------------------------------------------------------------


def test_every_request_ends_with_its_reason(done: tuple[Path, Result]):
    folder, result = done
    rows = {(row.hospital, row.class_): row for row in result.synthesis}
    counts = {h.id: h.classes for h in result.cohort.hospitals}
    assert len(rows) == len(result.synthesis) == 5
    assert counts[1]["S"] == 1 or rows[1, "S"].real_floor == 1
    assert rows[1, "S"].status == "denied"  # one real beat and SMOTE
    assert rows[1, "S"].reasons == "there are too few real beats for this generator"
    for row in rows.values():
        assert "real" not in row.document()
        if row.status == "denied":
            assert (row.granted, row.accepted, row.batch, row.file) == (0, 0, None, None)
            continue
        assert row.status == "accepted"
        assert row.granted == row.accepted == min(row.wanted, 5 * row.real_floor) > 0
        evidence = json.loads((folder / row.file).read_text())
        assert json_hash(evidence).hex() == row.evidence
        assert evidence["synthetic"] == row.accepted
        assert evidence["privacy"]["near"] == row.numbers["duplicates"]
        assert (folder / row.file).with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert {row.status for row in rows.values()} == {"denied", "accepted"}
    assert read_state(folder).settled
    assert read_state(folder).requests == result.synthesis  # one row for both
    assert undecided(folder) == 0


def test_only_accepted_beats_are_there_and_each_has_its_provenance(done: tuple[Path, Result]):
    folder, result = done
    rows = [row for row in result.synthesis if row.accepted]
    beats = [beat for h in (0, 1) for beat in pq.read_table(provenance_file(folder / FOLDER, h)).to_pylist()]
    assert len(beats) == sum(row.accepted for row in rows)
    for row in rows:
        mine = [beat for beat in beats if beat["request"] == row.request]
        assert {(beat["hospital"], beat["class"], beat["generator"]) for beat in mine} == {
            (row.hospital, row.class_, "smote")
        }
        assert [beat["index"] for beat in mine] == list(range(row.accepted))
    for hospital in {row.hospital for row in rows}:
        found = load_synthetic(hospital_file(folder / FOLDER, hospital))
        assert len(found.y) == sum(row.accepted for row in rows if row.hospital == hospital)


def test_the_ledger_shows_every_step_and_the_audit_is_clean(done: tuple[Path, Result]):
    folder, result = done
    found = audit(folder)
    assert (found.verdict, found.findings) == (Verdict.CLEAN, [])
    assert found.notes == [SEALED]
    accepted = sum(row.status == "accepted" for row in result.synthesis)
    assert found.counts["governance"] == 1 + 5 + accepted  # policy, requests, reports
    assert found.counts["evidence"] == found.counts["batches"] == accepted == 3


def test_the_annexes_of_all_rounds_name_the_decisions(done: tuple[Path, Result], tmp_path: Path):
    folder, books = shutil.copytree(done[0], tmp_path / "run"), Books()
    with read_only(folder / "ledger/journal.sqlite") as journal:
        sealed = {row[0] for row in journal.execute("SELECT digest FROM annexes WHERE name = ?", (DECISIONS,))}
    with reopened(folder / "ledger", LedgerConfig()) as ledger:
        for step in ledger.synthetic.steps():
            books.take(step, ledger.synthetic.domain)
    assert sealed == {books.decisions}
    assert any(books.decisions)


def test_another_seed_gives_other_beats_and_the_balance_seed_keeps_them(
    done: tuple[Path, Result], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    for name, keys in (("other", {"seed": 1}), ("kept", {"seed": 1, "balance.seed": 0})):
        config = tiny_config(**SMOTE, **keys)
        Flow(config, build_cohort(config.data, config.cohort))(tmp_path / name)
        assert beats_of(tmp_path / name).keys() == beats_of(done[0]).keys()
        assert (beats_of(tmp_path / name) == beats_of(done[0])) == (name == "kept")


def workshops(monkeypatch: pytest.MonkeyPatch, generate: Generate) -> None:
    """Hospitals whose generator is another one. They build their own workshop, so there is nothing to pass it to."""
    monkeypatch.setattr("engine.hospital.Workshop", partial(Workshop, generate=generate))


@pytest.mark.long  # classifiers are trained on each request; that near copies are told is shown by the quality alone
def test_near_copies_are_rejected_at_quality_and_do_not_train(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def copies(method: str, real: Batch, label: int, wanted: int, *rest: Any) -> Synthetic:
        """One heartbeat plus noise, as the original study made them."""
        made = generate(method, real, label, wanted, *rest)
        first = np.flatnonzero(real.y == label)[0]
        noise = np.random.default_rng(0).normal(0, 1e-3 * real.x[first].std(), made.x.shape)
        return replace(made, x=(real.x[first] + noise).astype(np.float32), rr=np.repeat(real.rr[[first]], wanted, 0))

    with monkeypatch.context() as patch:
        workshops(patch, copies)
        # one class, as measuring takes seconds for each request
        keys = {**SMOTE, "balance.classes": "V", "federation.rounds": 1}
        result = run(tiny_config(**keys), tmp_path / "copies")
    statuses = [row.status for row in result.synthesis]
    assert statuses.count("rejected") == 2
    assert statuses.count("accepted") == 0
    for row in result.synthesis:
        if row.status == "rejected":
            assert row.reasons.startswith("the beats lie too close to single real ones; there are too many copies")
            assert row.numbers["duplicates"] == row.granted > 0
            assert (row.accepted, row.numbers["nndr_bp"] < 500) == (0, True)
    assert beats_of(tmp_path / "copies") == {}
    assert result.model_hash == run(tiny_config(**{"federation.rounds": 1}), tmp_path / "plain").model_hash
    assert audit(tmp_path / "copies").clean


def test_a_generator_that_fails_leaves_a_rejected_request_and_uses_quota_up(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def fail(*args: Any) -> Synthetic:
        raise SynthesisError("timegan failed: out of memory.")

    workshops(monkeypatch, fail)
    result = run(tiny_config(**SMOTE, **{"federation.rounds": 1}), tmp_path)
    row = next(row for row in result.synthesis if row.status == "rejected")
    assert row.reasons == "timegan failed: out of memory."
    assert (row.granted > 0, row.accepted, row.batch) == (True, 0, "00" * 32)
    assert audit(tmp_path).clean


def test_a_run_can_be_stopped_while_beats_are_made(
    done: tuple[Path, Result], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    said: list[str] = []
    with pytest.raises(Stopped, match="stopped while synthetic beats were made"):
        run(tiny_config(**SMOTE), tmp_path, Place(note=said.append, stopping=lambda: any("class" in s for s in said)))
    assert "class" in said[-1]
    result = run(tiny_config(**SMOTE), tmp_path)
    assert result.model_hash == done[1].model_hash
    assert plain(result.synthesis) == plain(done[1].synthesis)
    assert audit(tmp_path).clean


@pytest.mark.long
def test_a_federation_with_the_real_timegan(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From requests to training: one generator for all repeats, the same numbers without a ledger and after a loss."""
    try:
        interpreter()
    except SynthesisError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    keys = {
        "balance.method": "timegan",
        "balance.classes": "V",
        "balance.seed": 3,
        **OPEN,
        "balance.timegan": {"patch": 63, "hidden": 4, "steps": 3, "batch_size": 8, "minimum": 20},
        "balance.policy.min_real": {"timegan": 20},
        "data.simulated.minutes": 3.0,
        "cohort.hospitals": 2,
        "ledger.backend": "embedded",
    }

    def trained() -> set[str]:
        """Generators that the cache holds, beside what was drawn from each."""
        return {path.stem[:64] for path in (tmp_path / "cache/timegan").glob("*.npz")}

    config = tiny_config(**keys)
    result = run(config, tmp_path / "one")
    made = [row for row in result.synthesis if row.status == "accepted"]
    assert made
    for row in made:
        assert row.accepted == row.granted <= row.wanted
        beats = load_synthetic(hospital_file(tmp_path / "one" / FOLDER, row.hospital))
        assert beats.x.shape == (row.accepted, 1, 252)
        assert np.isfinite(beats.x).all()
    for row in result.synthesis:
        assert row.status == "accepted" or row.real_floor < 20
    assert audit(tmp_path / "one").clean
    generators = trained()
    assert len(generators) == len(made)
    # the next repeat has other weights and batches, but the same beats, and no generator is trained again
    again = run(tiny_config(**keys, seed=1), tmp_path / "two")
    assert trained() == generators
    assert [row.batch for row in again.synthesis] == [row.batch for row in result.synthesis]
    assert again.model_hash != result.model_hash
    without = run(tiny_config(**keys | {"ledger.backend": "none"}), tmp_path / "without")
    assert without.model_hash == result.model_hash
    assert "tensorflow" not in sys.modules


def test_a_smaller_grant_is_what_is_made(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    keys = {"balance.policy.quota": 7, "balance.policy.classes": "V", "federation.rounds": 1, "ledger.backend": "none"}
    result = run(tiny_config(**{**SMOTE, **OPEN, **keys}), tmp_path)  # of seven beats little can be measured
    for row in result.synthesis:
        if row.class_ == "S":
            assert row.reasons.startswith("the class is not allowed")
        else:
            assert row.granted == row.accepted == (7 if row.real_floor >= 6 else 0) < row.wanted


def test_beats_that_were_changed_or_lost_are_made_again(
    done: tuple[Path, Result], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    folder = shutil.copytree(done[0], tmp_path / "run")
    before = beats_of(folder)
    for name in ("result.json", "ledger/bundle.plb"):
        (folder / name).unlink()
    names = sorted(before)
    (folder / FOLDER / names[0]).unlink()
    (folder / FOLDER / names[1]).write_bytes(b"PK")
    found = run(tiny_config(**SMOTE), folder)
    assert beats_of(folder) == before
    assert found.synthesis == done[1].synthesis
    assert numbers(found, folder) == numbers(done[1], done[0])
    assert audit(folder).clean


# --- What the audit finds ---------------------------------------------------------------------------------------------


def damage_evidence(folder: Path, row: dict[str, Any]) -> None:
    path = folder / row["file"]
    path.write_text(path.read_text().replace('"synthetic": ', '"synthetic": 1'))


def damage_batch(folder: Path, row: dict[str, Any]) -> None:
    path = hospital_file(folder / FOLDER, row["hospital"])
    beats = load_synthetic(path)
    beats.x[0, 0] += 1
    np.savez(path, x=beats.x, rr=beats.rr, y=beats.y)


def lose_beats(folder: Path, row: dict[str, Any]) -> None:
    path = hospital_file(folder / FOLDER, row["hospital"])
    beats = load_synthetic(path)
    np.savez(path, x=beats.x[:-1], rr=beats.rr[:-1], y=beats.y[:-1])


def change_result(folder: Path, row: dict[str, Any]) -> None:
    result = json.loads((folder / "result.json").read_text())
    next(r for r in result["synthesis"] if r["request"] == row["request"])["accepted"] += 1
    (folder / "result.json").write_text(json.dumps(result))


def add_row(folder: Path, row: dict[str, Any]) -> None:
    result = json.loads((folder / "result.json").read_text())
    result["synthesis"].append({**row, "request": "ab" * 32, "hospital": None})
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("damage", "places"),
    [
        (damage_evidence, {("synthetic", "evidence")}),
        (damage_batch, {("synthetic", "batch")}),
        (lose_beats, {("synthetic", "batch")}),
        (lambda f, r: hospital_file(f / FOLDER, r["hospital"]).write_bytes(b"no"), {("synthetic", "batch")}),
        (lambda f, r: (f / r["file"]).write_text("[" * 5000), {("synthetic", "evidence")}),
        (change_result, {("result", "synthesis"), ("result", "digest")}),  # the closing binds result.json as a whole
        (add_row, {("result", "synthesis"), ("result", "digest")}),
    ],
)
def test_changed_files_are_named(
    done: tuple[Path, Result],
    tmp_path: Path,
    damage: Callable[[Path, dict[str, Any]], Any],
    places: set[tuple[str, str]],
):
    folder = shutil.copytree(done[0], tmp_path / "run")
    row = next(row.document() for row in done[1].synthesis or () if row.accepted)
    damage(folder, row)
    findings = audit(folder).findings
    assert {(f.record, f.field) for f in findings} == places
    assert {f.hospital for f in findings} <= {row["hospital"], None}


def test_missing_files_are_noted(done: tuple[Path, Result], tmp_path: Path):
    folder = shutil.copytree(done[0], tmp_path / "run")
    shutil.rmtree(folder / FOLDER)
    found = audit(folder)
    assert (found.verdict, found.findings) == (Verdict.NOT_VERIFIED, [])
    assert "3 reports on the quality of synthetic beats are not in the folder" in found.unchecked


# --- MLflow -----------------------------------------------------------------------------------------------------------


def test_what_mlflow_is_told(done: tuple[Path, Result], tiny_config: Callable[..., RunConfig]):
    folder, result = done
    assert final_metrics(result)["synthesis/denied"] == 2

    class Told:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def submit(self, *call: Any) -> "Told":
            self.calls.append(call)
            return self

        def result(self) -> None:
            return None

        def done(self) -> bool:
            return True

    told = Told()
    for _ in track(tiny_config(**SMOTE), folder, Place(), told, Shown("key", "name", {})):  # type: ignore[arg-type]
        pass
    (artifacts,) = (call[2] for call in told.calls if call[0] is Tracker.artifacts)
    files = {Path(path).name for path in artifacts}
    for row in result.synthesis:
        if row.file is not None:
            assert {Path(row.file).name, Path(row.file).with_suffix(".png").name} <= files


# --- Interruptions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def flow(tiny_config: Callable[..., RunConfig]) -> Flow:
    config = tiny_config(**{**SMOTE, "balance.classes": "V"})
    return Flow(config, build_cohort(config.data, config.cohort))


@pytest.mark.parametrize(
    ("moment", "points"),
    [
        ("take", 6),  # the ledger has taken policy, three requests, two reports
        ("make", 2),  # beats are made and measured, nobody knows of them
        *(pytest.param(*moment, marks=pytest.mark.long) for moment in (("ask", 3), ("note", 3), ("keep", 3))),
    ],
)
def test_a_run_that_is_killed_between_any_two_steps_repeats_and_loses_nothing(
    flow: Flow, tmp_path: Path, moment: str, points: int
):
    wanted = flow(tmp_path / "undisturbed")
    beats = beats_of(tmp_path / "undisturbed")
    assert wanted.transactions == 3 + 1 + 1 + 3 + 2  # ledger, its second contract, policy, requests, reports
    killed, done = 0, False
    while not done:
        folder = tmp_path / str(killed)
        try:
            flow(folder, moments={moment: After(1 + killed)})
            done = True
        except Interrupted:
            killed += 1
        assert flow(folder) == wanted  # of the last one: all is settled, nothing is made or sent again
        assert beats_of(folder) == beats
    assert killed == points


def test_beats_that_do_not_come_out_as_reported_stop_the_run(flow: Flow, tmp_path: Path):
    def other(*args: Any) -> Synthetic:
        made = generate(*args)
        return replace(made, x=made.x + 1)

    flow(tmp_path)
    hospital_file(tmp_path / FOLDER, 0).unlink()
    with pytest.raises(HospitalError, match=r"^hospital 0, round 0, keep: class V: the beats made now are not those"):
        flow(tmp_path, flow.hospitals(tmp_path, generate=other))
    assert not hospital_file(tmp_path / FOLDER, 0).exists()


def test_a_request_whose_time_has_passed_expires(flow: Flow, tmp_path: Path):
    """On the embedded chain each transaction takes a second. A decision that comes too late is not taken."""
    policy = flow.config.balance.policy.model_copy(update={"mode": "human", "preview": 0, "expiry_seconds": 5})
    balance = flow.config.balance.model_copy(update={"policy": policy})
    flow.config = flow.config.model_copy(update={"balance": balance})
    with pytest.raises(ReviewPending):
        flow(tmp_path)
    for row in waiting(tmp_path):
        write_review(tmp_path, row, True, 1, "late")
    with RunLedger(tmp_path / "ledger", flow.federation, rule_of("samples"), flow.config.ledger) as ledger:
        for i in range(5):
            ledger.rounds.grant("AUDITOR_ROLE", address(hospital_key(i, ID, 5)))
    assert [row.status for row in flow(tmp_path).rows] == ["expired", "expired", "denied"]
    assert beats_of(tmp_path) == {}
    report = audit(tmp_path)  # nothing was ever trained
    assert report.findings == []
    assert "archive" in " ".join(report.unchecked)
