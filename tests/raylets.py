"""Several raylets on this machine, held by a process of their own, so that no other Ray of the tests meets them.

As a program it reads commands, one a line: `add NAME CPUS`, `kill NAME`, `behead`; the end of its input ends everything.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}
# The loss of a node is noticed in a second or two, not in half a minute.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Raylets:
    """A cluster of a head node with one CPU; `address` is what `execution.address` takes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
        self.address = self._answer()

    def add(self, name: str, cpus: int) -> str:
        """Starts a node with the label site=NAME; returns its id."""
        return self._ask(f"add {name} {cpus}")

    def kill(self, name: str) -> None:
        """SIGKILL for the node's raylet."""
        self._ask(f"kill {name}")

    def behead(self) -> None:
        """SIGKILL for what answers at the head's address."""
        self._ask("behead")

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("-> "):  # Ray writes there, too
                return line[3:].strip()
        raise AssertionError("the process that holds the raylets ended")


@contextlib.contextmanager
def raylets() -> Iterator[Raylets]:
    held = Raylets()
    try:
        yield held
    finally:
        held.close()


def _serve() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from engine.actors import imported_ray

    imported_ray()
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}
    try:
        print("->", cluster.address, flush=True)
        for line in sys.stdin:
            match line.split():
                case ["add", name, cpus]:
                    nodes[name] = cluster.add_node(num_cpus=int(cpus), labels={"site": name})
                    print("->", nodes[name].node_id, flush=True)
                case ["kill", name]:
                    cluster.remove_node(nodes.pop(name), allow_graceful=False)
                    print("-> killed", flush=True)
                case ["behead"]:
                    cluster.head_node.kill_gcs_server()
                    print("-> killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _serve()
