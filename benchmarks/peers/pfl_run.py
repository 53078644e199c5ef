"""pfl: SimulatedBackend, FederatedAveraging; one process, or several by torchrun. See README.md."""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import common
import numpy as np
import torch


def main(given: argparse.Namespace) -> None:
    """Runs one workload and reports."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.internal.ops import pytorch_ops
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    task, data = common.load_task(given.folder), common.Data(given.folder)
    workers = pytorch_ops.distributed
    if workers.world_size != given.processes:
        raise RuntimeError(f"{workers.world_size} processes take part, not {given.processes}")
    count = {"round": 1, "steps": 0}

    class Learner(common.Network):
        def loss(self, x: torch.Tensor, rr: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self(x, rr), y)

        def metrics(self, x: torch.Tensor, rr: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            return {}  # counted by the callback below

    class Beats(Dataset):
        """The beats of one hospital, gathered batch by batch."""

        def __init__(self, hospital: int) -> None:
            super().__init__((), user_id=str(hospital))
            self._hospital = hospital

        def __len__(self) -> int:
            return data.train_size(self._hospital)

        def iter(self, batch_size: int | None) -> Iterator[Any]:
            for rows in common.batches(task, data, self._hospital, count["round"]):
                count["steps"] += 1
                yield [data.x[rows], data.rr[rows], data.y[rows]]

    class Quiet(FederatedAveraging):
        """Without the evaluation of train data before and after training, which pfl always does in its first round."""

        def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> Any:
            contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
            if contexts is not None:
                contexts = tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
            return contexts, model, metrics

    class Evaluation(TrainingProcessCallback):
        """Tests the new model on the hospitals that took part, shared among the processes, and keeps the time."""

        def __init__(self) -> None:
            self.marks: list[float] = []
            self.accuracy: list[float] = []

        def on_train_begin(self, *, model: Any) -> Any:
            self.marks.append(time.perf_counter())
            return Metrics()

        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            mine = common.selected(task, count["round"])[workers.global_rank :: workers.world_size]
            counts = np.sum([common.test_counts(data, model.pytorch_model, hospital) for hospital in mine], axis=0)
            total = torch.tensor(counts, dtype=torch.float32)  # what pfl's all_reduce carries; exact below 2 ** 24
            workers.all_reduce([total])
            self.accuracy.append(float(total[0] / total[1]))
            self.marks.append(time.perf_counter())
            count["round"] += 1
            return False, Metrics()

    def sample() -> Iterator[int]:
        for round in range(1, given.rounds + 1):
            yield from common.selected(task, round)

    np.random.seed(task.seed)  # pfl asks this stream for seeds, which must be the same in all processes
    network = Learner(task)
    common.load(network, np.load(given.folder / "initial.npy"))
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    sampled = sample()
    dataset = FederatedDataset(Beats, lambda: next(sampled))
    evaluation = Evaluation()
    model = Quiet().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=given.rounds,
            evaluation_frequency=given.rounds,
            train_cohort_size=task.per_round,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(dataset, dataset, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=task.rate, local_batch_size=task.batch
        ),
        callbacks=[evaluation],
        send_metrics_to_platform=False,
    )
    steps = torch.tensor([float(count["steps"])])
    workers.all_reduce([steps])
    if workers.global_rank == 0:
        seconds = np.diff(evaluation.marks).tolist()
        versions = {"pfl": version("pfl"), "torch": torch.__version__}
        flat = common.flatten(model.pytorch_model)
        common.report(given.final, flat, seconds, evaluation.accuracy, int(steps), versions=versions)
    if workers.world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    given = common.arguments(parser)
    if given.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given.processes}"]
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])
    main(given)
