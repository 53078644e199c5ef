"""Where hospitals live: in this process, on threads of it, or in Ray actors. One interface, the same numbers."""

import os
from collections.abc import Sequence

from engine.data.cohort import HospitalData
from engine.errors import ConfigError
from engine.hospital import Task
from engine.messages import Pool
from engine.pools.local import InProcessPool


def build_pool(hospitals: Sequence[HospitalData], task: Task) -> Pool:
    """The pool that `execution.pool` names. For "ray", Ray must have been started: see `start_ray`."""
    execution = task.config.execution
    match execution.pool:
        case "ray":
            from engine.pools.ray import RayPool

            return RayPool(hospitals, task)
        case "threads":
            return InProcessPool(hospitals, task, threads=execution.cpus or os.cpu_count() or 1)
        case "sites":
            raise ConfigError("execution.pool sites: hospitals join a run of `pulseledger run`, and no other.")
        case "inprocess":
            return InProcessPool(hospitals, task)
