"""Reviewers: what they may decide, for whom, and what becomes of a decision that cannot be taken."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from governed import HUMAN, plain, waiting
from simulators import POLICY, Run, request

from engine.audit.run import audit
from engine.config import RunConfig
from engine.errors import DataError, LedgerError, ReviewPending
from engine.experiment import Place, run
from engine.ledger.chain.base import ContractRevert
from engine.ledger.keyfiles import read_key_file
from engine.ledger.keystore import create_keystore, create_reviewer
from engine.ledger.signing import address, sign
from engine.ledger.subjects.registry import organisation
from engine.ledger.subjects.synthetic import SetPolicy, SetReviewer, SignedRequest, SignedReview, SyntheticReview
from engine.result import Result, SyntheticRow
from engine.synthesis.reviews import read_state, undecided, write_review


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
    write_review(tmp_path, whole, True, whole.allowed, "as asked")
    write_review(tmp_path, part, True, 4, "a few")
    assert undecided(tmp_path) == 1
    with pytest.raises(ReviewPending, match=r"^1 request for synthetic beats waits"):
        run(config, tmp_path)
    assert [row.status for row in read_state(tmp_path).requests].count("approved") == 2
    write_review(tmp_path, never, False, 0, "not this class")
    rows = {row.request: row for row in run(config, tmp_path).synthesis or ()}
    for before, granted, status, reason in (
        (whole, whole.wanted, "accepted", "approved by the reviewer: as asked"),
        (part, 4, None, "approved by the reviewer: a few"),
        (never, 0, "denied", "denied by the reviewer: not this class"),
    ):
        row = rows[before.request]
        assert row.granted == granted
        assert status in (None, row.status)
        assert row.reasons.endswith(reason)
    automatic = {(r.hospital, r.class_): r.batch for r in done[1].synthesis or ()}
    assert rows[whole.request].batch == automatic[whole.hospital, whole.class_]
    if backend == "embedded":
        found = audit(tmp_path)
        assert (found.findings, found.counts["reasons"]) == ([], 3)
        path = tmp_path / f"ledger/reviews/{never.request}.json"
        path.write_text(path.read_text().replace("not this class", "another"))
        assert [(f.record, f.field, f.hospital) for f in audit(tmp_path).findings] == [
            ("synthetic", "reason", never.hospital)
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
            write_review(folder, row, i > 0, row.allowed if i == 1 else 12, "because")
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

    def changed(**values: str) -> SyntheticRow:
        return row.model_copy(update=values)

    for arguments, words in (
        ((row, True, row.allowed + 1, "more"), f"policy allows 1 to {row.allowed}"),
        ((row, True, 0, "none"), "the review grants 0 beats"),
        ((row, True, 1, "me", stranger), "is not a reviewer of this federation"),
        ((changed(status="denied"), True, 1, "late"), "is denied; only a pending one can be decided"),
        ((changed(record=row.record.replace('"quantity":', '"quantity":1')), True, 1, "x"), "was changed"),
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
    path = folder / f"ledger/reviews/{row.request}.json"
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
    assert {row.hospital for row in rows} == {0, 1}
    for row in rows:
        if row.hospital == 0:
            with pytest.raises(LedgerError, match="belongs to the organisation that asks"):
                write_review(folder, row, True, 1, "ours", key)
        else:
            write_review(folder, row, True, 1, "theirs", key)
    with pytest.raises(LedgerError, match="name the reviewer's with --key FILE"):
        write_review(folder, rows[0], True, 1, "whose?")
    # and the contract refuses it, too, whatever is in the files
    there = Run(tmp_path / "other")
    with there.open() as ledger:
        desk = ledger.synthetic
        desk.take(SetReviewer(address(key), organisation(0)))
        desk.take(SetPolicy(replace(POLICY, automatic=False)))
        for slot in (0, 1):
            asked = request(slot=slot)
            id = desk.take(SignedRequest(asked, sign(asked, desk.domain, there.keys[slot]))).id
            review = SyntheticReview(id, True, 1, bytes(32), 0)
            step = SignedReview(review, sign(review, desk.domain, key), address(key))
            if slot == 0:
                with pytest.raises(ContractRevert, match="ReviewerNotIndependent"):
                    desk.take(step)
            else:
                desk.take(step)
                assert desk.ask("requestState", id)["counted"] == 1
