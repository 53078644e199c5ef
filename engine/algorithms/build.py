"""From the configuration to an algorithm."""

from dataclasses import replace

import numpy as np

from engine.algorithms.adaptation import adaptation
from engine.algorithms.base import Algorithm, LocalResult, Personalise, Work
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.ditto import both, personal
from engine.algorithms.fedavg import alone, epochs, own_model
from engine.algorithms.partial import head_first, keeping, with_own
from engine.algorithms.parts import head, norms
from engine.algorithms.perfedavg import meta_steps
from engine.algorithms.scaffold import corrected
from engine.own.call import make, require, wrapped


def build_algorithm(federation: FederationConfig, personalisation: PersonalisationConfig) -> Algorithm:
    """The algorithm of a configuration."""
    weighting = "samples" if federation.weighting == "auto" else federation.weighting
    adapt = adaptation(federation, personalisation)
    match federation.algorithm:
        case "fedavg":
            return Algorithm(epochs(federation), adapt, weighting)
        case "fedprox":
            return Algorithm(epochs(federation, federation.mu), adapt, weighting)
        case "perfedavg":
            # the paper takes the plain mean: every hospital's personalised loss counts the same
            uniform = "uniform" if federation.weighting == "auto" else federation.weighting
            return Algorithm(meta_steps(federation), adapt, uniform)
        case "local":
            return Algorithm(alone(federation), own_model(federation), "none")
        case "scaffold":
            return Algorithm(corrected(federation), adapt, weighting)
        case "ditto":
            return Algorithm(both(federation), personal(federation), weighting)
        case "fedper":
            return Algorithm(keeping(federation, head), with_own(head, adapt), weighting)
        case "fedrep":
            return Algorithm(head_first(federation), with_own(head, adapt), weighting)
        case "fedbn":
            return Algorithm(keeping(federation, norms), with_own(norms, adapt), weighting)
        case "centralised":
            return Algorithm(epochs(federation), adapt, "samples", pooled=True)
        case _:
            return _own(federation, adapt)


def _own(federation: FederationConfig, adapt: Personalise) -> Algorithm:
    """A user's own algorithm, made from the settings and the personalisation that they ask for; its answers are checked."""
    name = federation.algorithm
    given = {"settings": federation, "adapt": adapt}
    made: Algorithm = make("an algorithm", name, given, federation.parameters, Algorithm)
    require(
        name, made.weighting in ("samples", "uniform"), f"its weighting is {made.weighting}, not samples or uniform"
    )
    require(name, not made.pooled, "an own algorithm cannot pool the data of all hospitals")
    local, personalise = wrapped(name, made.local), wrapped(name, made.personalise)

    def checked_local(work: Work) -> LocalResult:
        result = local(work)
        require(name, isinstance(result, LocalResult), f"local gave {_kind(result)}, not a LocalResult")
        require(
            name, is_vector(result.update, work.params), f"update is {_kind(result.update)}, not {_kind(work.params)}"
        )
        arrays = isinstance(result.state, dict) and all(isinstance(a, np.ndarray) for a in result.state.values())
        require(name, arrays, "state must map names to arrays")
        counts = isinstance(result.gradient_evaluations, int) and result.gradient_evaluations >= 0
        require(name, counts, f"gradient_evaluations is {result.gradient_evaluations!r:.40}, not a whole number")
        return replace(result, loss=float(result.loss))

    def checked_personalise(work: Work) -> tuple[np.ndarray, int]:
        found = personalise(work)
        pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], int)
        require(name, pair, "personalise must give parameters and the number of gradients that they took")
        require(name, is_vector(found[0], work.params), f"personalise gave {_kind(found[0])}, not {_kind(work.params)}")
        return found[0], found[1]

    return Algorithm(checked_local, checked_personalise, made.weighting)


def is_vector(value: object, like: np.ndarray) -> bool:
    """Whether something is a vector of parameters."""
    return isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == like.shape


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
