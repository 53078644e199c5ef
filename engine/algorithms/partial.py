"""Methods that keep a part of the network in the hospital and average the rest.

FedPer: the head (Arivazhagan et al. 2019, arXiv 1912.00818). FedRep: the head, trained before the rest (Collins et al.
2021, arXiv 2102.07078). FedBN: the norms (Li et al. 2021, arXiv 2102.07623), here those of GroupNorm, which has no
statistics but scale and shift.

The kept part of the global model stays as it began; nobody uses it but a hospital that never trained.
"""

from collections.abc import Callable

import numpy as np

from engine.algorithms.base import Local, LocalResult, Personalise, Work, sgd, within
from engine.algorithms.config import FederationConfig
from engine.algorithms.fedavg import rate_of, steps_of, trained
from engine.algorithms.parts import head
from engine.model import Layout

Part = Callable[[Layout], np.ndarray]  # bool[parameters], what the hospital keeps


def joined(work: Work, kept: np.ndarray) -> np.ndarray:
    """The global model with the hospital's own part in it."""
    params = work.params.copy()
    params[kept] = work.state.get("kept", params[kept])
    return params


def keeping(config: FederationConfig, part: Part) -> Local:
    """Local work: all parameters train together; the kept ones are not sent."""

    def local(work: Work) -> LocalResult:
        kept = part(work.layout)
        params, loss, steps = trained(config, work.starting_from(joined(work, kept)))
        return _result(work, kept, params, loss, steps)

    return local


def head_first(config: FederationConfig) -> Local:
    """FedRep's local work: first `head_steps` of the head, then the rest of the round of all else."""

    def local(work: Work) -> LocalResult:
        kept = head(work.layout)
        rate = rate_of(config, work.round)
        body = steps_of(config, work)
        before = config.fedrep.head_steps
        own, _ = sgd(work.starting_from(joined(work, kept)), before, config.batch_size, rate, within(kept))
        params, loss = sgd(work.starting_from(own), body, config.batch_size, rate, within(~kept))
        return _result(work, kept, params, loss, before + body)

    return local


def _result(work: Work, kept: np.ndarray, params: np.ndarray, loss: float, steps: int) -> LocalResult:
    update = np.where(kept, np.float32(0), params - work.params)
    return LocalResult(update, loss, steps, {"kept": params[kept]})


def with_own(part: Part, adapt: Personalise) -> Personalise:
    """Personalisation from the global model with the hospital's own part in it."""
    return lambda work: adapt(work.starting_from(joined(work, part(work.layout))))
