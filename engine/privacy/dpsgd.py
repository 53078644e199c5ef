"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) for one hospital: every gradient is a noised sum over a Poisson sample.

    sample     each train beat with probability q, anew for every batch; an empty one is released as well
    gradient   sum of the beats' gradients, each shortened to norm C; one that is not finite counts zero
               (unit patient: patients are sampled; of each the mean gradient of at most so many beats, shortened to norm C)
    noise      + N(0, sigma^2 C^2) for each parameter, then divided by q n, with the public number n of train beats, or patients

Under masks hospitals may share the noise (`privacy.honest`): each adds N(0, sigma^2 C^2 / t), and the sum of at least t of them has all of it. Each
then divides by q times the number of its beats, which is also its weight, so that all gradients and all noise count the same in the sum.

A round of L steps with noise at each, or of one step for a server's optimiser: both are functions of these sums alone. The
account is the hospital's: it counts every release, also of a round whose update is lost, and refuses one beyond the budget.
The mean loss is not told.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.encoding import hexed
from engine.errors import PrivacyError
from engine.messages import State
from engine.oracles.base import Batch, Oracle
from engine.privacy.base import Privacy
from engine.privacy.plan import CLIP, RATE, SIGMA, USES, Counts, Mechanism
from engine.privacy.secret import commitment, drawn, normal, release_seed, sampled

# Names in a hospital's private state: samples by uses so far; those of the last release; commitment to its seed; gradients
# that were not finite so far, which nobody is told.
SPENT, LAST, NAMED, ZEROED = "privacy.spent", "privacy.last", "privacy.named", "privacy.zeroed"
_SHORT = 1 - 1e-5  # norms are computed in float32: what is shortened to this is not longer than the norm in truth


class _Release:
    """What one call of local work takes: its samples, its gradients, its account.

    A repeated release has the same bits as before, and is counted once.
    """

    def __init__(self, mechanism: Mechanism, patients: np.ndarray, seed: bytes, state: State, sharing: int) -> None:
        self.mechanism, self.seed, self.sharing = mechanism, seed, sharing
        of_beat = np.arange(len(patients)) if mechanism.unit == "beat" else patients
        names, self.unit = np.unique(of_beat, return_inverse=True)
        self.units = len(names)
        self.counted = self.units if sharing == 1 else len(patients)
        self.named = np.frombuffer(commitment(seed), np.uint8)
        none = np.zeros(USES, np.int64)
        before = state.get(SPENT, none)
        again = NAMED in state and np.array_equal(state[NAMED], self.named)
        self.before = before - state.get(LAST, none) if again else before
        self.taken = none.copy()  # samples by uses
        self.zeroed = int(state.get(ZEROED, np.zeros(1, np.int64))[0])
        self.streams = self.gradients = 0
        self.last: Any = None  # labels of the sample that the last gradient was of
        self.uses = 0

    def batches(self, n: int, batch_size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
        """Poisson samples; neither a size nor the run's random numbers have a say."""
        stream, batch = self.streams, 0
        self.streams += 1
        while True:
            units = sampled(self.seed, stream, batch, self.units, self.mechanism.rate, RATE)
            yield units if self.mechanism.unit == "beat" else self._some_of(units, stream, batch)
            batch += 1

    def _some_of(self, units: np.ndarray, stream: int, batch: int) -> np.ndarray:
        """At most so many beats of each of these patients, drawn anew; ascending."""
        found = [np.zeros(0, np.int64)]
        for unit in units.tolist():
            positions = np.flatnonzero(self.unit == unit)
            order = np.argsort(drawn(self.seed, b"beats", (stream, batch, unit), len(positions)), kind="stable")
            found.append(positions[order[: self.mechanism.beats]])
        return np.sort(np.concatenate(found))

    def gradient(self, oracle: Oracle, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """The clipped sum, float32[parameters]; its noise must follow."""
        self._count(batch)
        if not len(batch.y):
            return math.nan, np.zeros(len(params), np.float32)
        clip = self.mechanism.clip / CLIP * _SHORT
        if self.mechanism.unit == "beat":
            found = oracle.clipped_gradient(params, batch, clip)
            self.zeroed += found.zeroed
            return math.nan, found.total
        return math.nan, self._of_patients(oracle, params, batch, clip)

    def _of_patients(self, oracle: Oracle, params: np.ndarray, batch: Batch, clip: float) -> np.ndarray:
        """The sum over the patients of the mean gradient of their beats, each shortened to the norm."""
        assert batch.patient is not None
        total = np.zeros(len(params))
        for patient in np.unique(batch.patient):
            own = batch.patient == patient
            _, gradient = oracle.gradient(
                params, batch._replace(x=batch.x[own], rr=batch.rr[own], y=batch.y[own], patient=None)
            )
            norm = float(np.linalg.norm(gradient.astype(np.float64)))
            if math.isfinite(norm):
                total += gradient * min(1.0, clip / max(norm, 1e-300))
            else:
                self.zeroed += 1
        return total.astype(np.float32)

    def noise(self, total: np.ndarray) -> np.ndarray:
        """The sum with noise, over the expected number of beats, or patients, in it; shared noise: of beats."""
        scale = self.mechanism.sigma / SIGMA * self.mechanism.clip / CLIP / math.sqrt(self.sharing)
        noised = total + scale * normal(self.seed, self.gradients, len(total))
        self.gradients += 1
        return (noised / (self.mechanism.rate / RATE * self.counted)).astype(np.float32)

    def _count(self, batch: Batch) -> None:
        """Raises PrivacyError where this gradient is one too many."""
        again = self.last is batch.y
        self.uses = self.uses + 1 if again else 1
        self.last = batch.y
        if self.uses > USES:
            raise PrivacyError(
                f"the algorithm takes more than {USES} gradients of one sample, which is not accounted for"
            )
        if again:
            self.taken[self.uses - 2] -= 1
        self.taken[self.uses - 1] += 1
        require_within(self.counts, self.mechanism.budget)

    @property
    def counts(self) -> Counts:
        """Samples by uses, of all releases so far."""
        return tuple((self.before + self.taken).tolist())

    def price(self, gradients: int) -> dict[str, Any]:
        """What a signed update says."""
        return {
            **self.mechanism.record(),
            "steps": self.taken.tolist(),
            "spent": list(self.counts),
            "secret": self.mechanism.secret,
            "noise": hexed(self.named.tobytes()),
        }

    def memory(self) -> State:
        """What the hospital keeps."""
        spent, zeroed = np.array(self.counts, np.int64), np.array([self.zeroed], np.int64)
        return {SPENT: spent, LAST: self.taken.copy(), NAMED: self.named, ZEROED: zeroed}


def dp_sgd(
    mechanism: Mechanism, patients: np.ndarray, secret: bytes, round: int, params: np.ndarray, state: State
) -> Privacy:
    """The mechanism of one hospital for one release.

    Args:
        patients: of each of its train beats, by number; for the unit beat only how many there are counts.
        secret: of the hospital, 32 bytes.
        round: 0 for the adaptation.
        params: float32[parameters] that the work starts from.
        state: private, with the account so far.
    """
    others = [state[name] for name in sorted(state) if not name.startswith("privacy.")]
    sharing = mechanism.shares if round else 1  # nobody shares the noise of the adaptation
    return from_seed(mechanism, patients, release_seed(secret, round, [params, *others]), state, sharing)


def from_seed(mechanism: Mechanism, patients: np.ndarray, seed: bytes, state: State, sharing: int = 1) -> Privacy:
    """The mechanism of a release whose seed is known: the hospital's own, or, after a dispute, that of an inspector who is shown
    the seed and the data, and computes the update again; `opens` says whether it is the seed that was committed to.

    Args:
        sharing: hospitals among which the noise is shared.
    """
    one = _Release(mechanism, patients, seed, state, sharing)
    return Privacy("dp-sgd", one.batches, one.gradient, one.noise, one.price, steps=mechanism.steps, memory=one.memory)


def require_within(counts: Counts, budget: Counts) -> None:
    """
    Raises:
        PrivacyError: more was released than the budget allows. What is left for samples of more uses pays for those of fewer.
    """
    for uses in range(1, len(budget) + 1):
        most = sum(budget[uses - 1 :])
        if sum(counts[uses - 1 :]) > most:
            kind = "" if uses == 1 else f" of {uses} gradients each"
            raise PrivacyError(
                f"the privacy budget is spent: {most} noised samples{kind} are allowed in the whole run, and this would be one more"
            )
