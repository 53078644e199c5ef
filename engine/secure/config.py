"""Settings of secure aggregation."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.secure.protocol import threshold_of
from engine.settings import Mistake, Section

FEWEST = 3  # with two in a sum, each knows the other's update
MOST = 64  # in a sum: each deals shares to each other, and a round's journal grows with the square


class SecureConfig(Section):
    """Masks over updates, see `engine/secure/protocol.py`."""

    method: Literal["none", "masks"] = Field(
        "none", description="masks: nobody sees an update of one hospital, only sums; the model is the same to the bit"
    )
    threshold: Literal["auto"] | int = Field(
        "auto", description="masks: hospitals that must answer to the end; auto: the least number above two thirds"
    )
    min_summands: int = Field(3, ge=FEWEST, description="masks: a sum of fewer updates is refused")
    buckets: int | None = Field(
        None,
        ge=1,
        description="masks: so many sums of drawn hospitals each, over whose means a rule may decide, or one for each edge of "
        "topology.levels; null: one",
    )

    @property
    def groups(self) -> int:
        """How many sums a round has; 0 without masks."""
        return 0 if self.method == "none" else self.buckets or 1

    @property
    def least(self) -> int:
        """Hospitals that a sum must have."""
        return max(FEWEST, self.min_summands)

    def used(self) -> dict[str, Any]:
        """Only what the method reads; nothing without one."""
        return {} if self.method == "none" else {"secure": self.model_dump(mode="json")}

    def size(self, parameters: int) -> float:
        """Bytes of a masked update, without some kilobytes of keys and shares: 8 for each number, and its weight."""
        return 8.0 * (parameters + 1)

    @property
    def says(self) -> str:
        """What is hidden and what stays visible, in a sentence; "" where nothing is hidden."""
        if not self.groups:
            return ""
        sums = "the sum of each round" if self.groups == 1 else f"{self.groups} sums in each round"
        return (
            f"masks hide the update of each hospital; visible are {sums}, of {self.min_summands} or more, who took part, and how many beats "
            "each trained on. One coordinator routes all messages"
        )

    def threshold_in(self, hospitals: int) -> int:
        """The threshold of a group of so many."""
        return threshold_of(hospitals) if self.threshold == "auto" else int(self.threshold)

    def problem(self, hospitals: int) -> str:
        """Why so many hospitals in a round cannot be summed like this; "" if they can."""
        if self.method == "none":
            return ""
        least, what = self.least, "aggregation.secure.method masks"
        smallest, largest = hospitals // self.groups, -(-hospitals // self.groups)
        if smallest < least:
            parts = f" in each of {self.groups} buckets" if self.groups > 1 else ""
            why = ": with two, the sum less one's own update is the other's" if least == FEWEST else ""
            return f"{what} needs at least {least} hospitals in a round{parts}, not {hospitals}{why}"
        if largest > MOST:
            fit = f"aggregation.secure.buckets from {-(-hospitals // MOST)} on"
            return (
                f"{what} adds up at most {MOST} hospitals, not {largest}: each deals shares to each other, {largest * largest:,} in a round, "
                f"and graphs of neighbours are not built; allowed: {fit}, or a lower federation.participation"
            )
        if self.threshold != "auto" and not threshold_of(largest) <= self.threshold <= smallest:
            return (
                f"aggregation.secure.threshold is {self.threshold}; allowed: auto, or {threshold_of(largest)} (more than two thirds of "
                f"{largest} hospitals, so that no two sets can be signed) to {smallest}"
            )
        return ""

    def clashes_with(self, run: Any) -> Iterator[Mistake]:
        """What of a whole configuration (`RunConfig`) does not go with masks."""
        if self.method == "none":
            return
        key, merging = "aggregation.secure.method", run.aggregation
        in_a_round = max(1, round(run.federation.participation * run.cohort.hospitals))
        if says := self.problem(in_a_round):
            yield Mistake(says, [key, "cohort.hospitals", "federation.participation", "aggregation.secure.buckets"])
        if merging.rule != "mean" and not (merging.bears and self.buckets is not None):
            says = "needs the single updates; allowed with masks: mean, or one of ours over the means of aggregation.secure.buckets"
            yield Mistake(f"aggregation.rule {merging.rule} {says}", [key, "aggregation.rule"])
        if run.federation.algorithm in ("local", "centralised"):
            says = f"{key}: with federation.algorithm {run.federation.algorithm} no updates are added up"
            yield Mistake(says, [key, "federation.algorithm"])
        for other, found, allowed, why in (
            ("aggregation.mix", merging.mix, "none", "mixes single updates"),
            ("committee.method", run.committee.method, "none", "judges single updates"),
            ("ledger.reputation", run.ledger.reputation, "none", "follows from scores of single updates"),
            ("update.compression", run.update.compression, "none", "saves nothing, as masks fill all bits"),
            ("schedule.mode", run.schedule.mode, "synchronous", "leaves no fixed group that masks could cancel in"),
            ("clock.fleet", run.clock.fleet, "none", "knows no time of the steps between hospitals"),
        ):
            if found != allowed:
                says = f"{other} {found} {why}; allowed with {key} masks: {allowed}"
                yield Mistake(says, [key, other])
        if run.attack.sees_others:
            says = f"attack.method {run.attack.method} sees the updates of others, which masks hide"
            yield Mistake(says, [key, "attack.method"])
        if run.ledger.backend == "none":
            says = f"{key} masks needs a ledger, whose keys hospitals know each other by; ledger.backend is none"
            yield Mistake(says, [key, "ledger.backend"])
