"""Runs whose updates a committee judges: the same bits everywhere, gated or not, and what the audit makes of them."""

from pathlib import Path

import pytest
from reference import Interrupted, StopAfter, numbers

from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.experiment import Place, run

FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "federation.rounds": 3}
LEDGER = {"ledger.backend": "embedded", "ledger.window": 0, "ledger.reputation": "committee"}
OTHERS = {"committee.method": "others"}
DRAWN = {"committee.method": "drawn", "committee.size": 2}


@pytest.mark.parametrize("committee", [OTHERS, {**DRAWN, "committee.election": "score"}], ids=["others", "drawn"])
def test_a_gated_run_goes_on_bit_for_bit_and_is_clean(committee, tiny_config, tmp_path: Path):
    gate = {"committee.gate": True, "attack.method": "sign-flip", "attack.hospitals": [1], "attack.strength": 20.0}
    config = tiny_config(**FIVE, **LEDGER, **committee, **gate)
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stumbling", Place(observers=(StopAfter(2),)))
    assert numbers(run(config, tmp_path / "stumbling"), tmp_path / "stumbling") == expected
    report = audit(tmp_path / "stumbling")
    assert report.findings == []
    assert report.verdict is Verdict.CLEAN
