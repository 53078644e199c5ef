"""The model of a finished run as MLflow keeps it."""

from pathlib import Path
from typing import Any

import numpy as np

from engine.own.reference import digests, is_own
from engine.own.source import hold
from engine.result import MODEL, Result


def torch_model(folder: Path) -> tuple[Any, Any]:
    """The global model of a finished run as a torch module, and an input that shows the shape: noise, nobody's beats.

    Two rows, because torch fixes a batch of one for good when it exports a network.
    """
    from safetensors.numpy import load_file

    from engine.model import build_network
    from engine.oracles.torch import as_module

    result = Result.read(folder)
    config, classes = result.config, len(result.cohort.classes)
    hold(folder, digests(config))  # a network of the user's own is made from its copy
    leads, window = result.cohort.shape
    rr = 0 if is_own(config.data.source) else len(config.data.rr_names)
    network = build_network(config.model, leads, window, rr, classes)
    tensors = load_file(folder / MODEL)
    params = np.concatenate([tensors[name].ravel() for name, _ in network.layout]).astype(np.float32)
    example = np.random.default_rng(0).standard_normal((2, leads * window + network.rr), dtype=np.float32)
    return as_module(network, params), example
