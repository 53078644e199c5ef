"""Ditto: beside the global model each hospital trains its own, pulled towards the global one (Li et al. 2021, arXiv 2012.04221).

The global model is FedAvg's. The personal one minimises f_i(v) + lambda / 2 |v - w|^2, w the global model of the round.
"""

from dataclasses import replace

from engine.algorithms.base import Local, LocalResult, Personalise, Work, pulled
from engine.algorithms.config import FederationConfig
from engine.algorithms.fedavg import kept_or_alone, trained


def both(config: FederationConfig) -> Local:
    """Local work: a round of FedAvg, and a round of the personal model, each over batches of its own."""
    own = _own(config)

    def local(work: Work) -> LocalResult:
        common, personal = work.draw.spawn(2)
        params, loss, steps = trained(config, replace(work, draw=common))
        result = own(replace(work, draw=personal))
        return LocalResult(params - work.params, loss, steps + result.gradient_evaluations, result.state)

    return local


def _own(config: FederationConfig) -> Local:
    """The personal half of a round."""

    def local(work: Work) -> LocalResult:
        start = work.state.get("personal", work.params)
        params, loss, steps = trained(config, work.starting_from(start), pulled(work.params, config.ditto_lambda))
        return LocalResult(params - work.params, loss, steps, {"personal": params})

    return local


def personal(config: FederationConfig) -> Personalise:
    """The hospital's own model; one that never trained comes to it now, pulled towards the last global model."""
    return kept_or_alone(config, _own(config), "personal")
