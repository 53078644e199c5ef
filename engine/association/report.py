"""What a result says of the association of hospitals with miners."""

from engine.part import Many, Part


class Place(Part):
    """A hospital's miner, and what it is worth to it: units, joules in all rounds, seconds of a job without its draws."""

    id: int
    miner: int
    utility: float
    energy_joules: float
    delay_seconds: float


class MinerShare(Part):
    """A miner and its hospitals."""

    id: int
    hospitals: Many[int]


class AssociationReport(Part):
    """The association of a run; see docs/bpfish.md.

    Attributes:
        utility: U of BPFISH, eq. 19.
        energy_joules: of all hospitals in all rounds, computing and sending.
        delay_seconds: of the slowest hospital's job.
        objective: F, eq. 21, with the mean train loss of the last round; None where none is told.
        left_out: hospital -> why it has no miner and does not train.
    """

    method: str
    utility: float
    energy_joules: float
    delay_seconds: float
    objective: float | None
    miners: Many[MinerShare]
    hospitals: Many[Place]
    left_out: dict[str, str]
