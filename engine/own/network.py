"""A user's own network: an `nn.Module` of (x float32[n, leads, length], rr float32[n, features]) -> logits [n, classes].

It runs on the torch oracle, in evaluation mode and with parameters that are handed in, so all that it knows must be in its
parameters: layers that keep statistics, or that draw random numbers while they work, are refused.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.own.call import guarded, make, require
from engine.own.reference import reference

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def module_of(part: str, sizes: tuple[int, int, int, int], parameters: Mapping[str, Any], seed: int = 0) -> Any:
    """The network, with the parameters that it begins with.

    Args:
        sizes: leads, length, RR features, classes.
        seed: of its initial parameters.
    """
    import torch

    given = dict(zip(("leads", "length", "rr", "classes"), sizes, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make("a network", part, given, parameters, torch.nn.Module)
    return module.eval()


def layout_of(part: str, sizes: tuple[int, int, int, int], parameters: Mapping[str, Any]) -> Shapes:
    """Name and shape of each tensor; the network is tried on two samples.

    Raises:
        PulseLedgerError: it cannot be a network here.
    """
    import torch

    own = reference(part)
    assert own is not None, part
    module, again = module_of(part, sizes, parameters), module_of(part, sizes, parameters)
    lazy = [name for name, value in module.named_parameters() if isinstance(value, torch.nn.UninitializedParameter)]
    require(part, not lazy, f"{', '.join(lazy[:1])} takes its shape from an input; give it one, from leads and length")
    kept = [name for name, _ in module.named_buffers()]
    require(
        part,
        not kept,
        f"keeps {', '.join(kept[:1])} besides its parameters, which no algorithm averages; GroupNorm does not",
    )
    drops = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.modules.dropout._DropoutNd)]
    require(part, not drops, f"layer {', '.join(drops[:1])} drops at random, which it cannot here; take it out")
    mixing = [
        name for name, layer in module.named_modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
    ]
    says = f"layer {', '.join(mixing[:1])} is a BatchNorm, which mixes the samples of a batch; GroupNorm does not"
    require(part, not mixing, says)
    layout = tuple((name, tuple(value.shape)) for name, value in module.named_parameters())
    require(part, bool(layout), "has no parameters")
    require(part, all(v.dtype == torch.float32 for v in module.parameters()), "has parameters other than float32")
    other = tuple((name, tuple(value.shape)) for name, value in again.named_parameters())
    require(part, layout == other, "has other parameters each time that it is made")
    leads, length, rr, classes = sizes
    with torch.inference_mode():
        logits = guarded(own, module, torch.zeros(2, leads, length), torch.zeros(2, rr))
    right = isinstance(logits, torch.Tensor) and tuple(logits.shape) == (2, classes) and logits.dtype == torch.float32
    what = f"{logits.dtype}{list(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    require(part, right, f"gives {what} for two samples, not float32[2, {classes}]")
    return layout


def initial(part: str, sizes: tuple[int, int, int, int], parameters: Mapping[str, Any], seed: int) -> np.ndarray:
    """float32[size]: the parameters that the module begins with, as torch draws them from `seed`."""
    module = module_of(part, sizes, parameters, seed)
    return np.concatenate([value.detach().numpy().ravel() for value in module.parameters()]).astype(np.float32)
