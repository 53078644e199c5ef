"""What a job takes: from seed, hospital and number of the job alone, so that no machine and no order changes it.

A job is a download, local work and an upload; a hospital that is away pauses it. Times are whole microseconds and energies
whole nanojoules, so that sums have no order and two computers agree. Energy of computing and sending as in BPFISH (Singh and
Pratap), equations 7 to 9: cycles * kappa * frequency^2, and watts * seconds of the upload.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from engine.errors import ConfigError
from engine.seeds import generator
from engine.timing.config import ClockConfig

MICRO, NANO = 10**6, 10**9
NEVER = 2**62  # microseconds
LONGEST = 1e9  # seconds of a job, so that sums of them stay below


class Device(NamedTuple):
    """A hospital's machine and link.

    Attributes:
        cycles: for the gradient of one beat; frequency: of them a second.
        uplink, downlink: bit/s.
        watts: of the radio while it sends.
        dropout: share of its jobs that are lost.
        slow: factor on all that it takes.
    """

    cycles: float
    frequency: float
    uplink: float
    downlink: float
    watts: float
    dropout: float
    slow: float = 1.0


class Load(NamedTuple):
    """The work of a whole job: gradients of single beats, and of batches; bits that travel each way."""

    beats: int
    batches: int
    bits: int


class Cost(NamedTuple):
    """What a job takes: microseconds of presence; nanojoules of computing and of sending; whether it is lost at its end."""

    busy: int
    compute: int
    radio: int
    lost: bool


class Fleet:
    """The hospitals of one run on the clock."""

    def __init__(
        self,
        config: ClockConfig,
        seed: int,
        hospitals: int,
        rates: Mapping[int, float] = MappingProxyType({}),
        hops: float = 0.0,
    ) -> None:
        """
        Args:
            rates: hospital -> bit/s both ways, in the place of its device's.
            hops: seconds that levels between hospitals and coordinator add to each round.
        """
        self._config, self._seed = config, seed
        self.devices = tuple(
            one._replace(uplink=rates[h], downlink=rates[h]) if h in rates else one
            for h, one in enumerate(devices(config, seed, hospitals))
        )
        self.block = round(config.block * MICRO) + round(hops * MICRO)  # between two rounds
        self._absences: dict[int, _Absences] = {}
        self._day, self._up = round(config.day * MICRO), round(config.day * (1 - config.night) * MICRO)
        self._phases: dict[int, int] = {}

    def cost(self, hospital: int, number: int, load: Load, work: float = 1.0) -> Cost:
        """What job `number` of a hospital takes; `work` is its share of the load's computing."""
        config = self._config
        device = self.devices[min(hospital, len(self.devices) - 1)]  # the imaginary one of pooled data is as the last
        draw = generator(self._seed, "job", number, hospital)
        stretch = math.exp(config.jitter * draw.standard_normal())
        lost = bool(draw.random() < device.dropout)
        if config.gradient_seconds is None:
            seconds = work * load.beats * device.cycles / device.frequency
        else:
            seconds = work * load.batches * config.gradient_seconds
        sending = load.bits / device.uplink * device.slow
        busy = seconds * stretch * device.slow + load.bits / device.downlink * device.slow + sending
        if busy > LONGEST:
            raise ConfigError(
                f"clock: a job of hospital {hospital} would take {busy:.3g} s by its machine and link; allowed: {LONGEST:g} s."
            )
        joules = work * load.beats * device.cycles * config.kappa * device.frequency**2
        return Cost(max(1, round(busy * MICRO)), round(joules * NANO), round(sending * device.watts * NANO), lost)

    def end(self, hospital: int, start: int, busy: int) -> int:
        """When a job ends that needs so much presence, in microseconds."""
        now, left = start, busy
        while True:
            now, gone = self._present(hospital, now)
            if now + left <= gone:
                return now + left
            left -= gone - now
            now = gone

    def _present(self, hospital: int, at: int) -> tuple[int, int]:
        """The first presence from a moment on: since when, until when."""
        config, since, until = self._config, at, NEVER
        while True:
            if config.on is not None:
                absences = self._absences.setdefault(hospital, _Absences(config, self._seed, hospital))
                since, until = absences.presence(since)
            if config.night == 0:
                return since, until
            hour = (since + self._phase(hospital)) % self._day
            if hour < self._up:
                return since, min(until, since - hour + self._up)
            since += self._day - hour  # sleeps until morning, and may be away by then

    def _phase(self, hospital: int) -> int:
        if hospital not in self._phases:
            self._phases[hospital] = int(generator(self._seed, "night", 0, hospital).random() * self._day)
        return self._phases[hospital]


class _Absences:
    """Presence and absence in turn, from time 0 on; drawn as far as anybody has asked."""

    def __init__(self, config: ClockConfig, seed: int, hospital: int) -> None:
        assert config.on is not None
        self._means = (config.on * MICRO, config.off * MICRO)
        self._draw = generator(seed, "absence", 0, hospital)
        self._ends: list[int] = []  # of presence, absence, presence, ...

    def presence(self, at: int) -> tuple[int, int]:
        while not self._ends or self._ends[-1] <= at:
            last = self._ends[-1] if self._ends else 0
            self._ends.append(last + max(1, round(self._draw.exponential(self._means[len(self._ends) % 2]))))
        place = int(np.searchsorted(self._ends, at, side="right"))
        if place % 2 == 0:
            return at, self._ends[place]
        return self.presence(self._ends[place])


def shannon(bandwidth: float, sinr: float) -> float:
    """Rate of a channel in bit/s; bandwidth in Hz, SINR in dB.

    >>> shannon(20e6, 0.0)
    20000000.0
    """
    return bandwidth * math.log2(1 + 10 ** (sinr / 10))


def devices(config: ClockConfig, seed: int, hospitals: int) -> Sequence[Device]:
    """The fleet of a configuration, by hospital."""
    match config.fleet:
        case "listed":
            return tuple(Device(*(getattr(one, name) for name in Device._fields[:-1])) for one in config.devices)
        case "bpfish":
            return tuple(bpfish(seed, hospital, config.dropout) for hospital in range(hospitals))
    rates = (config.uplink, config.downlink)
    if config.sinr is not None:
        rates = (shannon(config.bandwidth, config.sinr),) * 2
    plain = Device(config.cycles, config.frequency, *rates, config.watts, config.dropout)
    if config.fleet != "stragglers":
        return (plain,) * hospitals
    drawn = generator(seed, "stragglers").choice(hospitals, round(config.share * hospitals), replace=False)
    slow = set(drawn.tolist() if config.slow is None else config.slow)
    return tuple(plain._replace(slow=config.factor) if h in slow else plain for h in range(hospitals))


def bpfish(seed: int, hospital: int, dropout: float = 0.0) -> Device:
    """A medical centre as in table III of BPFISH; transmit power is read as dBW."""
    draw = generator(seed, "fleet", 0, hospital)
    cycles, frequency = draw.uniform(1e4, 3e4), draw.uniform(1e9, 2.6e9)
    watts, sinr = 10 ** (draw.uniform(1, 10) / 10), draw.uniform(13, 20)
    rate = int(draw.integers(1, 11)) * shannon(20e6, sinr)
    return Device(cycles, frequency, rate, rate, watts, dropout)
