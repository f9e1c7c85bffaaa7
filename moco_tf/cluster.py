"""Which hosts share a run: those of TF_CONFIG, or the tasks of Slurm's srun."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from moco_tf.mistakes import Mistake

# Kinds of tasks that train, in the order in which they count.
_KINDS = ("chief", "worker")


class ClusterError(Mistake):
    """What describes the cluster cannot be used."""


@dataclass(frozen=True)
class Cluster:
    """The hosts of a run.

    Attributes:
        addresses: "host:port" of each, the first one's first.
        index: of this process among them.
    """

    addresses: tuple[str, ...]
    index: int


def silence(host: str, port: int) -> str | None:
    """Why nothing answers at an address; None where something does."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except OverflowError:
        return "ports end at 65535"
    return None


def find_cluster() -> Cluster | None:
    """The cluster that this process is a part of; None where it works alone.

    Where Slurm's srun has started several tasks, they are described in TF_CONFIG, as
    TensorFlow reads that.

    Raises:
        ClusterError: if the description cannot be used.
    """
    if "TF_CONFIG" not in os.environ and _slurm_tasks() > 1:
        os.environ["TF_CONFIG"] = json.dumps(_of_slurm())
    if "TF_CONFIG" not in os.environ:
        return None
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        kinds = {kind: config["cluster"].get(kind, []) for kind in _KINDS}
        kind, index = config["task"]["type"], int(config["task"]["index"])
        own = kinds[kind][index]
        addresses = [address for kind in _KINDS for address in kinds[kind]]
        return Cluster(tuple(addresses), addresses.index(own))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"TF_CONFIG={os.environ['TF_CONFIG']!r} does not say which worker this is "
            f"({type(error).__name__}: {error}); it should be like "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}; of the kinds of tasks, chief and '
            "worker can train."
        ) from None


def _slurm_tasks() -> int:
    # The batch script itself has SLURM_PROCID too, but is no task of a step.
    is_task = "SLURM_PROCID" in os.environ and "SLURM_STEP_NODELIST" in os.environ
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) if is_task else 1


def _of_slurm() -> dict:
    """What TF_CONFIG would be.

    TensorFlow's own SlurmClusterResolver orders hosts by name, node10 before node2, so
    that ranks would get each other's addresses, and needs GPUs to count tasks by; its
    parsers of Slurm's lists are right.
    """
    from tensorflow.python.distribute.cluster_resolver import (
        slurm_cluster_resolver as slurm,
    )

    hosts = slurm.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    counts = slurm.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    # Two jobs on one node must not meet at a port.
    first = 20_000 + int(os.environ.get("SLURM_JOB_ID", 0)) * 64 % 30_000
    workers = [
        f"{host}:{first + task}"
        for host, count in zip(hosts, counts)
        for task in range(count)
    ]
    task = {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}
    return {"cluster": {"worker": workers}, "task": task}
