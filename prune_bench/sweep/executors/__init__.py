"""Where stages run; one small interface."""

from __future__ import annotations

import os
from types import ModuleType

from prune_bench.config import Experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep.executors.base import Executor, Job, Outcome
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.processes import ProcessExecutor

__all__ = ["Executor", "Job", "Outcome", "find_devices", "make_executor"]


def find_devices(experiment: Experiment) -> list[str]:
    """The device of each slot: every GPU there is, or as many CPU processes as cores allow.

    Raises:
        ConfigError: The accelerator or the cluster asked for is not there.
    """
    import torch

    ray = _ray() if experiment.executor == "ray" else None
    if (address := experiment.devices.address) is not None:
        if ray is None:
            raise ConfigError("devices.address", address, "is a Ray cluster's, which needs executor=ray")
        return list(ray.find_slots(experiment.devices))
    wanted = experiment.devices.accelerator
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = "cuda" if there["cuda"] else "cpu"
    if not there[wanted]:
        names = [name for name, is_there in there.items() if is_there]
        raise ConfigError("devices.accelerator", wanted, "is not on this machine", allowed=names)
    count, slots = experiment.devices.count, _slots(wanted, experiment)
    if count is None:
        return slots * experiment.devices.cells_per_gpu if wanted == "cuda" else slots
    if wanted == "cpu":
        return ["cpu"] * count
    if count > len(slots):
        raise ConfigError("devices.count", count, f"is more than the {len(slots)} there are")
    return slots[:count] * experiment.devices.cells_per_gpu


def _slots(device: str, experiment: Experiment) -> list[str]:
    import torch

    if device == "cuda":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [device] * (max(1, cores // experiment.devices.threads) if device == "cpu" else 1)


def make_executor(experiment: Experiment, devices: list[str]) -> Executor:
    """``inline`` uses the first device only; ``auto`` is a process a device, or inline where there is one."""
    if experiment.executor == "inline" or (experiment.executor == "auto" and len(devices) == 1):
        return InlineExecutor(devices[0])
    if experiment.executor == "ray":
        made: Executor = _ray().RayExecutor(devices, experiment.devices)
        return made
    return ProcessExecutor(devices)


def _ray() -> ModuleType:
    try:
        from prune_bench.sweep.executors import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("executor", "ray", "needs ray: pip install 'prune-bench[ray]'") from None
    return ray
