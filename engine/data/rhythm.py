"""The rhythm of a simulated heart: when which beat comes, and what it is drawn from."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.data.patients import ABERRANT, BLOCK, FOCUS_A, FOCUS_B, LONE_P, NORMAL, PACED, FloatArray, Patient

MIN_RR = 0.28  # s; no two beats lie closer than the refractory period allows


@dataclass
class Rhythm:
    """Beats in time order, and the wave groups that draw them (one or more for each beat), as growing lists."""

    times: list[float] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    # (time s, row of the shape bank, weight, scale of P, shift of P in s, preceding interval s)
    groups: list[tuple[float, int, float, float, float, float]] = field(default_factory=list)


def draw_rhythm(patient: Patient, duration: float, rng: np.random.Generator) -> Rhythm:
    """Walk from beat to beat through `duration` seconds and note each beat's time, symbol and shape.

    The sinus node ticks on behind V and F beats, which block one tick: the full compensatory pause. An S beat
    resets the node, so the pause after it is shorter. A beat's shape is noted as one or more wave groups.
    """
    return _Walk(patient, duration, rng).to_the_end()


def wander(duration: float, spacing: float, rng: np.random.Generator) -> Callable[[Any], FloatArray]:
    """Draw a smooth curve over 0..duration (s) with values of about -1 to 1 and a bend every `spacing` seconds."""
    from scipy.interpolate import CubicSpline  # half a second, which nobody pays whose records are there already

    knots = max(4, math.ceil(duration / spacing) + 2)
    return CubicSpline(np.linspace(0.0, duration, knots), rng.uniform(-1.0, 1.0, knots))


def _spells(duration: float, share: float, rng: np.random.Generator) -> FloatArray:
    """Draw when an intermittent state holds: shape (number of switches, 2), time in s and 1 or 0 from then on.

    A cycle of 20 to 60 s holds the state for about `share` of its length; share 0 is never.
    """
    if share == 0.0:
        return np.zeros((1, 2))
    switches = []
    t = 0.0
    while t < duration:
        length = min(rng.uniform(20.0, 60.0), max(10.0, duration / 2))
        part = float(np.clip(rng.normal(share, 0.12), 0.1, 0.97))
        switches += [(t, 1.0), (t + part * length, 0.0)]
        t += length
    return np.array(switches)


def _holds(switches: FloatArray, t: float) -> bool:
    return bool(switches[max(0, int(np.searchsorted(switches[:, 0], t, side="right")) - 1), 1])


class _Course:
    """What changes slowly along one record: drifts, and spells of block and of pacing. Drawn once, before the first beat."""

    def __init__(self, patient: Patient, duration: float, rng: np.random.Generator) -> None:
        self._patient, self._duration = patient, duration
        self._drift = wander(duration, max(duration / 3, 20.0), rng)
        self._bursts = wander(duration, 25.0, rng)
        self._focus_drift = wander(duration, max(duration / 2, 20.0), rng)
        self._second_focus = rng.uniform(0.05, 0.5) if rng.random() < 0.6 else 0.0
        self.blocked = _spells(duration, patient.kind.block_share, rng)
        self.pacing = _spells(duration, patient.kind.paced_share, rng)
        self._breath_phase, self._mayer_phase = rng.uniform(0.0, 2.0 * math.pi, 2)

    def interval(self, t: float, memory: float) -> float:
        """The sinus node's interval after time `t`, s; `memory` is its relative jitter."""
        patient = self._patient
        breath = patient.breath_depth * math.sin(2.0 * math.pi * patient.breath_hz * t + self._breath_phase)
        mayer = patient.mayer_depth * math.sin(2.0 * math.pi * 0.1 * t + self._mayer_phase)
        return patient.rr * max(0.55, 1.0 + breath + mayer + 0.08 * float(self._drift(t)) + memory)

    def clustering(self, t: float) -> float:
        """Factor on the rates of ectopic beats at time `t`."""
        return self._patient.rate * math.exp(0.7 * float(self._bursts(t)))

    def second_focus(self, t: float) -> float:
        """Share of the V and F beats that come from the second focus at time `t`: more towards the end."""
        share = self._second_focus * (1.0 + self._focus_drift(t)) * (0.4 + 1.2 * t / self._duration)
        return float(np.clip(share, 0.0, 1.0))


@dataclass(frozen=True)
class _Moment:
    """What is about to happen after a beat: the sinus node is due at `due` s, unless something comes before.

    Attributes:
        rr: s, the node's interval.
        paced, wide: the pacemaker works, the bundle is blocked.
        row: of the shapes, how a beat is conducted.
        focus: row of the shapes that an ectopic beat has.
        draw: in 0..1, what it is to be; below `atrial`, `ventricular`, `fusion` an S, V, F beat.
    """

    rr: float
    due: float
    paced: bool
    wide: bool
    row: int
    focus: int
    draw: float
    atrial: float
    ventricular: float
    fusion: float


class _Walk:
    """Where a walk from beat to beat has come to."""

    def __init__(self, patient: Patient, duration: float, rng: np.random.Generator) -> None:
        self._patient, self._rng, self._rhythm = patient, rng, Rhythm()
        self._course = _Course(patient, duration, rng)
        self._end = duration - 0.2  # leaves room for the annotation's jitter
        self._memory = 0.0
        self._pairs = 0  # V beats still owed to a run of bigeminy
        self._last = rng.uniform(-0.3, 0.1)
        self._tick = self._last  # last tick of the sinus node (or the beat that reset it)
        self._pause = 0.0
        self._rested = False  # two ectopic beats in a row come only as couplets and runs

    def to_the_end(self) -> Rhythm:
        """Walk through the whole record."""
        while self._last < self._end:
            now = self._next()
            if (self._pairs and self._rested) or now.atrial <= now.draw < now.ventricular:
                self._ventricular(now)
            elif now.paced:
                self._paced()
            elif now.draw < now.atrial:
                self._atrial(now)
            elif now.draw < now.fusion:
                self._fusion(now)
            elif self._rng.random() < 0.0006:
                self._unclassifiable(now)
            else:
                self._normal(now)
        return self._rhythm

    def _next(self) -> _Moment:
        kind, course, last, rng = self._patient.kind, self._course, self._last, self._rng
        self._memory = 0.0 if kind.fibrillation else 0.6 * self._memory
        self._memory += self._patient.jitter * rng.normal()
        rr = course.interval(last, self._memory)
        due = max(self._tick + rr + self._pause, last + MIN_RR)
        self._pause = 0.0
        wide = _holds(course.blocked, last)
        clustering = course.clustering(last)
        draw = rng.random()
        atrial = kind.atrial * clustering
        ventricular = atrial + kind.ventricular * clustering
        return _Moment(
            rr=rr,
            due=due,
            paced=_holds(course.pacing, last),
            wide=wide,
            row=BLOCK if wide else NORMAL,
            focus=FOCUS_B if rng.random() < course.second_focus(last) else FOCUS_A,
            draw=draw if self._rested else 1.0,
            atrial=atrial,
            ventricular=ventricular,
            fusion=ventricular + kind.fusion * self._patient.rate,
        )

    def _add(self, t: float, symbol: str, groups: list[tuple[int, float, float, float]]) -> None:
        """Note a beat, drawn from (row, weight, scale of P, shift of P) of each group."""
        if 0.3 <= t < self._end:
            self._rhythm.times.append(t)
            self._rhythm.symbols.append(symbol)
            self._rhythm.groups.extend((t, *group, t - self._last) for group in groups)
        self._last = t

    def _ventricular(self, now: _Moment) -> None:
        patient, kind, rng, rr, due = self._patient, self._patient.kind, self._rng, now.rr, now.due
        self._pairs = max(0, self._pairs - 1)
        # Now and then a focus fires late in diastole: hard to tell from a fusion beat or a block.
        late = rng.random() < 0.15
        usual = float(np.clip(rng.normal(patient.v_coupling, 0.06), 0.5, 0.86))
        coupling = rng.uniform(0.84, 0.95) if late else usual
        t = self._last + max(MIN_RR, coupling * (due - self._last))
        if now.paced:
            due = t + patient.pace_rr - rr  # the pacemaker waits one interval from any beat it senses
        touch = rng.uniform(0.0, 0.25) if late and not kind.fibrillation else 0.0
        self._add(t, "V", [(now.focus, 1.0 - touch, 0.0, 0.0), (now.row, touch, 0.0, 0.0)])
        if not kind.fibrillation and not now.paced:
            self._rhythm.groups.append((due, LONE_P, 1.0, 1.0, 0.0, rr))
        run = rng.random()
        for _ in range(0 if run > 0.07 or self._pairs else 1 if run > 0.015 else int(rng.integers(2, 5))):
            self._add(self._last + rng.uniform(0.50, 0.62) * max(rr, 0.6), "V", [(now.focus, 1.0, 0.0, 0.0)])
        while due + rr < self._last + 0.7 * rr:
            due += rr
        self._tick, self._rested = due, False
        if not self._pairs and rng.random() < kind.bigeminy:
            self._pairs = int(rng.integers(3, 9))

    def _paced(self) -> None:
        t = self._last + self._patient.pace_rr + self._rng.normal(0.0, 0.002)
        self._add(t, "/", [(PACED, 1.0, 0.0, 0.0)])
        self._tick, self._rested = t, True

    def _atrial(self, now: _Moment) -> None:
        patient, rng = self._patient, self._rng
        coupling = float(np.clip(rng.normal(patient.s_coupling, 0.08), 0.5, 0.94))
        t = self._last + max(MIN_RR, coupling * (now.due - self._last))
        row = ABERRANT if rng.random() < patient.kind.aberrancy and coupling < 0.85 else now.row
        self._add(t, "A", [(row, 1.0, patient.s_p_scale, patient.s_p_shift)])
        self._tick = t
        self._pause = rng.uniform(0.0, 0.15) * now.rr
        self._rested = rng.random() < 0.15  # atrial couplets are possible

    def _fusion(self, now: _Moment) -> None:
        rng = self._rng
        t = max(self._last + MIN_RR, now.due - rng.uniform(0.0, 0.06) * now.rr)
        share = float(np.clip(rng.normal(self._patient.fusion_mix, 0.23), 0.08, 0.92))
        p_scale = rng.uniform(0.6, 1.4) / (1.0 - share)  # the P wave came before the V beat and is whole
        self._add(t, "F", [(now.row, 1.0 - share, p_scale, 0.0), (now.focus, share, 0.0, 0.0)])
        self._tick, self._rested = now.due, False

    def _unclassifiable(self, now: _Moment) -> None:
        mix = self._rng.dirichlet([1.0, 1.0, 1.0])
        rows = (NORMAL, FOCUS_A, FOCUS_B)
        signs = self._rng.uniform(-1.0, 1.0, 3)
        shares = [(row, float(mix[place]), float(signs[place]), 0.0) for place, row in enumerate(rows)]
        self._add(now.due, "Q", shares)
        self._tick, self._rested = now.due, True

    def _normal(self, now: _Moment) -> None:
        # Ashman's phenomenon: a short interval after a long one may find a bundle still refractory. Now and then
        # a bundle fails at no particular interval.
        kind = self._patient.kind
        chance = 0.15 if now.due - self._last < 0.80 * self._patient.rr else 0.004
        row = ABERRANT if not now.wide and self._rng.random() < chance else now.row
        self._add(now.due, kind.block if now.wide and kind.block else "N", [(row, 1.0, 1.0, 0.0)])
        self._tick, self._rested = now.due, True
