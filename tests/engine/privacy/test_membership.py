"""Membership inference: counts that can be redone by hand, and models that have learned by heart or could not."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import RunConfig
from engine.experiment import run
from engine.ledger.format import RESULT_VERSION
from engine.privacy.membership import Guess, Guesses, fits, guesses, membership_report, most_advantage
from engine.result import RESULT, VERSION, Result
from engine.settings import parse
from sweeps.dossier.document import _measured
from sweeps.dossier.facts import facts_of
from sweeps.drawing import looks_of
from sweeps.guessed import sections

# labels by the toss of a coin: nothing can be learned of them but by heart
COINS = """
import numpy as np
from engine.data.examples import Examples

def coins(folder, *, seed=0):
    draw = np.random.default_rng(seed)
    n = 240
    return Examples(
        x=draw.normal(size=(n, 60)), y=[("head", "tail")[i] for i in draw.integers(0, 2, n)], classes=("head", "tail"),
        patients=[str(i) for i in range(n)], hospitals=[str(i % 2) for i in range(n)], when=list(range(n)),
        features=[f"f{i}" for i in range(60)], unit="coins")
"""


def coins(folder: Path, **changes: object) -> RunConfig:
    (folder / "coins.py").write_text(COINS)
    values = {
        "data": {"source": f"{folder / 'coins.py'}:coins", "classes": ["head", "tail"], "normalise": "train"},
        "cohort": {"hospitals": 2, "partition": "given", "split": "patients"},
        "model": {"network": "features", "features": 1000},
        "federation": {"rounds": 40, "local_steps": 10, "learning_rate": 20.0, "batch_size": 512},
        "personalisation": {"method": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": "inprocess"},
        "privacy": {"membership": True, **changes},
    }
    return parse(RunConfig, values, "coins")


def test_guesses_by_hand():
    """Pairs: .9 beats all three, .5 beats .2 and draws with .5: 2 * 3 + 2 + 1; mean log of the members is log sqrt(.45) = log .67."""
    assert guesses(np.array([0.9, 0.5]), np.array([0.8, 0.5, 0.2])) == Guesses(2 * 4 + 1, 1, 2, 1, 3)


def test_a_beat_that_is_given_no_chance_is_no_reason_to_fail():
    assert guesses(np.array([0.0, 1.0]), np.array([0.0, 0.5])) == Guesses(1 + 4, 2, 2, 2, 2)


def test_who_knows_everybody_by_heart_and_who_knows_nobody():
    heart, nobody = guesses(np.ones(10), np.zeros(20)), guesses(np.full(10, 0.5), np.full(20, 0.5))
    found = membership_report({0: {"global": nobody, "personal": heart}, 4: {}})
    assert found is not None
    assert (found.global_, found.personal) == (Guess(auc=0.5, advantage=0.0), Guess(auc=1.0, advantage=1.0))
    assert [(row.id, row.members, row.others) for row in found.hospitals] == [(0, 10, 20)]
    assert membership_report({4: {}}) is None


@pytest.mark.parametrize("counts", [(13, 0, 2, 0, 3), (0, 3, 2, 0, 3), (0, 0, 2, 4, 3), (0, 0, 3, 0, 3), (0, -1, 2, 0, 3), (0, 0, 2, 0), (0, 0.5, 2, 0, 3)])  # fmt: skip
def test_counts_that_cannot_be_are_told(counts):
    assert fits((12, 2, 2, 3, 3), 2, 3)
    assert not fits(counts, 2, 3)


def test_what_epsilon_leaves_to_the_best_attack():
    """(e^epsilon - 1 + 2 delta) / (e^epsilon + 1)."""
    for epsilon, delta in ((0.1, 0.0), (1.0, 1e-5), (8.0, 0.01)):
        assert most_advantage(epsilon, delta) == pytest.approx(
            (np.exp(epsilon) - 1 + 2 * delta) / (np.exp(epsilon) + 1), rel=1e-12
        )
    assert most_advantage(5000.0, 1e-5) == 1.0


@pytest.fixture(scope="module")
def heart(tmp_path_factory) -> Path:
    """Coins that were learned by heart, with a ledger."""
    folder = tmp_path_factory.mktemp("heart")
    run(coins(folder), folder / "run")
    return folder / "run"


def test_a_model_that_has_learned_by_heart_gives_it_away_and_one_with_noise_does_not(heart: Path, tmp_path: Path):
    """It is sure of every train beat, right of them; it is sure of the others, too, and right of half: AUC 3/4, advantage 1/2."""
    known = Result.read(heart)
    assert known.final.global_.accuracy == pytest.approx(0.5, abs=0.12)  # nothing else was learned
    assert known.membership is not None
    assert known.membership.global_.auc == pytest.approx(0.75, abs=0.05)
    assert known.membership.global_.advantage == pytest.approx(0.5, abs=0.1)
    private = {"method": "dp-sgd", "epsilon": 0.5, "steps": 2, "sampling_rate": 0.5, "delta": 1e-5}
    found = run(coins(tmp_path, **private), tmp_path / "run")
    assert found.membership is not None
    assert found.membership.global_.auc == pytest.approx(0.5, abs=0.1)
    assert found.membership.global_.advantage < most_advantage(0.5, 1e-5) < known.membership.global_.advantage
    assert any(
        "tell a hospital's train beats" in text or "final models tell" in text for text in found.privacy.not_protected
    )


def test_the_audit_counts_it_again(heart: Path, tmp_path: Path):
    assert VERSION == RESULT_VERSION
    report = audit(heart)
    assert (report.findings, report.verdict) == ([], Verdict.CLEAN)
    kept = (heart / RESULT).read_text()
    row = ("hospitals", 1)
    guesses_at = [("global",), ("personal",), (*row, "global"), (*row, "personal")]
    numbers = [(*place, name) for place in guesses_at for name in ("auc", "advantage")]
    try:
        for path in (*numbers, (*row, "id"), (*row, "members"), (*row, "others")):
            said = json.loads(kept)
            place = said["membership"]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] += 1
            (heart / RESULT).write_text(json.dumps(said))
            assert "membership" in {finding.field for finding in audit(heart).findings}, path
    finally:
        (heart / RESULT).write_text(kept)


def test_report_and_dossier_tell_it(heart: Path):
    facts = facts_of(heart)
    (section,) = sections(facts.best, looks_of(trial.method for trial in facts.best))
    (table,) = [part for part in section.parts if hasattr(part, "rows")]
    known = Result.read(heart).membership
    assert known is not None
    assert [line[3].parts[0].text for line in table.rows] == ["global", "personal"]
    assert table.rows[0][4].parts[0].text == f"{known.global_.auc:.3f}"
    assert len(section.pictures) == 1
    assert f"AUC at most {max(known.global_.auc, known.personal.auc):.3f}" in _measured(facts)[0][1]
