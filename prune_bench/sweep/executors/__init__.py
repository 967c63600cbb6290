"""Where stages run; one small interface."""

from __future__ import annotations

from prune_bench.config import Experiment
from prune_bench.sweep.executors.base import Executor, Job, Outcome
from prune_bench.sweep.executors.device_faults import DeviceFault
from prune_bench.sweep.executors.devices import device_kind, find_devices, find_ray
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.processes import ProcessExecutor

__all__ = ["DeviceFault", "Executor", "Job", "Outcome", "device_kind", "find_devices", "make_executor"]


def make_executor(experiment: Experiment, devices: list[str]) -> Executor:
    """``inline`` uses the first device only; ``auto`` is a process a device, or inline where there is one CPU.

    A single GPU has a worker of its own under ``auto``: after an error of the device only a fresh process can go on.
    """
    if experiment.executor == "inline" or (experiment.executor == "auto" and devices == ["cpu"]):
        return InlineExecutor(devices[0])
    if experiment.executor == "ray":
        made: Executor = find_ray().RayExecutor(devices, experiment.devices)
        return made
    return ProcessExecutor(devices)
