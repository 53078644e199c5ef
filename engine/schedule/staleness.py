"""What an update counts that began from an older model, or comes from a hospital that is heard more often than others.

The factor goes on the weight of the update, and the mean divides by the weights without it: a buffer of old updates makes a
small step. It is rounded to a multiple of 2^-20, so that no computer differs in its last bit.
"""

from collections.abc import Mapping, Sequence

from engine.messages import Job, Tally
from engine.schedule.config import ScheduleConfig

GRAIN = 2.0**20


def discount(
    config: ScheduleConfig, number: int, arrived: Sequence[Job], tallies: Mapping[int, Tally], trainers: Sequence[int]
) -> dict[int, float]:
    """The factor of each hospital that came in; `tallies` are those before the round."""
    if not config.is_asynchronous:
        return {job.hospital: 1.0 for job in arrived}
    total = sum(tallies[h].delivered for h in trainers if h in tallies) if config.correction == "rate" else 0
    factors = {}
    for job in arrived:
        factor = aged(config, number - 1 - job.start)
        if config.mode == "fedasync":
            factor *= config.mixing
        if config.correction == "rate":
            own = tallies[job.hospital].delivered if job.hospital in tallies else 0
            rare = (total + len(trainers)) / (len(trainers) * (own + 1))
            factor *= min(max(rare, 1 / config.cap), config.cap)
        factors[job.hospital] = round(factor * GRAIN) / GRAIN
    return factors


def aged(config: ScheduleConfig, staleness: int) -> float:
    """By how many rounds a model is older than the last; 1 for the last.

    >>> aged(ScheduleConfig(mode="buffered"), 3)
    0.5
    """
    match config.staleness:
        case "polynomial":
            return float((1.0 + staleness) ** -config.exponent)
        case "hinge":
            beyond = staleness - config.hinge
            return 1.0 if beyond <= 0 else 1.0 / (config.slope * beyond + 1.0)
        case _:
            return 1.0
