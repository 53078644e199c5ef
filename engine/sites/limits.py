"""What goes with hospitals at sites of their own; both sides look, as a site does not take a coordinator's word for it."""

from collections.abc import Iterator
from typing import Any

from engine.own.reference import is_own
from engine.settings import Mistake
from engine.synthesis.config import makes_beats

SPLITS = ("chronological", "random", "patients")  # that a hospital can make of its own records alone


def unfit(config: Any) -> Iterator[Mistake]:
    """What of a `RunConfig` does not."""
    pool = "execution.pool sites"
    for key, found in (
        ("data.source", config.data.source),
        ("model.network", config.model.network),
        ("federation.algorithm", config.federation.algorithm),
        ("aggregation.rule", config.aggregation.rule),
        ("balance.method", config.balance.method),
        ("schedule.mode", config.schedule.mode),
        ("selection.policy", config.selection.policy),
    ):
        if is_own(found):
            yield Mistake(f"{pool}: {key} is code of your own, which no hospital takes from a coordinator", [key])
    for key, right, allowed in (
        ("cohort.split", config.cohort.split in SPLITS, " or ".join(SPLITS)),
        ("cohort.partition", config.cohort.partition != "beat-dirichlet", "any that keeps patients whole"),
        ("cohort.stratify", not config.cohort.stratify, "false, as it weighs all hospitals' beats against each other"),
        ("federation.algorithm", config.federation.algorithm != "centralised", "any but centralised"),
        ("attack.method", config.attack.method == "none", "none: attackers are played in simulations"),
        ("balance.method", not makes_beats(config.balance.method), "one that makes no beats"),
        ("execution.oracle", config.execution.oracle != "stacked", "auto, native, torch"),
        ("privacy.secret", config.privacy.secret == "key" or not config.privacy.noised, "key"),
    ):
        if not right:
            yield Mistake(f"{pool}: {key} must be {allowed}", ["execution.pool", key])
    if config.ledger.backend != "none" and config.ledger.keystore is None:
        says = f"{pool}: with a ledger it needs ledger.keystore, as keys that follow from the seed would be everybody's"
        yield Mistake(says, ["execution.pool", "ledger.keystore"])
