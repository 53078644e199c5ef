"""How many noised gradients a hospital takes in a whole run, where a privacy mechanism says how many a round has."""

from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.perfedavg import COST


def noised_samples(federation: FederationConfig, adapting: PersonalisationConfig, steps: int) -> tuple[int, int]:
    """Samples of which one gradient is taken, and of which two are: in all rounds, and in the adaptation at the end.

    Args:
        steps: gradients of a round.
    """
    ones, twos = steps, 0
    meta = federation.perfedavg
    if federation.algorithm == "perfedavg":
        meta_steps = meta.tau or max(1, steps // COST[meta.variant])
        # support and query are samples of their own; both ends of the difference are taken on a third one
        ones, twos = 2 * meta_steps, meta_steps if meta.variant == "difference" else 0
    elif federation.algorithm == "ditto":
        ones = 2 * steps  # of the global model and of the hospital's own, each over samples of its own
    elif federation.algorithm == "fedrep":
        ones = federation.fedrep.head_steps + steps
    is_kept = adapting.method == "none" or federation.algorithm in ("local", "ditto")
    return federation.rounds * ones + (0 if is_kept else adapting.steps), federation.rounds * twos
