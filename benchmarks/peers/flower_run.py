"""Flower: Message API, FedAvg, the Ray backend with two actors. Runs in Flower's own environment; see README.md."""

import os

# before flwr and ray are imported; the actors inherit them
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_LOG_LEVEL": "ERROR",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

import functools
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import common
import flwr
import numpy as np
import ray
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

FOLDER = "FEDERATION_BENCHMARK_FOLDER"  # how the actors learn where the data are
client_app = ClientApp()


@functools.cache
def _place() -> tuple[common.Task, common.Data, common.Network]:
    """Task, mapped data and one network, once for each actor."""
    folder = Path(os.environ[FOLDER])
    task = common.load_task(folder)
    return task, common.Data(folder), common.Network(task)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch; the weights travel as one flat array, which is the least that Flower can be given to carry."""
    task, data, network = _place()
    hospital = int(context.node_config["partition-id"])
    common.load(network, message.content["arrays"]["flat"].numpy())
    steps = common.train(task, data, network, hospital, int(message.content["config"]["server-round"]))
    return _reply(
        message,
        {"num-examples": data.train_size(hospital), "steps": steps, "hospital": hospital},
        arrays=ArrayRecord({"flat": Array(common.flatten(network))}),
    )


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Accuracy of the new global model on the hospital's test part."""
    _, data, network = _place()
    common.load(network, message.content["arrays"]["flat"].numpy())
    correct, count = common.test_counts(data, network, int(context.node_config["partition-id"]))
    return _reply(message, {"num-examples": count, "accuracy": correct / count})


def _reply(message: Message, metrics: dict[str, Any], **more: Any) -> Message:
    return Message(RecordDict({"metrics": MetricRecord(metrics), **more}), reply_to=message)


class Strategy(FedAvg):
    """FedAvg on the hospitals that the task selects, evaluated where it trained; it keeps the time.

    A client that fails is an error here: `FedAvg` goes on without it, and would seem fast.
    """

    def __init__(self, task: common.Task) -> None:
        super().__init__(min_available_nodes=task.hospitals)
        self._task = task
        self._nodes: list[int] = []
        self._chosen: list[int] = []
        self.marks: list[float] = []
        self.accuracy: list[float] = []
        self.steps = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self.marks:
            self.marks.append(time.perf_counter())
            self._nodes = self._registered(grid)
        self._chosen = common.selected(self._task, server_round)
        return self._messages(server_round, arrays, config, MessageType.TRAIN)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = self._complete(replies)
        answered = sorted(int(reply.content["metrics"]["hospital"]) for reply in replies)
        if answered != self._chosen:
            raise RuntimeError(f"round {server_round}: asked {self._chosen}, answered {answered}")
        self.steps += sum(int(reply.content["metrics"]["steps"]) for reply in replies)
        return super().aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._messages(server_round, arrays, config, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics = super().aggregate_evaluate(server_round, self._complete(replies))
        self.accuracy.append(float(metrics["accuracy"]))  # type: ignore[index,arg-type]
        self.marks.append(time.perf_counter())
        return metrics

    def _registered(self, grid: Grid) -> list[int]:
        """The nodes in the order of their partitions, in which the simulation registers them."""
        while len(nodes := list(grid.get_nodes())) < self._task.hospitals:
            time.sleep(0.05)
        return [node.node_id for node in sorted(nodes, key=lambda node: datetime.fromisoformat(node.registered_at))]

    def _messages(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, message_type: str
    ) -> Iterable[Message]:
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(record, [self._nodes[hospital] for hospital in self._chosen], message_type)

    def _complete(self, replies: Iterable[Message]) -> list[Message]:
        replies = list(replies)
        errors = [reply.error.reason for reply in replies if reply.has_error()]
        if errors or len(replies) != len(self._chosen):
            raise RuntimeError(f"{len(replies)} of {len(self._chosen)} replies, {len(errors)} errors: {errors[:1]}")
        return replies


def main() -> None:
    """Runs one workload and reports."""
    given = common.arguments()
    task = common.load_task(given.folder)
    os.environ[FOLDER] = str(given.folder.resolve())
    strategy = Strategy(task)
    server_app = ServerApp()
    final = {}

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        initial = common.flatten(common.build(task, given.folder))
        found = strategy.start(grid, ArrayRecord({"flat": Array(initial)}), num_rounds=given.rounds)
        final["flat"] = found.arrays["flat"].numpy()

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    run_simulation(
        server_app,
        client_app,
        task.hospitals,
        backend_config={
            "init_args": {"num_cpus": common.WORKERS, **quiet},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    seconds = np.diff(strategy.marks).tolist()
    versions = {"flwr": flwr.__version__, "ray": ray.__version__, "torch": torch.__version__}
    common.report(given.final, final["flat"], seconds, strategy.accuracy, strategy.steps, versions=versions)


if __name__ == "__main__":
    # run the importable module: what lives in __main__ would be sent by value, with fresh caches for each message
    sys.path.insert(0, str(Path(__file__).parent))
    import flower_run

    flower_run.main()
