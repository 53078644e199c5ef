"""From a run's configuration to its virtual clock: what a job is, whose link it goes over, and when rounds end."""

from collections.abc import Mapping, Sequence

from engine.algorithms.perfedavg import COST
from engine.association.build import NO_MINERS, Miners, build_association
from engine.config import RunConfig
from engine.data.cohort import HospitalData
from engine.levels.tree import seconds
from engine.messages import Schedule
from engine.schedule.build import on_clock
from engine.timing.fleet import Fleet, Load


def waits_for_all(config: RunConfig) -> bool:
    """Whether every round ends with the updates of all who were asked."""
    lossless = config.clock.dropout == 0 and not any(one.dropout for one in config.clock.devices)
    return config.schedule.mode == "synchronous" and (lossless or not config.clock.runs)


def timed(
    schedule: Schedule,
    config: RunConfig,
    hospitals: Sequence[HospitalData],
    parameters: int,
    rates: Mapping[int, float],
) -> Schedule:
    """The schedule on the virtual clock, where one is kept; `rates` are those of links to miners."""
    if not config.clock.runs:
        return schedule
    loads = {h.id: load_of(config, len(h.train), parameters) for h in hospitals}
    hops = sum(seconds(config.topology.levels, parameters))
    fleet = Fleet(config.clock, config.seed, config.cohort.hospitals, rates, hops)
    return on_clock(schedule, config.schedule, fleet, loads)


def miners_of(config: RunConfig, hospitals: Sequence[HospitalData], trainers: Sequence[int], parameters: int) -> Miners:
    """The association of those who may train with miners, where there are some."""
    if not config.association.runs:
        return NO_MINERS
    loads = {h.id: load_of(config, len(h.train), parameters) for h in hospitals if h.id in trainers}
    fleet = Fleet(config.clock, config.seed, config.cohort.hospitals)
    beats = {h.id: len(h.train) for h in hospitals}
    rounds, kappa = config.federation.rounds, config.clock.kappa
    return build_association(config.association, config.seed, rounds, kappa, fleet.devices, loads, beats)


def load_of(config: RunConfig, beats: int, parameters: int) -> Load:
    """What a job is on the virtual clock: of as many gradients as the algorithm is configured to take on the real train beats.

    Beats that balancing adds are not counted: how many there will be is not known before the training.
    """
    federation, bits = config.federation, 32 * parameters
    batches = federation.local_epochs * -(-beats // federation.batch_size)
    whole = federation.local_epochs * beats
    if federation.local_steps is not None:
        batches, whole = federation.local_steps, federation.local_steps * min(federation.batch_size, beats)
    if config.privacy.method == "dp-sgd":
        return Load(config.privacy.steps * min(federation.batch_size, beats), config.privacy.steps, bits)
    if federation.algorithm == "perfedavg":
        cost, tau = COST[federation.perfedavg.variant], federation.perfedavg.tau
        batches = cost * (tau or max(1, batches // cost))
        return Load(batches * min(federation.batch_size, beats), batches, bits)
    return Load(whole, batches, bits)
