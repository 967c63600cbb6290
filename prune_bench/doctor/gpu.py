"""A GPU as the driver and torch see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import date

from prune_bench.config import Experiment
from prune_bench.doctor.lines import Line, Subject

_FREE = 0.9  # part of the memory; of one that is free even a desktop takes less


def look(subject: Subject) -> Iterator[Line]:
    """The GPU's kind, what it can do, and who else is on it."""
    import torch

    from prune_bench.device_profile import local_versions

    place = torch.device(subject.device)
    torch.cuda.init()
    found, (free, total) = torch.cuda.get_device_properties(place), torch.cuda.mem_get_info(place)
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    there = local_versions()
    versions = [asdict(own) for own in there if own.gpu == found.name or len(there) == 1]
    values = {"memory_bytes": total, "bfloat16": bfloat16, "versions": versions[0] if len(versions) == 1 else None}
    yield Line(
        name="GPU",
        verdict="pass",
        words=f"{found.name}, capability {found.major}.{found.minor}, {total / 1e9:.1f} GB, "
        f"{'with' if bfloat16 else 'without'} bfloat16",
        values=values,
    )
    yield driver(subject.experiment)
    yield precision(subject.experiment, bfloat16)
    yield others(free, total)


def driver(experiment: Experiment) -> Line:
    """The driver and the compute mode, as ``nvidia-smi`` tells them."""
    from prune_bench.gpus import visible_gpus

    if not (gpus := visible_gpus()):
        words = (
            "nvidia-smi does not answer, so that no profile can be kept: put it on the PATH (in a container: driver"
        )
        return Line(name="driver", verdict="mend", words=f"{words} capability `utility`)")
    mode, words = gpus[0].compute_mode, f"driver {gpus[0].driver}, compute mode {gpus[0].compute_mode}"
    if mode == "Prohibited" or (mode.startswith("Exclusive") and experiment.devices.cells_per_gpu > 1):
        way = "nvidia-smi -c DEFAULT (as root)" + ("" if mode == "Prohibited" else ", or devices.cells_per_gpu=1")
        return Line(name="driver", verdict="mend", words=f"{words}: the experiment's cells cannot share it: {way}")
    return Line(name="driver", verdict="pass", words=words)


def precision(experiment: Experiment, bfloat16: bool) -> Line:
    """Whether it has the arithmetic that is asked for."""
    from prune_bench.sweep.cells import read_methods

    asked = {experiment.train.precision}
    asked |= {getattr(method.options, "precision", "float32") for method in read_methods(experiment).values()}
    if "bfloat16" in asked and not bfloat16:
        words = "bfloat16 is asked for, and this GPU has none: take precision float32 or tf32"
        return Line(name="precision", verdict="mend", words=words)
    return Line(name="precision", verdict="pass", words=f"{', '.join(sorted(asked))}, as the experiment asks")


def others(free: int, total: int) -> Line:
    """Whether somebody else's memory is on it."""
    words = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free >= _FREE * total:
        return Line(name="GPU memory", verdict="pass", words=words)
    words += ": others use it (nvidia-smi lists them); end them, or leave this GPU out by CUDA_VISIBLE_DEVICES"
    return Line(name="GPU memory", verdict="mend", words=words)


def keep(subject: Subject) -> Iterator[Line]:
    """Writes the GPU's profile, of what the checks before have found."""
    from prune_bench.device_profile import DeviceProfile, StepTime, Versions, write_profile

    known = subject.known
    if not known.get("versions"):
        words = "the driver did not tell which GPU this is"
        yield Line(name="profile", verdict="skipped", words=words)
        return
    profile = DeviceProfile(
        versions=Versions(**known["versions"]),
        when=date.today().isoformat(),
        memory_bytes=known["memory_bytes"],
        replay=known.get("replay", {}),
        steps=tuple(StepTime(**step) for step in known.get("steps", [])),
    )
    try:
        path = write_profile(profile)
    except OSError as error:
        words = f"cannot be written: {error}. Point XDG_CACHE_HOME to a folder that can"
        yield Line(name="profile", verdict="mend", words=words)
        return
    words = "replay is on by itself" if profile.replay_passed else "replay stays off by itself"
    yield Line(name="profile", verdict="pass", words=f"{words}; kept in {path}", values={"profile": str(path)})
