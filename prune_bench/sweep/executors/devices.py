"""Which devices a sweep has, a slot each, and what is told when they cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from prune_bench.config import Experiment
from prune_bench.config_checks import check_precision
from prune_bench.cores import usable_cores
from prune_bench.errors import ConfigError

_NVIDIA = (
    ("/proc/driver/nvidia",),
    ("/dev/nvidia0",),
    ("/dev/nvidiactl",),
    ("/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1"),
)
_NONE = ("", "-1", "none", "nodevfiles")  # CUDA_VISIBLE_DEVICES of those who want no GPU; the last is SLURM's
_WITHOUT_BFLOAT16 = """
import json, torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({i: p.name for i, p in enumerate(found) if p.major < 8 and not torch.version.hip}))
"""
_PATIENCE = 120  # seconds for a fresh process to import torch and look at the GPUs


def find_devices(experiment: Experiment) -> list[str]:
    """The device of each slot: every GPU there is, or as many CPU processes as cores allow.

    With ``devices.per_cell`` above 1 each slot has that many, their names joined by ``+``; what is left over is idle.
    No CUDA context is made in this process.

    Raises:
        ConfigError: The accelerator or the cluster asked for is not there, or not as many devices as are asked for;
            an NVIDIA GPU is there and cannot be used; or bfloat16 is asked of one that has none.
    """
    ray = find_ray() if experiment.executor == "ray" else None
    if ray is not None and (together := experiment.devices.per_cell) > 1:
        raise ConfigError("devices.per_cell", together, "is not possible with executor=ray: take executor=processes")
    if (address := experiment.devices.address) is not None:
        if ray is None:
            raise ConfigError("devices.address", address, "is a Ray cluster's, which needs executor=ray")
        return list(ray.find_slots(experiment.devices))
    wanted = _accelerator(experiment.devices.accelerator)
    groups = _groups(_places(wanted, experiment), experiment)
    if wanted != "cuda":
        return groups
    _check_bfloat16(experiment, groups)
    return groups * experiment.devices.cells_per_gpu


def device_kind(device: str) -> str:
    """What kind of device a slot has: ``cpu``, ``cuda`` or ``mps``, or for example ``cuda+cuda`` of two."""
    return "+".join(part.partition(":")[0] for part in device.split("+"))


def cuda_trouble() -> str | None:
    """Why the NVIDIA GPU of this machine cannot be used, and the mend; None if it can, if there is none, or if
    ``CUDA_VISIBLE_DEVICES`` says that none is wanted."""
    import torch

    if gpus_are_hidden() or torch.cuda.is_available() or not _nvidia_is_there():
        return None
    try:
        torch.cuda.init()
        reason = "torch.cuda.is_available() is False"
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
    return f"{reason.rstrip('.')}. {_mend()}"


def gpus_are_hidden() -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` says that no GPU is wanted."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip().lower() in _NONE


def _mend() -> str:
    import torch

    if torch.version.cuda is None:
        wheel = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
        return (
            f"This torch is built without CUDA: install one for the driver (nvidia-smi shows its CUDA), e.g. {wheel}"
        )
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} may name GPUs that are not there, or one twice: mend or unset it"
    return (
        f"torch {torch.__version__} is built for CUDA {torch.version.cuda}: if nvidia-smi shows a lower version, "
        "update the driver, or install torch from https://download.pytorch.org/whl/ built for that version"
    )


def _accelerator(wanted: str) -> str:
    """The accelerator asked for; of ``auto`` the GPU, or the CPU of a machine without."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted in ("auto", "cuda") and not there["cuda"] and (trouble := cuda_trouble()):
        words = f"finds an NVIDIA GPU that cannot be used: {trouble}; or take devices.accelerator=cpu"
        raise ConfigError("devices.accelerator", wanted, words)
    if wanted == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[wanted]:
        names = [name for name, is_there in there.items() if is_there]
        raise ConfigError("devices.accelerator", wanted, "is not on this machine", allowed=names)
    return wanted


def _nvidia_is_there() -> bool:
    """Whether a driver has left its traces: on Linux, in a container, under WSL."""
    return any(all(Path(name).exists() for name in names) for names in _NVIDIA)


def _places(device: str, experiment: Experiment) -> list[str]:
    """What there is to use, a name each; of CPU processes as many as are asked for."""
    count = experiment.devices.count
    if device == "cpu":
        return ["cpu"] * (count or max(1, int(usable_cores() // experiment.devices.threads)))
    there = [f"cuda:{index}" for index in range(_gpus())] if device == "cuda" else [device]
    if count is not None and count > len(there):
        raise ConfigError("devices.count", count, f"is more than the {len(there)} there are")
    return there[:count]


def _gpus() -> int:
    """How many GPUs there are. A process sees one slice of a MIG GPU at most; workers are given a slice each."""
    import torch

    slices = 0
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if not name.strip().startswith("MIG-"):
            break
        slices += 1
    return max(slices, torch.cuda.device_count())


def _groups(places: list[str], experiment: Experiment) -> list[str]:
    together = experiment.devices.per_cell
    if len(places) < together:
        words = f"is more than the {len(places)} devices there are to use: lower it"
        if experiment.devices.count is not None or "cpu" in places:
            words += ", or raise devices.count"
        raise ConfigError("devices.per_cell", together, words)
    return ["+".join(places[i : i + together]) for i in range(0, len(places) - together + 1, together)]


def _check_bfloat16(experiment: Experiment, groups: list[str]) -> None:
    """Asked only where bfloat16 is: a fresh process sees just the GPUs that CUDA shows here, and makes no context in
    this one, which would take memory on the first GPU for as long as the sweep lasts."""

    def without() -> list[str]:
        used = {part for group in groups for part in group.split("+")}
        return [f"cuda:{i} ({name})" for i, name in gpus_without_bfloat16().items() if f"cuda:{i}" in used]

    check_precision(experiment, without)


def gpus_without_bfloat16() -> dict[int, str]:
    """Index and name of every GPU that has no bfloat16 of its own: those before compute capability 8.0 (Ampere).

    torch computes in bfloat16 there too, slower than in float32. Empty if it cannot be found out.
    """
    try:
        words = [sys.executable, "-c", _WITHOUT_BFLOAT16]
        found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_PATIENCE).stdout
        return {int(index): str(name) for index, name in json.loads(found.strip().splitlines()[-1]).items()}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}


def find_ray() -> ModuleType:
    """The module of the Ray executor.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        from prune_bench.sweep.executors import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("executor", "ray", "needs ray: pip install 'prune-bench[ray]'") from None
    return ray
