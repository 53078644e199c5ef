"""Settings of the association of hospitals with miners (BPFISH)."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.settings import Mistake, Section

METHODS = ("paper", "capacity", "random", "all-on-one", "optimal")
CAPPED = ("capacity", "random", "optimal")


class AssociationConfig(Section):
    """Miners that take hospitals' updates, and how hospitals come to them, see `engine/association/matching.py`."""

    method: Literal["none", "paper", "capacity", "random", "all-on-one", "optimal"] = Field(
        "none",
        description="none: there are no miners; Algorithm 1 of BPFISH; deferred acceptance with places; at random; all with the first "
        "miner; the largest sum of the hospitals' utilities",
    )
    miners: int = Field(5, ge=1, le=1000, description="number of miners")
    capacity: int | None = Field(
        None,
        ge=1,
        description="hospitals that a miner takes; null: as many as make room for all, and at random any number",
    )
    reward: float = Field(10.0, ge=0, le=1e9, description="units that a miner is paid for a block")
    share: float = Field(
        0.5, gt=0, le=1, description="all but paper: share of its rewards that a miner leaves to its hospitals"
    )
    phi: float = Field(1.0, ge=0, le=1e9, description="units that a joule costs a hospital")
    rho: float = Field(
        0.5, ge=0, le=1, description="weight of the utility in the objective; that of the loss is 1 - rho"
    )
    deadline: float | None = Field(
        None, gt=0, le=1e9, description="virtual seconds of a job; who takes longer with every miner is left out"
    )
    sinr: tuple[float, float] = Field(
        (13.0, 20.0), description="dB, of each link from a hospital to a miner: drawn evenly"
    )
    blocks: tuple[int, int] = Field((1, 10), description="resource blocks of each link: drawn evenly")
    bandwidth: float = Field(2e7, gt=0, le=1e12, description="Hz of a resource block")

    def clashes(self) -> Iterator[Mistake]:
        if not -50 <= self.sinr[0] <= self.sinr[1] <= 100:
            yield Mistake("sinr must be two values from -50 to 100 dB, the lower one first", ["sinr"])
        if not 1 <= self.blocks[0] <= self.blocks[1] <= 1000:
            yield Mistake("blocks must be two whole numbers from 1 to 1000, the lower one first", ["blocks"])

    @property
    def runs(self) -> bool:
        """Whether there are miners."""
        return self.method != "none"

    def places(self, hospitals: int) -> int:
        """Hospitals that a miner takes."""
        if self.method not in CAPPED:
            return hospitals
        if self.capacity is None:
            return hospitals if self.method == "random" else -(-hospitals // self.miners)
        return self.capacity

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        if not self.runs:
            return {"method": "none"}
        unread = {"capacity"} if self.method not in CAPPED else set()
        unread |= {"share"} if self.method == "paper" else set()
        return self.model_dump(mode="json", exclude=unread)
