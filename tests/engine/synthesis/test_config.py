"""Settings of balancing and of the policy; one list of generators for all of the house."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reference import ROOT
from simulators import POLICY, Run

from engine.config import RunConfig, config_hash
from engine.data.config import CLASSES
from engine.errors import ConfigError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.subjects.policy import policy_of
from engine.ledger.subjects.synthetic import SetPolicy
from engine.synthesis.config import BALANCE_KEYS, GENERATORS, SYNTHETIC, PolicyConfig


def test_generators_have_the_numbers_of_the_contract(tmp_path: Path):
    """What the contract says of them in words, and the largest number that it takes."""
    source = (ROOT / "contracts/src/ISyntheticLedger.sol").read_text(encoding="utf-8")
    (listed,) = re.findall(r"if generator g is allowed: (.*)\.", source)
    assert listed == ", ".join(f"{number} {name}" for number, name in enumerate(GENERATORS, 1))
    everything = policy_of(PolicyConfig(min_real=dict.fromkeys(GENERATORS, 1)), CLASSES)
    assert everything.allowed_generators == sum(1 << number for number in range(1, len(GENERATORS) + 1))
    assert [n for n, least in enumerate(everything.min_real) if least] == list(range(1, len(GENERATORS) + 1))
    with Run(tmp_path).open() as ledger:
        ledger.synthetic.take(SetPolicy(everything))
        largest = len(everything.min_real)  # one more than the contract has room for
        with pytest.raises(ContractRevert, match="PolicyInvalid"):
            ledger.synthetic.take(SetPolicy(replace(POLICY, allowed_generators=1 << largest), 2))
    assert len(GENERATORS) < largest


def test_every_generator_is_a_method_of_balancing():
    assert set(BALANCE_KEYS) == {"none", "class_weighted", "public_weights", "logit_adjustment", *GENERATORS}
    assert set(SYNTHETIC) == {name for name, keys in BALANCE_KEYS.items() if "policy" in keys}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("min_real", {"gan": 3}, "must map generators out of oversample, smote, borderline, adasyn, timegan"),
        ("share_cap", 1.5, "balance.policy.share_cap is 1.5"),
        ("classes", "SS", "must be different classes"),
        ("expiry_seconds", 10, "greater than or equal to 3600"),
        ("review", True, "balance.policy.review is not a known key"),
    ],
)
def test_wrong_policies_are_one_sentence(tiny_config: Callable[..., RunConfig], key: str, value: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        tiny_config(**{f"balance.policy.{key}": value})


def test_only_runs_with_synthetic_beats_have_the_policy_in_their_hash(tiny_config: Callable[..., RunConfig]):
    for method in BALANCE_KEYS:
        given = {"balance.weights": {"S": 5, "V": 2}} if method == "public_weights" else {}
        one, other = (tiny_config(**{"balance.method": method, "balance.policy.quota": q, **given}) for q in (5, 6))
        assert (config_hash(one) != config_hash(other)) == (method in SYNTHETIC)
