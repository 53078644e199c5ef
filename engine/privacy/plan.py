"""What a run spends, before it begins: its noised gradients, and the noise that its epsilon asks for.

A hospital's budget is the number of its noised gradients in all rounds and in the adaptation at the end. Sigma is such that
they cost at most the epsilon that was asked for. All numbers are integers, as they are signed.
"""

import math
from typing import Any, NamedTuple

from engine.privacy.accountant import Event, calibrated
from engine.privacy.accountant import epsilon as cost_of
from engine.privacy.config import PrivacyConfig

NAME = "dp-sgd/1"  # a change of the mechanism needs a new one
NEIGHBOURS, SAMPLER = "add-remove", "poisson"
RATE, SIGMA, CLIP, DELTA = 10**9, 10**6, 10**6, 10**12  # parts of one, in which records have these numbers
USES = 2  # gradients of one sample, at most

Counts = tuple[int, ...]  # samples of which 1, 2 ... gradients were released


class Mechanism(NamedTuple):
    """A mechanism with its numbers, the same for all hospitals of a run.

    Attributes:
        rate, sigma, clip, delta: in parts of one, see above.
        beats: of a sampled patient, at most; read for the unit patient.
        steps: noised gradients of a round.
        budget: samples by uses, of all rounds and the adaptation.
        secret: where its random numbers come from, as configured.
        shares: hospitals of a masked sum whose noise together comes to sigma; 1: each one's does.
    """

    unit: str
    rate: int
    sigma: int
    clip: int
    delta: int
    beats: int
    steps: int
    budget: Counts
    secret: str
    shares: int

    def events(self, counts: Counts, sharing: int = 1) -> tuple[Event, ...]:
        """What the accountant is told of so many samples, each with the noise of one of `sharing` hospitals."""
        rate, sigma = self.rate / RATE, self.sigma / SIGMA / math.sqrt(sharing)
        return tuple(Event(rate, sigma, uses, count) for uses, count in enumerate(counts, 1))

    def epsilon(self, counts: Counts) -> float:
        """What they cost."""
        return cost_of(self.events(counts), self.delta / DELTA)

    def alone(self, counts: Counts) -> float:
        """What they cost at most where all others of each sum take their noise away: only the hospital's own is left."""
        return cost_of(self.events(counts, self.shares), self.delta / DELTA)

    def record(self) -> dict[str, Any]:
        """What every record of it says."""
        return {
            "mechanism": NAME,
            "unit": self.unit,
            "neighbours": NEIGHBOURS,
            "sampler": SAMPLER,
            "rate": self.rate,
            "sigma": self.sigma,
            **({"shares": self.shares} if self.shares > 1 else {}),
            "clip": self.clip,
            "delta": self.delta,
            "budget": list(self.budget),
        }


def mechanism_of(privacy: PrivacyConfig, budget: Counts) -> Mechanism:
    """The mechanism of a run.

    Args:
        budget: samples by uses, of all rounds and the adaptation.

    Raises:
        ConfigError: no useful noise is enough for the epsilon.
    """
    plain = Mechanism(
        unit=privacy.unit,
        rate=round(privacy.sampling_rate * RATE),
        sigma=0,
        clip=round(privacy.clip * CLIP),
        delta=round(privacy.delta * DELTA),
        beats=privacy.beats,
        steps=privacy.steps,
        budget=budget,
        secret=privacy.secret,
        shares=privacy.honest or 1,
    )
    sigma = privacy.noise or calibrated(plain.events(budget), privacy.epsilon or 0.0, plain.delta / DELTA)
    return plain._replace(sigma=round(sigma * 1000) * (SIGMA // 1000))
