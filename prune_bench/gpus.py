"""The NVIDIA GPUs of this machine as their driver lists them; CUDA is not opened to find out."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

_PATIENCE = 10.0  # seconds; nvidia-smi can hang on a GPU that has fallen off the bus
_QUERY = ("uuid", "driver_version", "compute_mode")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or a slice of one (MIG).

    Attributes:
        name: As torch names it too, for example ``NVIDIA H100 80GB HBM3`` or ``NVIDIA A100-SXM4-40GB MIG 1g.5gb``.
        uuid: ``GPU-...`` or ``MIG-...``.
        driver: The driver's version, for example ``580.65.06``.
        compute_mode: ``Default``, ``Exclusive_Process`` or ``Prohibited``.
    """

    name: str
    uuid: str
    driver: str
    compute_mode: str


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process; empty where ``nvidia-smi`` cannot tell.

    CUDA numbers the fastest first, and the driver numbers by bus. Where kinds differ and one is named by its number,
    they are all there are, unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` has CUDA number by bus too.
    """
    listing = _nvidia_smi("-L")
    rows = _nvidia_smi(f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader")
    facts = {row[0]: row[1:] for row in (re.split(r",\s*", line) for line in rows) if len(row) == len(_QUERY)}
    return _visible(_parse(listing, facts), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _parse(listing: list[str], facts: dict[str, list[str]]) -> list[Gpu]:
    """The lines of ``nvidia-smi -L``; a GPU that is cut into slices stands there as its slices."""
    found: list[Gpu] = []
    whole: Gpu | None = None
    for line in listing:
        if gpu := re.match(r"GPU \d+: (.+) \(UUID: (\S+)\)", line):
            driver, mode = facts.get(gpu[2], ["", ""])
            whole = Gpu(name=gpu[1], uuid=gpu[2], driver=driver, compute_mode=mode)
            found.append(whole)
        elif whole and (part := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line)):
            found = [gpu for gpu in found if gpu is not whole]
            name = f"{whole.name} MIG {part[1]}"
            found.append(Gpu(name=name, uuid=part[2], driver=whole.driver, compute_mode=whole.compute_mode))
    return found


def _visible(gpus: list[Gpu], names: str | None) -> tuple[Gpu, ...]:
    """Those that are named, by index or by the beginning of the uuid; as CUDA does, up to the first unknown name."""
    if names is None:
        return tuple(gpus)
    one_order = len({gpu.name for gpu in gpus}) <= 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    chosen: list[Gpu] = []
    for name in (word.strip() for word in names.split(",")):
        there = [
            g
            for i, g in enumerate(gpus)
            if name == str(i) or (name[:4] in ("GPU-", "MIG-") and g.uuid.startswith(name))
        ]
        if not there:
            break
        if name.isdigit() and not one_order:
            return tuple(gpus)
        chosen.append(there[0])
    return tuple(chosen)


def _nvidia_smi(*words: str) -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=_PATIENCE, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
