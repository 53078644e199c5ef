"""The virtual clock of a run, a second time: from its configuration and the sizes of its hospitals alone, by plain lists.

Written from the definitions in `docs/time.md`, not from `engine/timing` and `engine/schedule`. Times are microseconds, energies
nanojoules. Nobody trains here: what a job takes is a function of the seed, the hospital and the number of the job.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from engine.audit.settings import ASYNCHRONOUS

_EVENTS = 2_000_000  # that an audit looks at
_FOREVER = 2**62


class Came(NamedTuple):
    """An update that came in: the round after which its model was made, microseconds of its job, factor on its weight."""

    start: int
    took: int
    discount: float


@dataclass(frozen=True)
class Beat:
    """One round on the clock: when it ends, by slot who came in, jobs without an update as (slot, job, kind, start)."""

    now: int
    came: Mapping[int, Came]
    absent: Sequence[tuple[int, int, str, int]]
    totals: Mapping[int, "Total"]


@dataclass
class Total:
    """Of one hospital's jobs that have ended; `last` is what a whole one took last."""

    jobs: int = 0
    delivered: int = 0
    dropped: int = 0
    late: int = 0
    busy: int = 0
    wasted: int = 0
    compute: int = 0
    radio: int = 0
    last: int = 0


@dataclass
class _Job:
    slot: int
    number: int
    start: int
    work: float
    began: int
    meets: int
    busy: int
    compute: int
    radio: int
    lost: bool
    ends: int = 0


class Size(NamedTuple):
    """The work of a whole job: beats and batches whose gradients it takes, bits that travel each way."""

    beats: int
    batches: int
    bits: int


@dataclass
class Clock:
    """The rounds of one run, in order.

    Attributes:
        schedule, clock: sections of the configuration.
        sizes: slot -> work of a job, of those that may be asked.
        places: hospitals that work at a time.
        hospitals: of the cohort.
        chosen: who is asked in a round, of those who are free, and how many.
        rates: slot -> bit/s of its link to a miner, in the place of its own.
        hops: seconds that levels add to each round.
    """

    schedule: Mapping[str, Any]
    clock: Mapping[str, Any]
    seed: int
    sizes: Mapping[int, Size]
    places: int
    hospitals: int
    chosen: Callable[[int, Sequence[int], int], set[int]]
    now: int = 0
    under_way: list[_Job] = field(default_factory=list)
    totals: dict[int, Total] = field(default_factory=dict)
    left: int = _EVENTS
    rates: Mapping[int, float] = field(default_factory=dict)
    hops: float = 0.0
    _away: dict[int, tuple[list[int], np.random.Generator]] = field(default_factory=dict)

    def next(self, number: int) -> Beat:
        """The round after the last.

        Raises:
            ValueError: more happens in it than an audit looks at.
        """
        began, mode = self.now, self.schedule["mode"]
        counts = {slot: total.delivered for slot, total in self.totals.items()}
        self._begin(self._asked(number), number)
        came: list[_Job] = []
        absent: list[tuple[int, int, str, int]] = []
        lost: list[int] = []
        while not self._over(mode, began, came):
            if not self.under_way:
                lost, again = [], sorted(lost)
                self._begin(again, number)
                continue
            job = min(self.under_way, key=lambda one: (one.ends, one.slot))
            self.under_way.remove(job)
            self.now = job.ends
            total = self.totals[job.slot]
            total.busy, total.compute, total.radio = (
                total.busy + job.busy,
                total.compute + job.compute,
                total.radio + job.radio,
            )
            if not job.lost:
                came.append(job)
                total.delivered += 1
                total.last = round((job.ends - job.began) / job.work) or total.last
                continue
            absent.append((job.slot, job.number, "dropped", job.start))
            total.dropped += 1
            total.wasted += job.busy
            if mode in ASYNCHRONOUS:
                self._begin([job.slot], number)
            else:
                lost.append(job.slot)
        if mode == "semi-synchronous" and self.under_way and len(came) < (self.schedule["first"] or _FOREVER):
            self.now = self._deadline(began)
        for job in list(self.under_way):
            if mode in ASYNCHRONOUS and number - job.start <= self.schedule["max_staleness"]:
                continue
            self.under_way.remove(job)
            absent.append((job.slot, job.number, "late", job.start))
            spent, total = min(self.now - job.began, job.busy), self.totals[job.slot]
            total.late, total.busy, total.wasted = total.late + 1, total.busy + spent, total.wasted + spent
            total.compute += round(job.compute * (spent / job.busy))
        self.now += round(self.clock["block"] * 1e6) + round(self.hops * 1e6)
        found = {j.slot: Came(j.start, j.ends - j.began, self._discount(number, j, counts)) for j in came}
        return Beat(self.now, dict(sorted(found.items())), sorted(absent), self.totals)

    def _asked(self, number: int) -> list[int]:
        busy = {job.slot for job in self.under_way}
        idle = [slot for slot in sorted(self.sizes) if slot not in busy]
        wanted = self.places - len(busy)
        return sorted(self.chosen(number, idle, wanted)) if idle and wanted else []

    def _over(self, mode: str, began: int, came: Sequence[_Job]) -> bool:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {_EVENTS} jobs")
        if not came:
            return False
        if not self.under_way:
            return True
        following = min(job.ends for job in self.under_way)
        if mode == "semi-synchronous":
            first = self.schedule["first"]
            return (first is not None and len(came) >= first) or following > self._deadline(began)
        if mode == "buffered":
            return len(came) >= int(self.schedule["buffer"])
        if mode == "fedcompass":
            whole = {job.meets for job in came} - {job.meets for job in self.under_way}
            patience = max(round(j.meets + self.schedule["slack"] * (j.meets - j.began)) for j in came)
            return following > self.now and (bool(whole) or following > patience)
        return mode == "fedasync"

    def _deadline(self, began: int) -> int:
        limit = self.schedule["deadline"]
        return _FOREVER if limit is None else max(self.now, began + round(limit * 1e6))

    def _begin(self, slots: Sequence[int], number: int) -> None:
        plans = self._plans(slots) if self.schedule["mode"] == "fedcompass" else {}
        for slot in slots:
            total = self.totals.setdefault(slot, Total())
            total.jobs += 1
            work, meets = plans.get(slot, (1.0, 0))
            job = _Job(slot, total.jobs, number - 1, work, self.now, meets, *self._cost(slot, total.jobs, work))
            job.ends = self._end(slot, self.now, job.busy)
            job.meets = job.meets or job.ends
            self.under_way.append(job)

    def _plans(self, slots: Sequence[int]) -> dict[int, tuple[float, int]]:
        least, plans = self.schedule["least"], dict[int, tuple[float, int]]()
        meetings = {job.meets for job in self.under_way if job.meets > self.now}
        known = {slot: self.totals[slot].last if slot in self.totals else 0 for slot in slots}
        for slot in sorted(slots, key=lambda one: (-known[one], one)):
            if not known[slot]:
                plans[slot] = (least, 0)
                continue
            choice = [((moment - self.now) * 64 // known[slot], -moment) for moment in meetings]
            choice = [one for one in choice if least * 64 <= one[0] <= 64]
            if choice:
                # of equal shares of work the later meeting
                parts = max(one[0] for one in choice)
                plans[slot] = (parts / 64, max(-moment for share, moment in choice if share == parts))
            else:
                plans[slot] = (1.0, self.now + known[slot])
                meetings.add(self.now + known[slot])
        return plans

    def _cost(self, slot: int, number: int, work: float) -> tuple[int, int, int, bool]:
        clock, size = self.clock, self.sizes[slot]
        machine = self._device(slot)
        draw = stream(self.seed, "job", number, slot)
        stretch = math.exp(clock["jitter"] * draw.standard_normal())
        lost = bool(draw.random() < machine["dropout"])
        if clock["gradient_seconds"] is None:
            seconds = work * size.beats * machine["cycles"] / machine["frequency"]
        else:
            seconds = work * size.batches * clock["gradient_seconds"]
        up, down = size.bits / machine["uplink"] * machine["slow"], size.bits / machine["downlink"] * machine["slow"]
        busy = max(1, round((seconds * stretch * machine["slow"] + down + up) * 1e6))
        joules = work * size.beats * machine["cycles"] * clock["kappa"] * machine["frequency"] ** 2
        return busy, round(joules * 1e9), round(up * machine["watts"] * 1e9), lost

    def _device(self, slot: int) -> Mapping[str, float]:
        found = device(self.clock, self.seed, slot, self.hospitals)
        return {**found, "uplink": self.rates[slot], "downlink": self.rates[slot]} if slot in self.rates else found

    def _end(self, slot: int, at: int, busy: int) -> int:
        """The moment at which a hospital has been there for so long."""
        while busy:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {_EVENTS} absences")
            there, until = self._there(slot, at)
            if not there:
                at = until
                continue
            step = min(busy, until - at)
            at, busy = at + step, busy - step
        return at

    def _there(self, slot: int, at: int) -> tuple[bool, int]:
        """Whether a hospital is there at a moment, and until when that is so."""
        there, until, clock = True, _FOREVER, self.clock
        if clock["on"] is not None:
            if slot not in self._away:
                self._away[slot] = ([], stream(self.seed, "absence", 0, slot))
            ends, draw = self._away[slot]
            while not ends or ends[-1] <= at:
                mean = clock["off"] if len(ends) % 2 else clock["on"]
                ends.append((ends[-1] if ends else 0) + max(1, round(draw.exponential(mean * 1e6))))
            place = next(i for i, end in enumerate(ends) if end > at)
            there, until = place % 2 == 0, ends[place]
        if clock["night"] != 0:
            day, up = round(clock["day"] * 1e6), round(clock["day"] * (1 - clock["night"]) * 1e6)
            hour = (at + int(stream(self.seed, "night", 0, slot).random() * round(clock["day"] * 1e6))) % day
            there, until = there and hour < up, min(until, at - hour + (up if hour < up else day))
        return there, until

    def _discount(self, number: int, job: _Job, counts: Mapping[int, int]) -> float:
        """What an update counts; `counts` are updates that each hospital had delivered before the round."""
        schedule = self.schedule
        if schedule["mode"] not in ASYNCHRONOUS:
            return 1.0
        behind, factor = number - 1 - job.start, 1.0
        if schedule["staleness"] == "polynomial":
            factor = (1.0 + behind) ** -schedule["exponent"]
        elif schedule["staleness"] == "hinge" and behind > schedule["hinge"]:
            factor = 1.0 / (schedule["slope"] * (behind - schedule["hinge"]) + 1.0)
        if schedule["mode"] == "fedasync":
            factor *= schedule["mixing"]
        if schedule["correction"] == "rate":
            heard, many = sum(counts.values()), len(self.sizes)
            seldom = (heard + many) / (many * (counts.get(job.slot, 0) + 1))
            factor *= min(max(seldom, 1 / schedule["cap"]), schedule["cap"])
        return round(factor * 2**20) / 2**20


def stream(seed: int, purpose: str, round_: int = 0, slot: int = 0) -> np.random.Generator:
    """The numbers for a purpose in a round of a hospital."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, word, round_, slot])))


def rate(bandwidth: float, sinr: float) -> float:
    """bit/s of a channel, by Shannon; Hz and dB."""
    return bandwidth * math.log2(1 + 10 ** (sinr / 10))


def device(clock: Mapping[str, Any], seed: int, slot: int, hospitals: int) -> dict[str, float]:
    """The machine and the link of a hospital; the imaginary one of pooled data has those of the last."""
    slot, fleet = min(slot, hospitals - 1), clock["fleet"]
    if fleet == "listed":
        return {**clock["devices"][slot], "slow": 1.0}
    if fleet == "bpfish":
        draw = stream(seed, "fleet", 0, slot)
        cycles, frequency = draw.uniform(1e4, 3e4), draw.uniform(1e9, 2.6e9)
        watts, sinr = 10 ** (draw.uniform(1, 10) / 10), draw.uniform(13, 20)
        speed = int(draw.integers(1, 11)) * rate(20e6, sinr)
        drawn = {"cycles": cycles, "frequency": frequency, "uplink": speed, "downlink": speed, "watts": watts}
        return {**drawn, "dropout": clock["dropout"], "slow": 1.0}
    plain = {name: clock[name] for name in ("cycles", "frequency", "uplink", "downlink", "watts", "dropout")}
    if clock["sinr"] is not None:
        plain["uplink"] = plain["downlink"] = rate(clock["bandwidth"], clock["sinr"])
    slow = fleet == "stragglers" and slot in _slow(clock, seed, hospitals)
    return {**plain, "slow": clock["factor"] if slow else 1.0}


def _slow(clock: Mapping[str, Any], seed: int, hospitals: int) -> Sequence[int]:
    if clock["slow"] is not None:
        return list(clock["slow"])
    many = round(clock["share"] * hospitals)
    found: list[int] = stream(seed, "stragglers").choice(hospitals, many, replace=False).tolist()
    return found
