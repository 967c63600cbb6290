"""Cores, threads and memory, against what the experiment asks of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

from prune_bench.cores import control_groups, core_quota, cores_there, memory_limit
from prune_bench.doctor.lines import Line, Subject


def look(subject: Subject) -> Iterator[Line]:
    """Cores and memory."""
    slots = subject.known.get("slots") or ["cpu"]
    on_gpus = slots[0].startswith("cuda")
    yield cores(len(slots), subject.experiment.devices.threads, core_quota(control_groups()), on_gpus=on_gpus)
    yield memory(memory_limit(control_groups()))


def cores(slots: int, threads: int, limit: float | None, *, on_gpus: bool = False) -> Line:
    """Whether the slots' threads have a core each.

    Args:
        slots: Jobs that run at once.
        threads: CPU threads of each.
        limit: Cores that the container is given; None for all.
        on_gpus: Whether the slots are GPUs, which fewer slots would leave idle.
    """
    there = cores_there()
    usable = there if limit is None else min(float(there), limit)
    words = f"{there} cores" + ("" if limit is None else f", {limit:g} of them by the container's quota")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    words += f"; {slots} slot(s) of {threads} thread(s); load {load:.1f}"
    if load > 0.5 * there + 1:
        words += ": others are at work here, times will be longer"
    values = {"cores": there, "quota": limit, "load": load}
    if slots * threads <= usable or (slots == 1 and threads == 1):
        return Line(name="cores", verdict="pass", words=words, values=values)
    words += f". More threads than cores slow each other down: {_fewer(slots, threads, usable, on_gpus=on_gpus)}"
    return Line(name="cores", verdict="mend", words=words, values=values)


def _fewer(slots: int, threads: int, usable: float, *, on_gpus: bool) -> str:
    if slots <= usable and threads > 1:
        return f"set devices.threads={int(usable // slots)}"
    if on_gpus:
        return f"ask for {slots} cores, one a GPU (SLURM: --cpus-per-task), and devices.threads=1"
    return f"set devices.count={max(1, int(usable))}" + (" and devices.threads=1" if threads > 1 else "")


def memory(limit: int | None) -> Line:
    """Memory that is free for all slots together; what one takes is measured later.

    Args:
        limit: Bytes that the container is given; None for all.
    """
    whole = psutil.virtual_memory()
    total = whole.total if limit is None else min(whole.total, limit)
    free = min(whole.available, total)
    words = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB" + (" (by a limit)" if total < whole.total else "")
    return Line(name="memory", verdict="figure", words=words, values={"memory_free": free})
