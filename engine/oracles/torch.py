"""The reference oracle: torch's automatic differentiation, and the network as a torch module for use outside."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from engine.model import AnyNetwork, FeatureNetwork, Network, frozen_features, unflatten
from engine.oracles.base import Batch, Clipped, require_clip
from engine.own.network import module_of

_AT_ONCE = 64  # gradients of single beats; those of a whole batch would not fit where it is large


class TorchOracle:
    """The oracle of a network, by torch's automatic differentiation on one CPU thread, or on a device such as "cuda".

    One thread, because the order of a sum must not depend on the machine's load or on where a hospital lives, and
    because at this size a second thread gains nothing.
    """

    def __init__(self, network: AnyNetwork, evaluation_batch: int = 512, device: str = "cpu") -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._device = torch.device(device)
        self._network = network
        self._evaluation_batch = evaluation_batch
        self._shapes = [shape for _, shape in network.layout]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._network_forward = forward_of(network)

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        torch = self._torch
        flat = self._tensor(params).requires_grad_()
        loss = self._loss(flat, batch)
        (gradient,) = torch.autograd.grad(loss, flat)
        return loss.item(), gradient.cpu().numpy()

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        require_clip(clip, batch)
        torch = self._torch
        flat, labels = self._tensor(params), self._tensor(batch.y).long()
        weight = torch.ones(len(labels), device=self._device)
        if batch.class_weight is not None:
            weight = self._tensor(batch.class_weight)[labels]
        beats = (self._tensor(batch.x), self._tensor(batch.rr), labels, weight)

        def loss(flat, x, rr, label, weight):  # type: ignore[no-untyped-def]
            return weight * torch.nn.functional.cross_entropy(self._forward(flat, x[None], rr[None]), label[None])

        per_beat = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))
        total = torch.zeros(len(params), dtype=torch.float64, device=self._device)
        longer = zeroed = 0
        for start in range(0, len(labels), _AT_ONCE):
            each = per_beat(flat, *(part[start : start + _AT_ONCE] for part in beats))
            norm = each.square().sum(1).sqrt()
            finite = norm.isfinite()
            each, norm = each[finite].double(), norm[finite].double()
            longer += int((norm > clip).sum())
            zeroed += int((~finite).sum())
            total += (each * (clip / norm.clamp(min=clip))[:, None]).sum(0)
        return Clipped(total.float().cpu().numpy(), longer, zeroed)

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        torch = self._torch
        flat = self._tensor(params).requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss(flat, batch), flat, create_graph=True)
        (product,) = torch.autograd.grad(gradient @ self._tensor(vector), flat)
        return product.cpu().numpy()

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        torch = self._torch
        size = self._evaluation_batch
        with torch.inference_mode():
            flat = self._tensor(params)
            parts = [
                self._forward(flat, self._tensor(x[i : i + size]), self._tensor(rr[i : i + size]))
                for i in range(0, len(x), size)
            ]
            return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, self._network.classes), np.float32)

    def _loss(self, flat, batch: Batch):  # type: ignore[no-untyped-def]
        torch = self._torch
        logits = self._forward(flat, self._tensor(batch.x), self._tensor(batch.rr))
        labels = self._tensor(batch.y).long()
        if batch.logit_offset is not None:
            logits = logits + self._tensor(batch.logit_offset)
        if batch.class_weight is None:
            return torch.nn.functional.cross_entropy(logits, labels)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * self._tensor(batch.class_weight)[labels]).mean()

    def _tensor(self, array: np.ndarray):  # type: ignore[no-untyped-def]
        return self._torch.tensor(array, device=self._device)  # a copy: the array may be a read-only map

    def _forward(self, flat, x, rr):  # type: ignore[no-untyped-def]
        parts = [part.view(shape) for part, shape in zip(flat.split(self._sizes), self._shapes, strict=True)]
        return self._network_forward(parts, x, rr)


def forward_of(network: AnyNetwork) -> Callable[[Iterable[Any], Any, Any], Any]:
    """What gives the logits of a network: a function of tensors in the order and shapes of its layout, x and rr."""
    if isinstance(network, Network):
        return functools.partial(forward, network)
    if isinstance(network, FeatureNetwork):
        return functools.partial(features_forward, network)
    from torch.func import functional_call

    module = module_of(network.part, network.sizes, network.parameters)
    names = [name for name, _ in network.layout]

    def own(parameters: Iterable[Any], x: Any, rr: Any) -> Any:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x, rr))

    return own


def forward(net: Network, parameters: Iterable[Any], x: Any, rr: Any) -> Any:
    """Logits of the network in torch, [n, classes].

    Args:
        parameters: tensors in the order and shapes of `net.layout`.
        x: [n, leads, window].
        rr: [n, features].
    """
    import torch

    F = torch.nn.functional
    parameters = iter(parameters)
    signal = x
    for layer, kernel in enumerate(net.kernels):
        weight, bias, scale, shift = (next(parameters) for _ in range(4))
        stride = 2 if layer == 0 else 1
        before = signal
        signal = F.conv1d(signal, weight, bias, stride=stride, padding=kernel // 2)
        signal = F.group_norm(signal, net.groups, scale, shift)
        if net.residual and layer:
            signal = signal + F.pad(before, (0, 0, 0, signal.shape[1] - before.shape[1]))
        signal = F.relu(signal)
        if layer < 2:  # a maximum commutes with nothing of the norm, so pool after it
            signal = F.max_pool1d(signal, 2)
    joined = torch.cat([F.adaptive_avg_pool1d(signal, net.pooled).flatten(1), rr], 1)
    hidden = F.relu(F.linear(joined, next(parameters), next(parameters)))
    return F.linear(hidden, next(parameters), next(parameters))


def features_forward(net: FeatureNetwork, parameters: Iterable[Any], x: Any, rr: Any) -> Any:
    """As `forward`, of the `features` network."""
    import torch

    weight, bias = parameters
    frozen = torch.from_numpy(frozen_features(net)).to(x.device)
    rows = torch.cat([x.flatten(1), rr], 1)
    features = torch.relu(rows @ frozen[:-1] + frozen[-1])
    features = features - features.mean(1, keepdim=True)
    features = features / (features.square().sum(1, keepdim=True) + 1e-12).sqrt()
    return torch.nn.functional.linear(features, weight, bias)


def as_module(network: AnyNetwork, params: np.ndarray) -> Any:
    """The network as a `torch.nn.Module` for use outside: float32[n, leads * window + features] -> logits [n, classes].

    A row is the window of each lead, one after the other, then the RR features.

    One input, because MLflow keeps an example and a signature only of models that take one.
    """
    import torch

    own_forward = forward_of(network)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in unflatten(params, network.layout).items():
                # torch's modules allow no dot in a name
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.tensor(tensor)))

        def forward(self, features):  # type: ignore[no-untyped-def]
            size = network.leads * network.window
            x, rr = features[:, :size], features[:, size:]
            return own_forward(self.parameters(), x.unflatten(1, (network.leads, network.window)), rr)

    return Module().eval()
