"""Settings of the levels between hospitals and coordinator."""

from collections.abc import Iterator

from pydantic import Field

from engine.settings import Mistake, Section


class LevelConfig(Section):
    """Nodes of a level, and the link of each to the level above."""

    nodes: int = Field(
        ..., ge=1, le=100_000, description="nodes of the level; what is below is shared out evenly, in order"
    )
    uplink: float = Field(1e8, gt=0, le=1e15, description="bit/s to the level above")
    downlink: float = Field(1e8, gt=0, le=1e15, description="bit/s from it")


class TopologyConfig(Section):
    """Who stands between hospitals and coordinator, see docs/time.md."""

    levels: tuple[LevelConfig, ...] = Field(
        (),
        max_length=8,
        description="from the hospitals up, each with nodes, uplink, downlink; none: hospitals send to the coordinator",
    )

    def clashes(self) -> Iterator[Mistake]:
        many = [level.nodes for level in self.levels]
        if many != sorted(many, reverse=True):
            yield Mistake(
                f"levels have {many} nodes from the hospitals up; none may have more than the one below", ["levels"]
            )
