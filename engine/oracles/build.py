"""Where gradients come from: torch (the reference), a compiled kernel, or all hospitals at once on a GPU."""

from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError
from engine.model import AnyNetwork, FeatureNetwork, Network, OwnNetwork
from engine.oracles.base import Oracle
from engine.oracles.torch import TorchOracle
from engine.pools.config import ExecutionConfig


def choose_oracle(execution: ExecutionConfig, network: AnyNetwork, note: Callable[[str], None]) -> str:
    """What will compute gradients in this run: "native", "torch" or, for many hospitals on a GPU, "stacked".

    With "auto": the GPU where hospitals live in this process and there is one, else the native kernel, else torch.
    The choice is made once, for all hospitals, because the last bits differ.

    Raises:
        PulseLedgerError: what was asked for is not to be had here.
    """
    if isinstance(network, OwnNetwork):
        if execution.oracle not in ("auto", "torch"):
            raise ConfigError(f"execution.oracle is {execution.oracle}, but a network of your own needs torch.")
        return "torch"
    if isinstance(network, Network) and network.residual:
        if execution.oracle not in ("auto", "torch"):
            raise ConfigError(f"execution.oracle is {execution.oracle}, but model.residual needs torch.")
        return "torch"
    if isinstance(network, FeatureNetwork) and execution.oracle == "stacked":
        raise ConfigError("execution.oracle is stacked, but model.network features needs native or torch.")
    in_step = execution.oracle == "auto" and execution.pool == "inprocess" and _has_gpu()
    if isinstance(network, Network) and (execution.oracle == "stacked" or in_step):
        return "stacked"
    if execution.oracle in ("auto", "native"):
        from engine.oracles.native import NativeUnavailable, compile_kernel

        try:
            compile_kernel(network)
            return "native"
        except NativeUnavailable as error:
            if execution.oracle == "native":
                raise
            note(f"gradients by torch, about five times slower than the native kernel: {error}")
    return "torch"


def build_oracle(name: str, network: AnyNetwork) -> Oracle:
    """The oracle that `choose_oracle` named; one for each process, shared by its hospitals."""
    if isinstance(network, OwnNetwork):
        return TorchOracle(network)
    if name == "native":
        from engine.oracles.native import NativeOracle

        return NativeOracle(network)
    if name == "stacked" and isinstance(network, Network):
        from engine.oracles.stacked import Lockstep, StackedOracle

        device = "cuda" if _has_gpu() else "cpu"
        return Lockstep(StackedOracle(network, device), TorchOracle(network, device=device))
    return TorchOracle(network)


def _has_gpu() -> bool:
    # torch takes a second to import; without a driver there is no need to ask it
    if not Path("/dev/nvidia0").exists():
        return False
    import torch

    return torch.cuda.is_available()
