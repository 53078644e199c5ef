"""What a result says of privacy: what each hospital has spent, and what nothing protects."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.privacy.plan import CHANGED, CLIP, DELTA, RATE, SIGMA, Counts, Mechanism

_ALWAYS = (
    "validation and test beats: their confusion matrices after every round and at the end, and each prediction",
    "sizes: how many beats each hospital has, also of each class and in each part, and the names of its records",
    "choices: what was chosen by looking at such scores, as the best of several trials, rounds or settings",
    "the lowest bits of a noised gradient: its noise is drawn in floating point",
)
_SIMULATED = "everything, in truth: the secrets are simulated, noise and sampling follow from the run's seed"


_MOMENTS = "mean and deviation of the train beats' features, by which a hospital looks at validation and test beats: without noise"
_CLASSES = "that a beat is among the train beats, and its class: only its window and RR features have noise, and updates follow from true classes"
_SHARED = "against all others of a sum together, or whoever is shown an update in a dispute: it has only a part of the noise (`alone` is the epsilon)"


def told(
    mechanism: Mechanism, spent: Mapping[int, Counts | None], of_patient: int, besides: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of `result.PrivacyReport`.

    Args:
        spent: hospital -> its noised samples by uses; None where it did not say, which counts as all of the budget.
        of_patient: most train beats of one patient in a hospital.
        besides: what else leaves a hospital, in words.
    """
    counts = {hospital: mechanism.budget if one is None else one for hospital, one in sorted(spent.items())}
    delta = mechanism.delta / DELTA
    costs = {hospital: mechanism.epsilon(one) for hospital, one in counts.items()}
    rows = [
        {"id": hospital, "samples": list(one), "epsilon": costs[hospital], "told": spent[hospital] is not None}
        for hospital, one in counts.items()
    ]
    largest = max(counts.values(), key=mechanism.epsilon)
    pld, rdp = mechanism.bounds(largest)
    simulated = mechanism.secret == "simulated"
    return {
        "mechanism": mechanism.name,
        "unit": mechanism.unit,
        "neighbours": mechanism.neighbours,
        "epsilon": max(costs.values()),
        "delta": delta,
        "pld": pld,
        "rdp": rdp,
        "alone": max(mechanism.alone(one) for one in counts.values()) if mechanism.shares > 1 else None,
        "shares": mechanism.shares,
        "sigma": mechanism.sigma / SIGMA,
        "clip": mechanism.clip / CLIP,
        "sampling_rate": mechanism.rate / RATE,
        "budget": list(mechanism.budget),
        "secret": mechanism.secret,
        "most_beats_of_a_patient": of_patient,
        "not_protected": [
            *[_SIMULATED] * simulated,
            *[_SHARED] * (mechanism.shares > 1),
            *[_CLASSES] * (mechanism.neighbours == CHANGED),
            *[_MOMENTS] * mechanism.name.startswith("features-batch"),
            *_ALWAYS,
            *besides,
        ],
        "hospitals": rows,
    }
