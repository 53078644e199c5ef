"""Many hospitals at once on one device: their networks are stacked, their steps taken together.

A GPU is idle under one small network at a time. Here each hospital's work runs unchanged in a thread of its own; when
it asks for a gradient it waits, and once all hospitals that are still at work wait, their requests are answered by a
single stacked forward and backward pass. So every algorithm gains, and none knows of it.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.model import Network
from engine.oracles.base import Batch, Clipped


class StackedOracle:
    """Gradients of many parameter vectors of one network in one pass.

    Convolutions are written as matrix products over unfolded windows (`bmm`), because a grouped convolution with one
    group for each hospital is slow on every device tried.
    """

    def __init__(self, network: Network, device: str) -> None:
        import torch

        self._torch = torch
        self._network = network
        self._device = torch.device(device)
        self._shapes = [shape for _, shape in network.layout]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        # TF32 would round the products to 10 bits; these numbers are to agree with the CPU's
        torch.backends.cuda.matmul.allow_tf32 = False

    def gradients(self, params: np.ndarray, batches: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """Mean losses float64[hospitals] and gradients float32[hospitals, parameters].

        Args:
            params: float32[hospitals, parameters].
            batches: one for each hospital; shorter ones are padded with beats of weight zero.
        """
        torch = self._torch
        longest = max(len(batch.y) for batch in batches)
        x, rr, y, weight = self._padded(batches, longest)
        flat = torch.from_numpy(params).to(self._device).requires_grad_()
        logits = self._forward(flat, x, rr)
        if any(batch.logit_offset is not None for batch in batches):
            logits = logits + self._offsets(batches)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        means = (losses.view(weight.shape) * weight).sum(1)
        (gradient,) = torch.autograd.grad(means.sum(), flat)
        return means.detach().double().cpu().numpy(), gradient.cpu().numpy()

    def _padded(self, batches: Sequence[Batch], longest: int) -> tuple[Any, Any, Any, Any]:
        net, count = self._network, len(batches)
        x = np.zeros((count, longest, net.leads, net.window), np.float32)
        rr = np.zeros((count, longest, net.rr), np.float32)
        y = np.zeros((count, longest), np.int64)
        weight = np.zeros((count, longest), np.float32)
        for i, batch in enumerate(batches):
            n = len(batch.y)
            x[i, :n], rr[i, :n], y[i, :n], weight[i, :n] = batch.x, batch.rr, batch.y, 1.0 / n
            if batch.class_weight is not None:
                weight[i, :n] *= batch.class_weight[batch.y]
        return tuple(self._torch.from_numpy(a).to(self._device) for a in (x, rr, y, weight))  # type: ignore[return-value]

    def _offsets(self, batches: Sequence[Batch]) -> Any:
        none = np.zeros(self._network.classes, np.float32)
        offsets = np.stack([none if batch.logit_offset is None else batch.logit_offset for batch in batches])
        return self._torch.from_numpy(offsets).to(self._device).unsqueeze(1)

    def _forward(self, flat: Any, x: Any, rr: Any) -> Any:
        torch, net = self._torch, self._network
        F = torch.nn.functional
        count, size = x.shape[:2]
        parameters = iter(
            [part.reshape(count, *shape) for part, shape in zip(flat.split(self._sizes, 1), self._shapes, strict=True)]
        )
        signal = x  # hospitals, beats, channels, time
        for layer, kernel in enumerate(net.kernels):
            weight, bias, scale, shift = (next(parameters) for _ in range(4))
            windows = F.pad(signal, (kernel // 2, kernel // 2)).unfold(3, kernel, 2 if layer == 0 else 1)
            time = windows.shape[3]
            columns = windows.permute(0, 1, 3, 2, 4).reshape(count, size * time, -1)
            product = torch.baddbmm(bias.unsqueeze(1), columns, weight.flatten(2).transpose(1, 2))
            signal = product.view(count, size, time, -1).transpose(2, 3)
            normed = F.group_norm(signal.reshape(count * size, -1, time), net.groups).view(signal.shape)
            signal = F.relu(normed * scale[:, None, :, None] + shift[:, None, :, None])
            if layer < 2:
                signal = F.max_pool1d(signal.flatten(0, 1), 2).view(count, size, -1, time // 2)
        pooled = F.adaptive_avg_pool1d(signal.flatten(0, 1), net.pooled).view(count, size, -1)
        joined = torch.cat([pooled, rr], 2)
        for last in (False, True):
            weight, bias = next(parameters), next(parameters)
            joined = torch.baddbmm(bias.unsqueeze(1), joined, weight.transpose(1, 2))
            joined = joined if last else F.relu(joined)
        return joined


class Lockstep:
    """Runs tasks in threads and answers their gradient requests together.

    It is itself an oracle, to be given to the hospitals: `gradient` waits for the others, everything else goes to the
    oracle beneath.
    """

    def __init__(self, stacked: StackedOracle, beneath: Any) -> None:
        self._stacked = stacked
        self._beneath = beneath
        self._condition = threading.Condition()
        self._working = 0  # tasks that are neither done nor waiting for a gradient
        self._requests: list[tuple[np.ndarray, Batch, list[Any]]] = []

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """As the oracle beneath; answered once every working task has asked."""
        answer: list[Any] = []
        done = threading.Event()
        with self._condition:
            self._requests.append((params.copy(), batch, [answer, done]))
            self._working -= 1
            self._condition.notify()
        done.wait()
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0], answer[1]

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        """As the oracle beneath, one at a time."""
        return self._beneath.clipped_gradient(params, batch, clip)

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        """As the oracle beneath, one at a time."""
        return self._beneath.hessian_vector(params, batch, vector)

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        """As the oracle beneath."""
        return self._beneath.scores(params, x, rr)

    def run(self, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        """The tasks' results in their order. A task's exception is raised after all have ended."""
        results: list[Any] = [None] * len(tasks)

        def one(i: int) -> None:
            try:
                results[i] = tasks[i]()
            except BaseException as error:
                results[i] = error
            finally:
                with self._condition:
                    self._working -= 1
                    self._condition.notify()

        self._working = len(tasks)
        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(len(tasks))]
        for thread in threads:
            thread.start()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._working == 0)
                requests, self._requests = self._requests, []
                self._working = len(requests)
            if not requests:
                break
            self._answer(requests)
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def _answer(self, requests: list[tuple[np.ndarray, Batch, list[Any]]]) -> None:
        try:
            params = np.stack([vector for vector, _, _ in requests])
            losses, gradients = self._stacked.gradients(params, [batch for _, batch, _ in requests])
            answers: list[list[Any]] = [[float(a), b] for a, b in zip(losses, gradients, strict=True)]
        except Exception as error:
            answers = [[error]] * len(requests)
        for (_, _, (answer, done)), found in zip(requests, answers, strict=True):
            answer.extend(found)
            done.set()
