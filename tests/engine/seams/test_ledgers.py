"""What every ledger of the loop must keep: it changes no bit, whatever is kept. A new one is added to `LEDGERS`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.config import RunConfig, config_hash
from engine.data.config import CLASSES
from engine.errors import LedgerError
from engine.experiment import HERE, join, run
from engine.ledger.base import LoopLedger
from engine.ledger.signer import Signer
from engine.ledger.subjects.policy import Reason, Status, policy_of
from engine.messages import Asked
from engine.result import LedgerSummary
from engine.synthesis.config import GENERATORS, PolicyConfig
from engine.synthesis.quality import WORST

SECONDS = ("open_seconds", "close_seconds", "critical_path_seconds", "overhead_share")
SIZE = 2301  # parameters of the tests' network
LEDGERS: dict[str, dict[str, Any]] = {
    "none": {"ledger.backend": "none"},
    "embedded": {"ledger.backend": "embedded"},
    "embedded, peers": {"ledger.backend": "embedded", "ledger.reputation": "peers"},
}


@pytest.fixture(params=LEDGERS)
def keys(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LEDGERS[request.param]


@pytest.fixture
def opened(keys: dict[str, Any], tiny_config: Callable[..., RunConfig], tmp_path: Path) -> Iterator[LoopLedger]:
    """The ledger of a run that has not begun."""
    config = tiny_config(**keys)
    with contextlib.ExitStack() as stack:
        joined, _ = join(config, config_hash(config), tmp_path, HERE, stack)
        yield joined.parts.ledger


def test_a_run_has_the_same_model_as_without_one(keys: dict[str, Any], tiny_config, tmp_path: Path):
    plain = run(tiny_config(), tmp_path / "plain")
    kept = run(tiny_config(**keys), tmp_path / "kept")
    assert kept.model_hash == plain.model_hash
    assert kept.final == plain.final
    assert kept.ledger.backend == keys["ledger.backend"]


def test_what_it_says_of_itself_fits_the_result(opened: LoopLedger):
    seconds = {} if opened.signing is None else dict.fromkeys(SECONDS, 0.0)
    assert LedgerSummary.model_validate({**opened.summary(), **seconds}).backend in ("none", "embedded")


def test_a_name_stands_for_the_bits_of_a_model(opened: LoopLedger, tiny_config):
    zeros, ones = (np.full(SIZE, value, np.float32) for value in (0, 1))
    assert opened.name(zeros) == opened.name(zeros.copy())
    assert (opened.name(zeros) != opened.name(ones)) == (opened.signing is not None)


def test_before_the_first_round_nothing_is_pending_and_nothing_was_waited_for(opened: LoopLedger):
    assert opened.pending() == []
    opened.replay([], 0, build_rule(AggregationConfig(), "samples").again)
    assert opened.seconds >= 0


def test_hospitals_that_sign_are_told_of_the_model_and_the_last_head(opened: LoopLedger):
    notice = opened.notice(Asked(1, (0, 1), np.zeros(3, np.float32), b"m" * 32))
    assert (notice is None) == (opened.signing is None)
    if notice is not None:
        assert notice.model == b"m" * 32
        assert notice.headers[-1].round == 0


def test_requests_for_synthetic_beats_are_decided_alike(opened: LoopLedger):
    """By the default policy: 20 real beats allow 100 for the ratio of five, and one real beat allows none."""
    policy = policy_of(PolicyConfig(), CLASSES)
    desk = opened.desk(b"\x11" * 32)
    desk.open(policy, 0)
    opened.desk(b"\x11" * 32).open(policy, 0)  # of a run that goes on: nothing is set twice
    assert desk.terms.policy_version == 1
    signer, smote, settings = Signer(0, desk.signing, 0), GENERATORS.index("smote") + 1, bytes(32)
    granted, denied = (
        desk.take(signer.request(desk.terms, class_, smote, 400, real, settings)) for class_, real in ((1, 20), (2, 1))
    )
    found = desk.books.requests
    assert (found[granted].status, found[granted].granted) == (Status.APPROVED, 100)
    assert (found[denied].status, found[denied].reasons) == (Status.DENIED, Reason.MIN_REAL)
    numbers = {**WORST, "duplicates": 3, "repeated": 0, "distance_bp": 0, "spread_bp": 9_000, "recognised_bp": 9_000}
    desk.take(signer.report(desk.terms, granted, 90, bytes(32), bytes(32), numbers))
    assert (found[granted].status, found[granted].reasons) == (Status.REJECTED, Reason.NNDR)


def test_another_policy_than_the_one_in_force_is_refused(opened: LoopLedger):
    desk = opened.desk(b"\x11" * 32)
    desk.open(policy_of(PolicyConfig(), CLASSES), 0)
    with pytest.raises(LedgerError, match="another policy on synthetic data than this run's"):
        desk.open(policy_of(PolicyConfig(quota=7), CLASSES), 0)
