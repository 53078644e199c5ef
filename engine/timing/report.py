"""What a result says of the virtual clock."""

from typing import Literal

from engine.part import Many, Part


class Arrival(Part):
    """An update that came in on the virtual clock: what its job took, and the rounds that were done when it began."""

    id: int
    seconds: float
    start: int


class Absence(Part):
    """A job that came to nothing: "dropped", or "late" and given up."""

    id: int
    job: int
    why: Literal["dropped", "late"]
    start: int


class Virtual(Part):
    """A round on the virtual clock.

    Attributes:
        seconds: at its end, since the first round began.
        compute_joules, radio_joules: of all hospitals until then, for jobs that have ended.
    """

    seconds: float
    compute_joules: float
    radio_joules: float
    arrived: Many[Arrival]
    absent: Many[Absence]


class HospitalTime(Part):
    """One hospital on the virtual clock: its jobs that ended, and what they took; `wasted_seconds` came to nothing."""

    id: int
    delivered: int
    dropped: int
    late: int
    busy_seconds: float
    wasted_seconds: float
    compute_joules: float
    radio_joules: float


class ClockReport(Part):
    """The virtual clock after the last round; energies are of jobs that have ended, whatever came of them.

    Attributes:
        target_seconds, target_joules: at the end of the first round whose model reaches `clock.target`; None where none does.
    """

    virtual_seconds: float
    compute_joules: float
    radio_joules: float
    wasted_share: float
    delivered: int
    dropped: int
    late: int
    hospitals: Many[HospitalTime]
    target_seconds: float | None = None
    target_joules: float | None = None
