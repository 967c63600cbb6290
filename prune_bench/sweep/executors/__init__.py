"""Where stages run; one small interface."""

from __future__ import annotations

import os
from types import ModuleType

from prune_bench.config import Experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep.executors.base import Executor, Job, Outcome
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.processes import ProcessExecutor

__all__ = ["Executor", "Job", "Outcome", "device_kind", "find_devices", "make_executor"]


def find_devices(experiment: Experiment) -> list[str]:
    """The device of each slot: every GPU there is, or as many CPU processes as cores allow.

    With ``devices.per_cell`` above 1 each slot has that many, their names joined by ``+``; what is left over is idle.

    Raises:
        ConfigError: The accelerator or the cluster asked for is not there, or not as many devices as are asked for.
    """
    import torch

    ray = _ray() if experiment.executor == "ray" else None
    if ray is not None and (together := experiment.devices.per_cell) > 1:
        raise ConfigError("devices.per_cell", together, "is not possible with executor=ray: take executor=processes")
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
    groups = _groups(_places(wanted, experiment), experiment)
    return groups * experiment.devices.cells_per_gpu if wanted == "cuda" else groups


def _places(device: str, experiment: Experiment) -> list[str]:
    """What there is to use, a name each; of CPU processes as many as are asked for."""
    import torch

    count = experiment.devices.count
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ["cpu"] * (count or max(1, cores // experiment.devices.threads))
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if device == "cuda" else [device]
    if count is not None and count > len(there):
        raise ConfigError("devices.count", count, f"is more than the {len(there)} there are")
    return there[:count]


def _groups(places: list[str], experiment: Experiment) -> list[str]:
    together = experiment.devices.per_cell
    if len(places) < together:
        words = f"is more than the {len(places)} devices there are to use: lower it"
        if experiment.devices.count is not None or "cpu" in places:
            words += ", or raise devices.count"
        raise ConfigError("devices.per_cell", together, words)
    return ["+".join(places[i : i + together]) for i in range(0, len(places) - together + 1, together)]


def device_kind(device: str) -> str:
    """What kind of device a slot has: ``cpu``, ``cuda`` or ``mps``, or for example ``cuda+cuda`` of two."""
    return "+".join(part.partition(":")[0] for part in device.split("+"))


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
