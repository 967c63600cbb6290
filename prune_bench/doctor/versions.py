"""What is installed, and on which devices the experiment would run."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

from prune_bench.config import Experiment
from prune_bench.doctor.lines import Line, Subject
from prune_bench.errors import ConfigError


def look(subject: Subject) -> Iterator[Line]:
    """Versions, then devices."""
    begun = time.perf_counter()
    import torch

    words = f"torch {torch.__version__}" + _libraries()
    words += f"; Lightning {version('lightning')}, Python {platform.python_version()}"
    words += f"; torch imported in {time.perf_counter() - begun:.1f} s"
    yield Line(name="versions", verdict="pass", words=words, values={"torch": torch.__version__})
    yield devices(subject.experiment)


def devices(experiment: Experiment) -> Line:
    """The devices of this machine that the experiment would run on; those of a Ray cluster are not asked for."""
    from prune_bench.sweep.executors import find_devices

    here = replace(experiment, executor="auto", devices=replace(experiment.devices, address=None))
    try:
        slots = find_devices(here)
    except ConfigError as error:
        return Line(name="devices", verdict="mend", words=str(error), values={"slots": [], "devices": ["cpu"]})
    values = {"slots": slots, "devices": sorted({part for slot in slots for part in slot.split("+")})}
    words = ", ".join(f"{count} x {name}" for name, count in Counter(slots).items())
    if slots[0] == "cpu":
        words += _why_not_cuda()
    return Line(name="devices", verdict="pass", words=words, values=values)


def _libraries() -> str:
    import torch

    if not torch.version.cuda:
        return " without CUDA"
    cudnn = torch.backends.cudnn.version() or 0
    parts = [f"CUDA {torch.version.cuda}", f"cuDNN {cudnn // 10_000}.{cudnn % 10_000 // 100}.{cudnn % 100}"]
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        parts.append("NCCL " + ".".join(str(part) for part in torch.cuda.nccl.version()))
    return f" with {', '.join(parts)}"


def _why_not_cuda() -> str:
    """Why a sweep takes the CPU; a GPU that is there and cannot be used is an error of `find_devices`."""
    import torch

    from prune_bench.sweep.executors.devices import gpus_are_hidden

    if gpus_are_hidden():
        return f"; CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
    if torch.cuda.is_available():
        return "; devices.accelerator=cpu leaves the GPUs alone"
    return "; no CUDA GPU here" if torch.version.cuda else "; this torch is built without CUDA"
