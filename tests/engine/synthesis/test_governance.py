"""Synthetic beats under a policy: who gets how many and why, by whom it is decided, and what an interruption leaves."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Heard, Interrupted, command, numbers, settled
from test_policy import HOSPITALS, ID, KEYS, POLICY, report, request

from engine.background import Background
from engine.config import RunConfig, config_hash
from engine.data.cohort import Cohort, build_cohort
from engine.encoding import json_hash
from engine.errors import ConfigError, DataError, LedgerError, ReviewPending, Stopped, SynthesisError
from engine.experiment import Place, run
from engine.ledger.audit import audit
from engine.ledger.chain import ContractRevert
from engine.ledger.keys import create_keystore, create_reviewer, read_key_file
from engine.ledger.ledger import Ledger
from engine.ledger.observer import LedgerObserver
from engine.ledger.policy import Books, Status, from_contract, policy_of, to_contract
from engine.ledger.records import Federation, SyntheticReview, digest, organisation
from engine.ledger.signing import address, hospital_key, reviewer_key, sign, sign_digest
from engine.result import Result, SyntheticRow
from engine.synthesis import governed, quality
from engine.synthesis.config import BALANCE_KEYS, PolicyConfig
from engine.synthesis.generators import load_synthetic
from engine.synthesis.governed import read_state, undecided, write_review
from engine.synthesis.prepare import batch_digest, hospital_file
from engine.synthesis.timegan import interpreter
from engine.tracked import track
from engine.tracking.curves import final_metrics
from engine.tracking.tracker import Tracker
from sweeps.__main__ import main
from sweeps.space import load_study
from sweeps.start import resume_study, start_study

SMOTE = {"balance.method": "smote", "balance.classes": "SV", "ledger.backend": "embedded"}
HUMAN = {**SMOTE, "balance.policy.mode": "human"}
HIDDEN = ("request", "file")  # what of a row depends on the chain


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recurrent classifier learns nothing in two steps, which is not what these tests are about."""
    monkeypatch.setitem(quality.GRU, "steps", 2)


@pytest.fixture(scope="module")
def done(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run with a ledger whose policy decides alone."""
    folder = tmp_path_factory.mktemp("governed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(quality.GRU, "steps", 2)
        return folder, run(tiny_config(**SMOTE), folder)


def plain(rows: Sequence[SyntheticRow] | None) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.document().items() if key not in HIDDEN} for row in rows or ()]


def beats_of(folder: Path) -> dict[str, bytes]:
    """Digest of each file of synthetic beats."""
    return {p.name: batch_digest(load_synthetic(p)) for p in sorted((folder / "synthetic").glob("*.npz"))}


# --- The policy -------------------------------------------------------------------------------------------------------


def test_the_settings_in_integers_by_hand():
    settings = PolicyConfig(
        mode="human", classes="SF", quota=7, ratio=1.5, share_cap=0.25, min_real={"smote": 4, "timegan": 50},
        max_auc=0.9, min_nndr=0.12, max_duplicates=3, min_utility=-0.015, expiry_seconds=3600,
    )  # fmt: skip
    policy = policy_of(settings)
    assert (policy.allowed_classes, policy.allowed_generators) == (0b1010, 0b100100)
    assert (policy.automatic, policy.quota, policy.ratio_bp, policy.share_cap_bp) == (False, 7, 15_000, 2_500)
    assert policy.min_real == (0, 0, 4, 0, 0, 50, 0, 0)
    assert (policy.max_auc_bp, policy.min_nndr_bp, policy.max_duplicates, policy.min_utility_bp) == (
        9_000,
        1_200,
        3,
        -150,
    )
    assert policy.expiry_seconds == 3600
    assert from_contract(json.loads(json.dumps(to_contract(policy)))) == policy


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("min_real", {"gan": 3}, "must map generators out of oversample, smote, borderline, adasyn, timegan"),
        ("share_cap", 1.5, "balance.policy.share_cap is 1.5"),
        ("classes", "SS", "different letters out of NSVFQ"),
        ("expiry_seconds", 10, "greater than or equal to 3600"),
        ("review", True, "balance.policy.review is not a known key"),
    ],
)
def test_wrong_policies_are_one_sentence(tiny_config: Callable[..., RunConfig], key: str, value: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        tiny_config(**{f"balance.policy.{key}": value})


def test_only_runs_with_synthetic_beats_have_the_policy_in_their_hash(tiny_config: Callable[..., RunConfig]):
    for method in BALANCE_KEYS:
        one, other = (tiny_config(**{"balance.method": method, "balance.policy.quota": q}) for q in (5, 6))
        assert (config_hash(one) != config_hash(other)) == (method in ("smote", "borderline", "adasyn", "timegan"))


steps = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(1, 3), st.integers(1, 60), st.sampled_from((2, 6, 20, 50)), st.integers(0, 3)
    ),
    max_size=30,
)


@given(steps, st.integers(0, 80), st.booleans())
def test_no_order_of_steps_grants_more_than_the_quota(moves: list[tuple[int, ...]], quota: int, automatic: bool):
    policy = replace(POLICY, quota=quota, automatic=automatic)
    books = Books([policy])
    for nonce, (slot, class_, quantity, floor, then) in enumerate(moves):
        id = nonce.to_bytes(32, "big")
        standing = books.request(
            id, request(slot=slot, class_=class_, quantity=quantity, real_floor=floor, nonce=nonce)
        )
        if standing.status == Status.PENDING:
            allowed, _ = books.allowance(standing)
            if allowed:
                books.review(id, SyntheticReview(id, True, allowed, bytes(32), 0), bytes(32))
        if standing.status == Status.APPROVED:
            assert 1 <= standing.granted <= min(quantity, 2 * floor, quota)
            if then == 1:
                books.report(id, report(id, standing.granted), bytes(32))
            elif then == 2:
                books.report(id, report(id, standing.granted, duplicates=99), bytes(32))
            elif then == 3:
                books.expire(id)
        for where, used in books.used.items():
            held = [s for s in books.requests.values() if (s.request.slot, s.request.class_) == where]
            assert used == sum(s.counted for s in held) <= quota


@pytest.mark.parametrize("seed", range(2))
def test_requests_from_many_sides_at_once_get_the_quota_and_no_more(tmp_path: Path, seed: int):
    hospitals = tuple(address(key) for key in KEYS)
    federation = Federation(ID, b"\x22" * 32, hospitals, b"\x33" * 32, (("w", (2,)),), "samples")
    ledger = Background(Ledger, tmp_path, federation, actor=False)
    domain, _ = ledger.submit(Ledger.governance).result()
    ledger.submit(Ledger.govern, "policy", to_contract(replace(POLICY, quota=45))).result()
    asked = [request(slot=s, quantity=20, real_floor=50, nonce=n) for s in range(HOSPITALS) for n in range(4)]
    asked = [asked[i] for i in np.random.default_rng(seed).permutation(len(asked))]

    def ask(one: Any) -> Any:
        return ledger.submit(Ledger.govern, "request", one, sign(one, domain, KEYS[one.slot])).result()

    with ThreadPoolExecutor(8) as many:
        done = list(many.map(ask, [*asked, *asked]))  # each twice: the second one changes nothing
    for first, again in zip(done[: len(asked)], done[len(asked) :], strict=True):
        assert first.transaction == again.transaction
    counted: dict[int, list[int]] = {slot: [] for slot in range(HOSPITALS)}
    for one, answer in zip(asked, done, strict=False):
        counted[one.slot].append(ledger.submit(Ledger.request_state, answer.id).result()["counted"])
    assert [sorted(amounts) for amounts in counted.values()] == [[0, 5, 20, 20]] * HOSPITALS
    ledger.close()


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
    assert read_state(folder)["settled"]
    assert undecided(folder) == 0


def test_only_accepted_beats_are_there_and_each_has_its_provenance(done: tuple[Path, Result]):
    folder, result = done
    rows = [row for row in result.synthesis if row.accepted]
    beats = pq.read_table(folder / "synthetic/provenance.parquet").to_pylist()
    assert len(beats) == sum(row.accepted for row in rows)
    for row in rows:
        mine = [beat for beat in beats if beat["request"] == row.request]
        assert {(beat["hospital"], beat["class"], beat["generator"]) for beat in mine} == {
            (row.hospital, row.class_, "smote")
        }
        assert [beat["index"] for beat in mine] == list(range(row.accepted))
    for hospital in {row.hospital for row in rows}:
        found = load_synthetic(hospital_file(folder / "synthetic", hospital))
        assert len(found.y) == sum(row.accepted for row in rows if row.hospital == hospital)


def test_the_ledger_shows_every_step_and_the_audit_is_clean(done: tuple[Path, Result]):
    folder, result = done
    found = audit(folder)
    assert (found.findings, found.notes) == ([], [])
    accepted = sum(row.status == "accepted" for row in result.synthesis)
    assert found.counts["governance"] == 1 + 5 + accepted  # policy, requests, reports
    assert found.counts["evidence"] == found.counts["batches"] == accepted == 3


def test_the_heads_of_all_rounds_name_the_decisions(done: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch):
    folder, _ = done
    from engine.ledger.journal import read_only

    with read_only(folder / "ledger/journal.sqlite") as journal:
        sealed = {row[0] for row in journal.execute("SELECT decisions FROM rounds")}
        steps = journal.execute("SELECT kind, id, record FROM synthetic ORDER BY seq").fetchall()
    domain = governed.Domain(**read_state(folder)["domain"])
    books = Books()
    for kind, identity, text in steps:
        signed = (
            digest(governed.record_from_json(governed.RECORDS[kind], text), domain) if kind != "policy" else bytes(32)
        )
        books.take(kind, identity, text, signed)
    assert sealed == {books.decisions}
    assert any(books.decisions)


@pytest.mark.parametrize("pool", ["inprocess", "ray"])
def test_the_ledger_changes_no_number(
    done: tuple[Path, Result], tiny_config: Callable[..., RunConfig], ray2: None, tmp_path: Path, pool: str
):
    folder, result = done
    kinds = ("none",) if pool == "inprocess" else ("none", "embedded")
    for backend in kinds:
        keys = {"execution.pool": pool, "execution.cpus": 2, "ledger.backend": backend}
        home = tmp_path / backend
        found = run(tiny_config(**{**SMOTE, **keys}), home)
        one, other = numbers(result, folder), numbers(found, home)
        same_oracle = result.config.execution.oracle == found.config.execution.oracle
        assert same_oracle
        assert {k: v for k, v in one.items() if k != "ledger"} == {k: v for k, v in other.items() if k != "ledger"}
        assert plain(found.synthesis) == plain(result.synthesis)
        assert beats_of(home) == beats_of(folder) != {}
        if backend == "embedded":
            assert found.synthesis == result.synthesis
            assert audit(home).clean


def test_another_seed_gives_other_beats_and_the_balance_seed_keeps_them(
    done: tuple[Path, Result], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    base = {**SMOTE, "ledger.backend": "none", "federation.rounds": 1}
    run(tiny_config(**base, seed=1), tmp_path / "other")
    assert beats_of(tmp_path / "other").keys() == beats_of(done[0]).keys()
    assert beats_of(tmp_path / "other") != beats_of(done[0])


def test_near_copies_are_rejected_at_quality_and_do_not_train(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    make = governed.make_beats

    def copies(config: RunConfig, asked: Any, count: int, train: Any, classes: str, *rest: Any) -> Any:
        """One heartbeat plus noise, as the original study made them."""
        made = make(config, asked, count, train, classes, *rest)
        first = np.flatnonzero(train.y == made.label)[0]
        noise = np.random.default_rng(0).normal(0, 1e-3 * train.x[first].std(), made.x.shape)
        return replace(made, x=(train.x[first] + noise).astype(np.float32), rr=np.repeat(train.rr[[first]], count, 0))

    base = {**SMOTE, "federation.rounds": 1}
    monkeypatch.setattr(governed, "make_beats", copies)
    result = run(tiny_config(**base), tmp_path / "copies")
    monkeypatch.undo()
    statuses = [row.status for row in result.synthesis]
    assert statuses.count("rejected") == 3
    assert statuses.count("accepted") == 0
    for row in result.synthesis:
        if row.status == "rejected":
            assert row.reasons == "the beats lie too close to single real ones"
            assert row.numbers["duplicates"] == row.granted > 0
            assert (row.accepted, row.numbers["nndr_bp"] < 500) == (0, True)
    assert beats_of(tmp_path / "copies") == {}
    assert result.model_hash == run(tiny_config(**{"federation.rounds": 1}), tmp_path / "plain").model_hash
    assert audit(tmp_path / "copies").clean


def test_a_generator_that_fails_leaves_a_rejected_request_and_frees_the_quota(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def fail(*args: Any) -> Any:
        raise SynthesisError("timegan failed: out of memory.")

    monkeypatch.setattr(governed, "make_beats", fail)
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
        "balance.policy.min_nndr": 0,
        "balance.policy.max_duplicates": 1000,
        "balance.timegan": {"patch": 63, "hidden": 4, "steps": 3, "batch_size": 8, "minimum": 20},
        "balance.policy.min_real": {"timegan": 20},
        "data.simulated.minutes": 3.0,
        "cohort.hospitals": 2,
        "ledger.backend": "embedded",
    }
    said: list[str] = []
    place = Place(note=said.append)
    config = tiny_config(**keys)
    result = run(config, tmp_path / "one", place)
    made = [row for row in result.synthesis if row.status == "accepted"]
    assert made
    for row in made:
        assert row.accepted == row.granted <= row.wanted
        beats = load_synthetic(hospital_file(tmp_path / "one/synthetic", row.hospital))
        assert beats.x.shape == (row.accepted, 252)
        assert np.isfinite(beats.x).all()
    for row in result.synthesis:
        assert row.status == "accepted" or row.real_floor < 20
    assert audit(tmp_path / "one").clean
    trained = [line for line in said if line.startswith("timegan: training on")]
    assert len(trained) == len(made)
    # the next repeat has other weights and batches, but the same beats, and no generator is trained again
    again = run(tiny_config(**keys, seed=1), tmp_path / "two", place)
    assert [line for line in said if line.startswith("timegan: training on")] == trained
    assert [row.batch for row in again.synthesis] == [row.batch for row in result.synthesis]
    assert again.model_hash != result.model_hash
    without = run(tiny_config(**keys | {"ledger.backend": "none"}), tmp_path / "without")
    assert without.model_hash == result.model_hash
    assert "tensorflow" not in sys.modules


def test_a_smaller_grant_is_what_is_made(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    keys = {"balance.policy.quota": 7, "balance.policy.classes": "V", "federation.rounds": 1, "ledger.backend": "none"}
    result = run(tiny_config(**{**SMOTE, **keys}), tmp_path)
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
    (folder / "synthetic" / names[0]).unlink()
    (folder / "synthetic" / names[1]).write_bytes(b"PK")
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
    path = hospital_file(folder / "synthetic", row["hospital"])
    beats = load_synthetic(path)
    beats.x[0, 0] += 1
    np.savez(path, x=beats.x, rr=beats.rr, y=beats.y)


def lose_beats(folder: Path, row: dict[str, Any]) -> None:
    path = hospital_file(folder / "synthetic", row["hospital"])
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
    ("damage", "place"),
    [
        (damage_evidence, ("synthetic", "evidence")),
        (damage_batch, ("synthetic", "batch")),
        (lose_beats, ("synthetic", "batch")),
        (lambda f, r: hospital_file(f / "synthetic", r["hospital"]).write_bytes(b"no"), ("synthetic", "batch")),
        (lambda f, r: (f / r["file"]).write_text("[" * 5000), ("synthetic", "evidence")),
        (change_result, ("result", "synthesis")),
        (add_row, ("result", "synthesis")),
    ],
)
def test_changed_files_are_named(
    done: tuple[Path, Result],
    tmp_path: Path,
    damage: Callable[[Path, dict[str, Any]], Any],
    place: tuple[str, str],
):
    folder = shutil.copytree(done[0], tmp_path / "run")
    row = next(row.document() for row in done[1].synthesis or () if row.accepted)
    damage(folder, row)
    findings = audit(folder).findings
    assert {(f.record, f.field) for f in findings} == {place}
    assert {f.hospital for f in findings} <= {row["hospital"], None}


def test_missing_files_are_noted(done: tuple[Path, Result], tmp_path: Path):
    folder = shutil.copytree(done[0], tmp_path / "run")
    shutil.rmtree(folder / "synthetic")
    found = audit(folder)
    assert found.clean
    assert "3 reports on the quality of synthetic beats are not in the folder" in found.notes


# --- Reviewers --------------------------------------------------------------------------------------------------------


def waiting(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_state(folder)["requests"] if row["status"] == "pending"]


@pytest.mark.parametrize("backend", ["embedded", "none"])
def test_a_reviewer_approves_denies_and_grants_a_part(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, backend: str, done: tuple[Path, Result]
):
    config = tiny_config(**{**HUMAN, "ledger.backend": backend, "federation.rounds": 1})
    with pytest.raises(
        ReviewPending, match=r"^3 requests for synthetic beats wait for a reviewer; decide with"
    ) as error:
        run(config, tmp_path)
    assert "\n" not in str(error.value)
    whole, part, never = waiting(tmp_path)
    write_review(tmp_path, whole, True, whole["allowed"], "as asked")
    write_review(tmp_path, part, True, 4, "a few")
    assert undecided(tmp_path) == 1
    with pytest.raises(ReviewPending, match=r"^1 request for synthetic beats waits"):
        run(config, tmp_path)
    assert [row["status"] for row in read_state(tmp_path)["requests"]].count("approved") == 2
    write_review(tmp_path, never, False, 0, "not this class")
    rows = {row.request: row for row in run(config, tmp_path).synthesis or ()}
    for before, granted, status, reason in (
        (whole, whole["wanted"], "accepted", "approved by the reviewer: as asked"),
        (part, 4, None, "approved by the reviewer: a few"),
        (never, 0, "denied", "denied by the reviewer: not this class"),
    ):
        row = rows[before["request"]]
        assert row.granted == granted
        assert status in (None, row.status)
        assert row.reasons.endswith(reason)
    automatic = {(r.hospital, r.class_): r.batch for r in done[1].synthesis or ()}
    assert rows[whole["request"]].batch == automatic[whole["hospital"], whole["class"]]
    if backend == "embedded":
        found = audit(tmp_path)
        assert (found.findings, found.counts["reasons"]) == ([], 3)
        path = tmp_path / f"ledger/reviews/{never['request']}.json"
        path.write_text(path.read_text().replace("not this class", "another"))
        assert [(f.record, f.field, f.hospital) for f in audit(tmp_path).findings] == [
            ("synthetic", "reason", never["hospital"])
        ]


def test_the_numbers_of_reviewed_runs_do_not_depend_on_the_ledger(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    results = {}
    for backend in ("embedded", "none"):
        config, folder = tiny_config(**{**HUMAN, "ledger.backend": backend}), tmp_path / backend
        with pytest.raises(ReviewPending):
            run(config, folder)
        for i, row in enumerate(waiting(folder)):
            write_review(folder, row, i > 0, row["allowed"] if i == 1 else 12, "because")
        results[backend] = run(config, folder)
    one, other = results.values()
    assert one.model_hash == other.model_hash
    assert one.final == other.final
    assert plain(one.synthesis) == plain(other.synthesis)
    assert len({row.status for row in one.synthesis}) >= 2


@pytest.fixture
def paused(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> tuple[RunConfig, Path]:
    """A run that waits for its reviewer."""
    config = tiny_config(**{**HUMAN, "ledger.backend": "none", "federation.rounds": 1})
    with pytest.raises(ReviewPending):
        run(config, tmp_path)
    return config, tmp_path


def test_decisions_that_would_not_be_taken_are_refused(paused: tuple[RunConfig, Path]):
    _, folder = paused
    row = waiting(folder)[0]
    stranger = b"\x09" * 32
    for arguments, words in (
        ((row, True, row["allowed"] + 1, "more"), f"policy allows 1 to {row['allowed']}"),
        ((row, True, 0, "none"), "the review grants 0 beats"),
        ((row, True, 1, "me", stranger), "is not a reviewer of this federation"),
        (({**row, "status": "denied"}, True, 1, "late"), "is denied; only a pending one can be decided"),
        (({**row, "record": row["record"].replace('"quantity":', '"quantity":1')}, True, 1, "x"), "was changed"),
    ):
        with pytest.raises(LedgerError, match=words):
            write_review(folder, *arguments)
    write_review(folder, row, False, 0, "no")
    with pytest.raises(LedgerError, match="is decided already, in"):
        write_review(folder, row, False, 0, "no")
    with pytest.raises(DataError, match="holds no requests"):
        read_state(folder / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {**c, "reason": "other"},
        lambda c: {**c, "reviewer": address(b"\x09" * 32)},
        lambda c: {**c, "signature": "0x" + "11" * 65},
        lambda c: {**c, "record": c["record"].replace('"granted":3', '"granted":4')},
        lambda c: {},
        lambda c: [1],
    ],
)
def test_a_damaged_decision_is_put_aside_and_the_request_still_waits(paused: tuple[RunConfig, Path], change: Any):
    config, folder = paused
    row = waiting(folder)[0]
    write_review(folder, row, True, 3, "three")
    path = folder / f"ledger/reviews/{row['request']}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    notes: list[str] = []
    with pytest.raises(ReviewPending, match=r"^3 requests"):
        run(config, folder, Place(note=notes.append))
    assert not path.exists()
    assert path.with_suffix(".refused.json").exists()
    assert any("is put aside as" in note for note in notes)


def test_nobody_reviews_for_his_own_organisation(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The reviewer of a keystore belongs to the organisation of hospital 0, and to none of the others."""
    monkeypatch.setenv("PULSELEDGER_KEYSTORE_PASSWORD", "secret")
    keys, folder = tmp_path / "keys", tmp_path / "run"
    create_keystore(keys, 3, ("north", "south", "west"), work=2)
    create_reviewer(keys, "north", work=2)
    with pytest.raises(LedgerError, match="already holds a reviewer"):
        create_reviewer(keys, "east", work=2)
    config = tiny_config(**{**HUMAN, "ledger.keystore": str(keys), "federation.rounds": 1})
    with pytest.raises(ReviewPending):
        run(config, folder)
    key = read_key_file(keys / "reviewer.json")
    rows = waiting(folder)
    assert {row["hospital"] for row in rows} == {0, 1}
    for row in rows:
        if row["hospital"] == 0:
            with pytest.raises(LedgerError, match="belongs to the organisation that asks"):
                write_review(folder, row, True, 1, "ours", key)
        else:
            write_review(folder, row, True, 1, "theirs", key)
    with pytest.raises(LedgerError, match="name the reviewer's with --key FILE"):
        write_review(folder, rows[0], True, 1, "whose?")
    # and the contract refuses it, too, whatever is in the files
    federation = Federation(ID, b"\x22" * 32, tuple(map(address, KEYS)), b"\x33" * 32, (("w", (2,)),), "samples")
    with Ledger(tmp_path / "ledger", federation) as ledger:
        domain = ledger.synthetic_domain
        ledger.govern("reviewer", {"account": address(key), "organisation": organisation(0)})
        ledger.govern("policy", to_contract(replace(POLICY, automatic=False)))
        for slot in (0, 1):
            asked = request(slot=slot)
            id = ledger.govern("request", asked, sign(asked, domain, KEYS[slot])).id
            review = SyntheticReview(id, True, 1, bytes(32), 0)
            step = ("review", review, sign_digest(digest(review, domain), key), address(key))
            if slot == 0:
                with pytest.raises(ContractRevert, match="ReviewerNotIndependent"):
                    ledger.govern(*step)
            else:
                ledger.govern(*step)
                assert ledger.request_state(id)["counted"] == 1


def test_keys_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hex").write_text("0x" + "07" * 32 + "\n")
    assert read_key_file(tmp_path / "hex") == b"\x07" * 32
    (tmp_path / "bad").write_text("00" * 32)
    with pytest.raises(LedgerError, match="holds no private key"):
        read_key_file(tmp_path / "bad")
    with pytest.raises(LedgerError, match="cannot read"):
        read_key_file(tmp_path / "none")
    monkeypatch.setenv("PULSELEDGER_KEYSTORE_PASSWORD", "secret")
    made = create_reviewer(tmp_path, "east", work=2)
    assert address(read_key_file(tmp_path / "reviewer.json")) == made
    monkeypatch.setenv("PULSELEDGER_KEYSTORE_PASSWORD", "wrong")
    with pytest.raises(LedgerError, match=r"password .* is wrong"):
        read_key_file(tmp_path / "reviewer.json")


# --- Interruptions ----------------------------------------------------------------------------------------------------


class Flow:
    """The flow alone on a ledger of its own, without the training; quality is measured once for each batch."""

    def __init__(self, config: RunConfig, cohort: Cohort) -> None:
        self.config, self.cohort = config, cohort
        hospitals = tuple(address(hospital_key(config.seed, ID, h.id)) for h in cohort.hospitals)
        hashed = bytes.fromhex(config_hash(config))
        self.federation = Federation(ID, hashed, hospitals, b"\x33" * 32, (("w", (2,)),), "samples")
        self.known: dict[bytes, Any] = {}

    def __call__(self, folder: Path) -> tuple[list[dict[str, Any]], bytes, int]:
        """Rows, decisions, and number of transactions."""
        (folder / "ledger").mkdir(parents=True, exist_ok=True)
        ledger = LedgerObserver(folder / "ledger", self.federation, self.config.ledger, False, 1)
        try:
            rows = governed.govern(self.config, self.cohort, folder, ID, ledger)
            return rows, ledger.decisions, ledger.summary()["transactions"]
        finally:
            ledger.abandon()

    def assess(self, train: Any, held_out: Any, synthetic: Any, *rest: Any) -> Any:
        key = batch_digest(synthetic)
        if key not in self.known:
            self.known[key] = quality.assess(train, held_out, synthetic, *rest)
        return self.known[key]


@pytest.fixture
def flow(tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> Iterator[Flow]:
    config = tiny_config(**{**SMOTE, "balance.classes": "V"})
    flow = Flow(config, build_cohort(config.data, config.cohort))
    monkeypatch.setattr(governed, "assess", flow.assess)
    monkeypatch.setattr(governed, "draw_quality", lambda *args: args[4].write_bytes(b"\x89PNG"))
    return flow


class Killer:
    """Raises after the n-th call of a function."""

    def __init__(self, work: Callable[..., Any], at: int) -> None:
        self.work, self.left = work, at

    def __call__(self, *args: Any, **keys: Any) -> Any:
        answer = self.work(*args, **keys)
        self.left -= 1
        if self.left == 0:
            raise Interrupted
        return answer


@pytest.mark.parametrize(
    ("where", "function", "first", "points"),
    [
        ("after the ledger has taken a step", "LedgerObserver.govern", 1, 6),
        ("after a file: evidence of two batches, the end", "_write", 3, 3),
        ("after a hospital's beats", "save_synthetic", 1, 2),
    ],
)
def test_a_run_that_is_killed_between_any_two_steps_repeats_and_loses_nothing(
    flow: Flow, tmp_path: Path, where: str, function: str, first: int, points: int
):
    wanted = flow(tmp_path / "undisturbed")
    beats = beats_of(tmp_path / "undisturbed")
    assert wanted[2] == 3 + 1 + 1 + 3 + 2  # ledger, its second contract, policy, requests, reports
    owner: Any = LedgerObserver if "." in function else governed
    method = function.rpartition(".")[2]
    killed, done = 0, False
    while not done:
        folder = tmp_path / str(killed)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(getattr(owner, method), first + killed)
            patch.setattr(owner, method, lambda *args, killer=killer, **keys: killer(*args, **keys))
            try:
                flow(folder)
                done = True
            except Interrupted:
                killed += 1
        assert flow(folder) == wanted  # of the last one: all is settled, nothing is made or sent again
        assert beats_of(folder) == beats
    assert killed == points


def test_beats_that_do_not_come_out_as_reported_stop_the_run(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flow(tmp_path)
    (tmp_path / "synthetic/governance.json").unlink()
    make = governed.make_beats
    monkeypatch.setattr(governed, "make_beats", lambda *args: replace(make(*args), x=make(*args).x + 1))
    with pytest.raises(
        SynthesisError, match=r"^hospital 0, class V: the beats made now are not those that were reported"
    ):
        flow(tmp_path)


def test_a_request_whose_time_has_passed_expires(flow: Flow, tmp_path: Path):
    """On the embedded chain each transaction takes a second. A decision that comes too late is not taken."""
    policy = flow.config.balance.policy.model_copy(update={"mode": "human", "expiry_seconds": 5})
    balance = flow.config.balance.model_copy(update={"policy": policy})
    flow.config = flow.config.model_copy(update={"balance": balance})
    with pytest.raises(ReviewPending):
        flow(tmp_path)
    for row in waiting(tmp_path):
        write_review(tmp_path, row, True, 1, "late")
    with Ledger(tmp_path / "ledger", flow.federation) as ledger:
        for i in range(5):
            ledger.grant("AUDITOR_ROLE", address(hospital_key(i, ID, 5)))
    rows, _, _ = flow(tmp_path)
    assert [row["status"] for row in rows] == ["expired", "expired", "denied"]
    assert beats_of(tmp_path) == {}
    assert {finding.record for finding in audit(tmp_path).findings} == {"archive"}  # nothing was ever trained


# --- The command line -------------------------------------------------------------------------------------------------


def test_the_command_line_from_request_to_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file, folder = tmp_path / "run.yaml", tmp_path / "run"
    file.write_text(
        "name: run\ndata: {window: [90, 162], simulated: {patients: 6, minutes: 1.5}}\ncohort: {hospitals: 3}\n"
        "model: {channels: [8, 8, 16], hidden: 16}\nfederation: {rounds: 1}\ntracking: {backend: none}\n"
        "execution: {pool: inprocess}\nbalance: {method: smote, classes: SV, policy: {mode: human}}\n"
    )
    words = ["run", str(file), "--out", str(folder)]
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "3 requests for synthetic beats wait for a reviewer" in said.strip().splitlines()[-1]
    assert main(["governance", "list", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "5 requests, 3 wait for a reviewer" in table
    assert "there are too few real beats for this generator" in table
    assert main(["governance", "list", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["pending"] * 3 + ["denied"] * 2
    first, second, third = (row["request"] for row in rows[:3])
    for wrong, sentence in (
        (["approve", folder, first], "governance approve: --reason is needed"),
        (["approve", folder, "zz", "--reason", "x"], "0 requests begin with 'zz'"),
        (["approve", folder, "--reason", "x"], "an ID is needed"),
        (["approve", folder, first, "--reason", "x", "--granted", "9999"], "the policy allows 1 to"),
        (["deny", folder, first, "--reason", "x", "--granted", "1"], "--granted goes with approve"),
        (["approve", folder, rows[3]["request"], "--reason", "x"], "is denied; only a pending one"),
        (["list", tmp_path / "none"], "holds no requests for synthetic beats"),
    ):
        assert main(["governance", *map(str, wrong)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert main(["governance", "approve", str(folder), first[:10], "--reason", "looks fine", "--granted", "9"]) == 0
    assert f"request {first[:16]} approved, 9 of" in capsys.readouterr().out
    assert main(["governance", "deny", str(folder), second, "--reason", "no", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["approve"] is False
    assert main(["resume", str(folder)]) == 3
    assert "1 request for synthetic beats waits" in capsys.readouterr().err
    key = tmp_path / "key"
    state = read_state(folder)
    key.write_text(reviewer_key(state["seed"], bytes.fromhex(state["federation"])).hex())
    assert main(["governance", "approve", str(folder), third, "--reason", "yes", "--key", str(key)]) == 0
    capsys.readouterr()
    assert main(["governance", "list", str(folder), "--json"]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)].count("decided") == 1
    assert main(["resume", str(folder)]) == 0
    capsys.readouterr()
    assert main(["governance", "show", str(folder), third]) == 0
    shown = capsys.readouterr().out
    assert "status: accepted" in shown
    assert "approved by the reviewer: yes" in shown
    assert "nndr" in shown
    assert main(["governance", "show", str(folder), first, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["granted"] == 9
    assert main(["governance", "policy", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PolicyConfig(mode="human").model_dump(mode="json")
    assert main(["audit", str(folder)]) == 0
    capsys.readouterr()
    (folder / "synthetic/governance.json").write_text("{")
    done = command("governance", "list", folder)
    assert done.returncode == 2
    assert "governance.json: is not readable" in done.stderr
    assert "Traceback" not in done.stderr


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
    for _ in track(tiny_config(**SMOTE), folder, Place(), told, "key", "name", {}, None):  # type: ignore[arg-type]
        pass
    (artifacts,) = (call[2] for call in told.calls if call[0] is Tracker.artifacts)
    files = {Path(path).name for path in artifacts}
    for row in result.synthesis:
        if row.file is not None:
            assert {Path(row.file).name, Path(row.file).with_suffix(".png").name} <= files


# --- A study ----------------------------------------------------------------------------------------------------------

STUDY: dict[str, Any] = {
    "name": "reviewed",
    "data": {"window": [90, 162], "simulated": {"patients": 6, "minutes": 1.5}},
    "cohort": {"hospitals": 3},
    "model": {"channels": [8, 8, 16], "hidden": 16},
    "federation": {"rounds": 1},
    "balance": {"method": "smote", "classes": "S"},
    "ledger": {"backend": "none"},
    "tracking": {"backend": "none"},
    "execution": {"cpus": 2, "hospitals_per_actor": 3},
    "conditions": {"balance.policy.mode": ["human", "automatic"]},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 2,
    "concurrency": 1,
}


def decide(folder: Path) -> int:
    """Approves whatever waits below a study's folder."""
    runs = [path.parent.parent for path in folder.glob("trials/*/seed-*/synthetic/governance.json")]
    decisions = [write_review(home, row, True, row["allowed"], "fine") for home in runs for row in waiting(home)]
    return len(decisions)


def test_a_trial_that_waits_blocks_no_other(ray2: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settled()
    file, folder = tmp_path / "study.yaml", tmp_path / "study"
    file.write_text(json.dumps(STUDY))
    assert main(["sweep", str(file), "--out", str(folder)]) == 3
    said = capsys.readouterr().err
    assert (
        f"pulseledger: trial 0 waits for a reviewer; decide with `pulseledger governance approve|deny {folder} ID"
        in said
    )
    assert [path.parent.parent.name for path in folder.glob("trials/*/seed-0/result.json")] == ["0001"]
    assert main(["governance", "list", str(folder)]) == 0
    assert "trials/0000/seed-0" in capsys.readouterr().out
    assert decide(folder) == 1
    settled()
    heard = Heard()
    resume_study(folder, heard)
    assert {number: end[0] for number, end in heard.ends.items()} == {0: "COMPLETE"}
    rows = json.loads((folder / "trials/0000/seed-0/result.json").read_text())["synthesis"]
    assert [row["reasons"] for row in rows if row["granted"]] == ["approved by the reviewer: fine"]


def test_a_decision_that_comes_while_others_run_is_taken_up(ray2: None, tmp_path: Path):
    settled()

    class Deciding(Heard):
        def ended(self, trial: int, *args: Any) -> None:
            super().ended(trial, *args)
            if trial == 1:
                assert decide(tmp_path) == 1

    heard = Deciding()
    start_study(load_study(STUDY, "test"), tmp_path, heard)
    assert heard.starts == [0, 1, 0]
    assert any(note.startswith("trial 0: 1 request for synthetic beats waits") for note in heard.notes)
    assert {number: end[0] for number, end in heard.ends.items()} == {0: "COMPLETE", 1: "COMPLETE"}
