"""What stands open when a coordinator is gone: each goes on under the next one with the same bits, or is refused in a sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from failing import FAILOVER, PATIENCE, dying_within, led_by, same, silent, undisturbed
from governed import HUMAN, SMOTE, waiting
from reference import Interrupted
from simulators import Run, receipt_signature, rule_of

from engine.audit.run import audit
from engine.config import RunConfig
from engine.errors import LedgerError, ReviewPending
from engine.experiment import run
from engine.ledger.config import Leader, LedgerConfig
from engine.ledger.keyfiles import read_key_file
from engine.ledger.run import RunLedger
from engine.secure.part import STEPS
from engine.synthesis.reviews import write_review

FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "ledger.window": 0}
COMMITTEE = {**FIVE, "committee.method": "drawn", "committee.size": 2, "ledger.reputation": "committee"}
MASKS = {**FIVE, "aggregation.secure.method": "masks"}


@pytest.mark.parametrize(
    ("open", "call", "times"),
    [
        pytest.param(
            COMMITTEE, "pool.reveal", 2, id="a committee has committed and not revealed", marks=pytest.mark.long
        ),
        pytest.param(MASKS, "pool.secure", len(STEPS) + 3, id="masks are dealt and not taken off"),
        pytest.param(SMOTE, "pool.make", 2, id="requests are granted and beats not all made", marks=pytest.mark.long),
    ],
)
def test_it_begins_again_or_goes_on_with_the_same_bits(
    open: dict[str, Any], call: str, times: int, tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    config = tiny_config(**{**open, **FAILOVER})
    whole = undisturbed(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", dying_within(call, times))
    silent(tmp_path / "run", PATIENCE)
    result = run(config, tmp_path / "run", led_by("deputy"))
    same(tmp_path / "run", whole)
    assert [term.name for term in result.ledger.terms] == ["deputy"]
    assert audit(tmp_path / "run").findings == []


def test_requests_wait_for_their_reviewer_under_the_next_one_too(tiny_config, tmp_path: Path):
    config = tiny_config(**{**HUMAN, **FAILOVER, "federation.rounds": 1})
    with pytest.raises(ReviewPending):
        run(config, tmp_path)
    rows = waiting(tmp_path)
    write_review(tmp_path, rows[0], True, 4, "a few")
    silent(tmp_path, PATIENCE)
    with pytest.raises(ReviewPending, match="2 requests for synthetic beats wait for a reviewer"):
        run(config, tmp_path, led_by("deputy"))
    for row in rows[1:]:
        write_review(tmp_path, row, False, 0, "not this class")
    result = run(config, tmp_path, led_by("deputy"))
    assert {row.request: row.granted for row in result.synthesis if row.granted} == {rows[0].request: 4}
    assert [term.name for term in result.ledger.terms] == ["deputy"]
    assert audit(tmp_path).findings == []


def test_a_dispute_is_decided_before_anybody_takes_over(tmp_path: Path):
    """A successor could be whom it is about."""
    run = Run(tmp_path)
    run.federation = replace(run.federation, window=1000)
    settings = LedgerConfig(backend="embedded", successors=("deputy",), patience=1)

    def opened(name: str = "") -> RunLedger:
        silent(tmp_path, 5)
        return RunLedger(run.ledger_folder, run.federation, rule_of(run.weighting), settings, leader=Leader(name))

    with opened() as ledger:
        domain = ledger.domain
        for number in (1, 2):
            ledger.append(run.entry(number, domain))
        promised, own = b"\x77" * 32, read_key_file(run.ledger_folder / "coordinator.key")
        ledger.disputes.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised, own))
    with pytest.raises(
        LedgerError, match=r"^round 2 is disputed: an auditor must decide .* before deputy can take over$"
    ):
        opened("deputy")
    with opened() as ledger:
        ledger.disputes.resolve(2, True, read_key_file(run.ledger_folder / "auditor.key"))
    with opened("deputy") as ledger:
        assert [(term.name, term.round) for term in ledger.succession.terms] == [("deputy", 3)]
        assert [ledger.rounds.status(number) for number in (1, 2)] == ["SEALED", "VOID"]
