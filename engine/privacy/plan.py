"""What a run spends, before it begins: its noised gradients, and the noise that its epsilon asks for.

A hospital's budget is the number of its noised gradients in all rounds and in the adaptation at the end. Sigma is such that
they cost at most the epsilon that was asked for. All numbers are integers, as they are signed.
"""

import math
from typing import Any, NamedTuple

from engine.privacy.accountant import Event, calibrated, pld_epsilon, rdp_epsilon
from engine.privacy.accountant import epsilon as cost_of
from engine.privacy.config import PrivacyConfig

# A change of a mechanism needs a new name. Neighbours of one beat more or less, or of one that is another.
# Of the feature level "features-", normalisation and one of the endings.
NAME, GAUSSIAN, LAPLACE = "dp-sgd/1", "-gaussian/1", "-laplace/1"
ADDED, CHANGED = "add-remove", "change"
POISSON, ALL = "poisson", "all"
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
        name, neighbours, sampler: of which kind it is. Of the feature level, `clip` is how far two releases are apart at most, by the
            length of the difference, with Laplace noise by the sum of its absolute values.
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
    name: str = NAME
    neighbours: str = ADDED
    sampler: str = POISSON

    def events(self, counts: Counts, sharing: int = 1) -> tuple[Event, ...]:
        """What the accountant is told of so many samples, each with the noise of one of `sharing` hospitals."""
        rate, sigma = self.rate / RATE, self.sigma / SIGMA / math.sqrt(sharing)
        return tuple(Event(rate, sigma, uses, count) for uses, count in enumerate(counts, 1))

    def epsilon(self, counts: Counts) -> float:
        """What they cost."""
        if self.name.endswith(LAPLACE):  # at delta 0
            return sum(counts) * SIGMA / self.sigma
        return cost_of(self.events(counts), self.delta / DELTA)

    def bounds(self, counts: Counts) -> tuple[float, float]:
        """The two bounds of which that is the smaller one, by distributions of the loss and by Renyi divergences."""
        events = [event for event in self.events(counts) if event.times]
        if self.name.endswith(LAPLACE) or not events:
            return self.epsilon(counts), self.epsilon(counts)
        return pld_epsilon(events, self.delta / DELTA), rdp_epsilon(events, self.delta / DELTA)

    def alone(self, counts: Counts) -> float:
        """What they cost at most where all others of each sum take their noise away: only the hospital's own is left."""
        return cost_of(self.events(counts, self.shares), self.delta / DELTA)

    def record(self) -> dict[str, Any]:
        """What every record of it says."""
        return {
            "mechanism": self.name,
            "unit": self.unit,
            "neighbours": self.neighbours,
            "sampler": self.sampler,
            "rate": self.rate,
            "sigma": self.sigma,
            **({"shares": self.shares} if self.shares > 1 else {}),
            "clip": self.clip,
            "delta": self.delta,
            "budget": list(self.budget),
        }


def mechanism_of(privacy: PrivacyConfig, budget: Counts, features: int = 0) -> Mechanism:
    """The mechanism of a run.

    Args:
        budget: samples by uses, of all rounds and the adaptation.
        features: values of a beat that are released, for the method features.

    Raises:
        ConfigError: no useful noise is enough for the epsilon.
    """
    if privacy.method == "features":
        return _of_features(privacy, features)
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


def far(privacy: PrivacyConfig, features: int) -> float:
    """How far the features of two data sets that differ in one beat are apart at most, in the norm that the noise goes by; see
    `engine/privacy/features.py`."""
    grouped = privacy.batch if privacy.normalisation == "batch" else 1
    length = 2 * (privacy.clip if privacy.normalisation == "none" else math.sqrt(grouped))
    return length * (math.sqrt(grouped * features) if privacy.release == "laplace" else 1)


def _of_features(privacy: PrivacyConfig, features: int) -> Mechanism:
    """One release of all beats' features in the whole run."""
    ending, delta = (LAPLACE, 0) if privacy.release == "laplace" else (GAUSSIAN, round(privacy.delta * DELTA))
    plain = Mechanism(
        unit="beat",
        rate=RATE,
        sigma=0,
        clip=math.ceil(round(far(privacy, features) * CLIP, 3)),
        delta=delta,
        beats=1,
        steps=1,
        budget=(1, 0),
        secret=privacy.secret,
        shares=1,
        name=f"features-{privacy.normalisation}{ending}",
        neighbours=CHANGED,
        sampler=ALL,
    )
    if privacy.noise is not None:
        sigma = round(privacy.noise * 1000)
    elif ending == LAPLACE:
        sigma = math.ceil(round(1000 / (privacy.epsilon or 0.0), 6))
    else:
        sigma = round(1000 * calibrated(plain.events(plain.budget), privacy.epsilon or 0.0, delta / DELTA))
    return plain._replace(sigma=sigma * (SIGMA // 1000))
