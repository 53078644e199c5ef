"""The frozen studies: each names its claims by hash, and has every method and condition that they speak of."""

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.settings import load_yaml, parse, set_key
from sweeps.checks import load_study
from sweeps.claims import read_claims
from sweeps.methods import method_of
from sweeps.space import StudyConfig, conditions

FOLDER = Path(__file__).parents[2] / "sweeps" / "claims"
NAMES = sorted(path.name.removesuffix(".claims.yaml") for path in FOLDER.glob("*.claims.yaml"))


def methods(study: StudyConfig) -> set[tuple[str, str]]:
    """Condition and title of every baseline."""
    plain = {name: value for name, value in study.model_dump(mode="json").items() if name in RunConfig.model_fields}
    found = set()
    for condition in conditions(study):
        for row in study.baselines:
            values = parse(RunConfig, plain, "study").model_dump(mode="json")
            for key, value in {**condition.keys, **row}.items():
                set_key(values, key, value)
            found.add((condition.label, method_of(parse(RunConfig, values, "trial")).title))
    return found


def test_every_study_has_its_claims():
    studies = {path.stem for path in FOLDER.glob("*.yaml") if not path.name.endswith(".claims.yaml")}
    assert (
        studies
        == set(NAMES)
        >= {"own", "unseen", "balance", "privacy", "prototype", "ablation", "skew", "robust", "async"}
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_study_can_decide_its_claims(name: str):
    study = load_study(load_yaml(FOLDER / f"{name}.yaml"), name)
    claims, digest = read_claims(FOLDER / f"{name}.claims.yaml")
    assert study.claims == digest  # registered before the first trial: change a word of a claim and it is another study
    known = methods(study)
    for claim in claims.claims:
        for side in (claim.subject, claim.against or claim.subject):
            assert (side.condition or claim.condition, side.method) in known, (claim.id, sorted(known))
        assert set(claim.classes) <= set(study.data.classes)
    assert not study.search  # nothing is tuned
