"""Rounds on the virtual clock: who has come in when a round ends, who has not, and who begins anew.

A round is a flush of the buffer. Between two flushes jobs end one after another, by (time, hospital); a hospital whose update
lies in the buffer waits for the flush. What a job takes follows from seed, hospital and number alone, so what happens is known
before anybody trains: `ask` names the jobs that a round ends with, and the real work is done then, from the models that these
jobs began with.

    synchronous        waits for all
    semi-synchronous   for the first `first`, or until the `deadline`; who is late then is given up
    buffered           for `buffer` updates (FedBuff, Nguyen et al. 2022, arXiv 2106.06639)
    fedasync           for one (Xie, Koyejo, Gupta 2019, arXiv 1903.03934)
    fedcompass         for a group whose local work was cut so that its members meet (Li et al. 2024, arXiv 2309.14675)

The last three go on with the jobs that are under way. One that would be older than `max_staleness` rounds is given up, and its
hospital begins with the newest model.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.messages import Absent, Asked, Job, LoopState, Measured, Pace, Start, Taken, Tally, Timeline, Trained
from engine.result import RoundSummary
from engine.schedule.config import ScheduleConfig
from engine.schedule.sampled import Sampled
from engine.schedule.staleness import discount
from engine.timing.fleet import MICRO, NEVER, Fleet, Load

_PARTS = 64  # fedcompass hands out work in such parts


@dataclass(frozen=True)
class Clocked:
    """A schedule on the virtual clock.

    Attributes:
        sampled: who may be asked, how many at a time.
        loads: of a whole job, by trainer.
    """

    sampled: Sampled
    config: ScheduleConfig
    fleet: Fleet
    loads: Mapping[int, Load]

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        pace = self.pace(round, state.timeline, state.history, state.measured)
        older = {**state.older, state.round: state.params}
        began = {job.hospital: job for job in pace.arrived}
        counts = discount(self.config, round, pace.arrived, state.timeline.tallies, self.sampled.trainers)
        starts = {
            h: Start(began[h].start, older[began[h].start], began[h].tick, began[h].work, counts[h])
            for h in sorted(began)
        }
        return Asked(round, tuple(starts), state.params, model, starts=starts, pace=pace)

    def take(self, asked: Asked, trained: Trained) -> Taken:
        return self.sampled.take(asked, trained)

    def pace(
        self, round: int, line: Timeline, history: Sequence[RoundSummary] = (), measured: Sequence[Measured] = ()
    ) -> Pace:
        """What happens on the clock until a round ends."""
        busy = frozenset(job.hospital for job in line.jobs)
        run = _Run(self, round, line)
        run.begin(self.sampled.select(round, history, measured, busy))
        while not run.is_over():
            run.step()
        return run.flush()


class _Run:
    """The events of one round."""

    def __init__(self, schedule: Clocked, round: int, line: Timeline) -> None:
        self._schedule, self._config, self._round = schedule, schedule.config, round
        self._now = self._began = line.now
        self._heap = [(job.ends, job.hospital, job) for job in line.jobs]
        heapq.heapify(self._heap)
        self._begun = line.begun
        self._tallies = dict(line.tallies)
        self._arrived: list[Job] = []
        self._lost: list[int] = []  # hospitals that wait for the flush, with nothing to bring
        self._absent: list[Absent] = []

    @property
    def _waits(self) -> bool:
        return self._config.mode in ("synchronous", "semi-synchronous")

    def begin(self, hospitals: Sequence[int]) -> None:
        """These hospitals begin from the last model, now."""
        plans = self._plans(hospitals)
        tick = 1 + self._begun // self._schedule.sampled.per_round
        for hospital in hospitals:
            work, meets = plans.get(hospital, (1.0, 0))
            tally = self._tallies.get(hospital, Tally())
            cost = self._schedule.fleet.cost(hospital, tally.jobs + 1, self._schedule.loads[hospital], work)
            ends = self._schedule.fleet.end(hospital, self._now, cost.busy)
            job = Job(hospital, tally.jobs + 1, self._round - 1, tick, work, self._now, ends, meets or ends, *cost)
            self._tallies[hospital] = tally._replace(jobs=job.number)
            self._begun += 1
            heapq.heappush(self._heap, (ends, hospital, job))

    def is_over(self) -> bool:
        """Whether the round ends before the next event."""
        if not self._arrived:
            return False
        if not self._heap:
            return True
        following = self._heap[0][0]
        match self._config.mode:
            case "synchronous":
                return False
            case "semi-synchronous":
                enough = self._config.first is not None and len(self._arrived) >= self._config.first
                return enough or following > self._deadline()
            case "fedcompass":
                met = {job.meets for job in self._arrived} - {job.meets for _, _, job in self._heap}
                return following > self._now and (bool(met) or following > self._patience())
            case _:
                return len(self._arrived) >= self._config.updates

    def step(self) -> None:
        """The next event."""
        if not self._heap:  # all that were asked lost their work
            again, self._lost = sorted(self._lost), []
            self.begin(again)
            return
        _, _, job = heapq.heappop(self._heap)
        self._now = job.ends
        if not job.lost:
            self._arrived.append(job)
            self._count(job, delivered=1, pace=round((job.ends - job.began) / job.work))
            return
        self._absent.append(Absent(job.hospital, job.number, "dropped", job.start))
        self._count(job, dropped=1, wasted=job.busy)
        if self._waits:
            self._lost.append(job.hospital)
        else:
            self.begin([job.hospital])

    def flush(self) -> Pace:
        """The end of the round."""
        if (
            self._heap
            and self._config.mode == "semi-synchronous"
            and len(self._arrived) < (self._config.first or NEVER)
        ):
            self._now = self._deadline()
        going = []
        for _, _, job in self._heap:
            if self._waits or self._round - job.start > self._config.max_staleness:
                self._give_up(job)
            else:
                going.append(job)
        line = Timeline(self._now + self._schedule.fleet.block, tuple(sorted(going)), self._begun, self._tallies)
        return Pace(line, tuple(sorted(self._arrived)), tuple(sorted(self._absent)))

    def _deadline(self) -> int:
        limit = self._config.deadline
        return NEVER if limit is None else max(self._now, self._began + round(limit * MICRO))

    def _patience(self) -> int:
        """Until when a group waits for those of its members that are slower than they were."""
        return max(round(j.meets + self._config.slack * (j.meets - j.began)) for j in self._arrived)

    def _give_up(self, job: Job) -> None:
        """A job ends without being done; of what it takes, so much has been spent."""
        spent = min(self._now - job.began, job.busy)
        part = spent / job.busy
        cut = job._replace(busy=spent, compute=round(job.compute * part), radio=0)
        self._absent.append(Absent(job.hospital, job.number, "late", job.start))
        self._count(cut, late=1, wasted=spent)

    def _count(
        self, job: Job, delivered: int = 0, dropped: int = 0, late: int = 0, wasted: int = 0, pace: int = 0
    ) -> None:
        was = self._tallies[job.hospital]
        self._tallies[job.hospital] = Tally(
            was.jobs,
            was.delivered + delivered,
            was.dropped + dropped,
            was.late + late,
            was.busy + job.busy,
            was.wasted + wasted,
            was.compute + job.compute,
            was.radio + job.radio,
            pace or was.pace,
        )

    def _plans(self, hospitals: Sequence[int]) -> dict[int, tuple[float, int]]:
        """Share of work and moment to meet, for those whose speed is known; the slowest choose first."""
        if self._config.mode != "fedcompass":
            return {}
        groups = {job.meets for _, _, job in self._heap if job.meets > self._now}
        plans: dict[int, tuple[float, int]] = {}
        paces = {h: self._tallies.get(h, Tally()).pace for h in hospitals}
        for hospital in sorted(hospitals, key=lambda h: (-paces[h], h)):
            pace = paces[hospital]
            if pace == 0:
                plans[hospital] = (self._config.least, 0)  # until it is known, little
                continue
            fits = {(moment - self._now) * _PARTS // pace: moment for moment in sorted(groups)}
            fits = {parts: moment for parts, moment in fits.items() if self._config.least * _PARTS <= parts <= _PARTS}
            if fits:
                parts = max(fits)
                plans[hospital] = (parts / _PARTS, fits[parts])
            else:
                plans[hospital] = (1.0, self._now + pace)
                groups.add(self._now + pace)
        return plans


def rounds_of(schedule: Clocked, rounds: int) -> list[Pace]:
    """All rounds of a run on the clock, without training; for studies of the schedule itself."""
    found, line = [], Timeline()
    for number in range(1, rounds + 1):
        found.append(schedule.pace(number, line))
        line = found[-1].line
    return found
