"""Cores, threads and memory, against what the experiment asks of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from prune_bench.doctor.lines import Line, Subject

_CGROUPS = Path("/sys/fs/cgroup")


def look(subject: Subject) -> Iterator[Line]:
    """Cores and memory."""
    slots = subject.known.get("slots") or ["cpu"]
    on_gpus = slots[0].startswith("cuda")
    yield cores(len(slots), subject.experiment.devices.threads, quota(_groups()), on_gpus=on_gpus)
    yield memory(memory_limit(_groups()))


def cores(slots: int, threads: int, limit: float | None, *, on_gpus: bool = False) -> Line:
    """Whether the slots' threads have a core each.

    Args:
        slots: Jobs that run at once.
        threads: CPU threads of each.
        limit: Cores that the container is given; None for all.
        on_gpus: Whether the slots are GPUs, which fewer slots would leave idle.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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


def quota(groups: list[Path]) -> float | None:
    """The fewest cores that a control group leaves this process; None if none is limited.

    Args:
        groups: The process's group and those above it.
    """
    found = []
    for group in groups:
        limit, period = _words(group / "cpu.max", 2)
        if limit is None:
            limit, period = (_words(group / f"cpu.cfs_{name}_us", 1)[0] for name in ("quota", "period"))
        if limit and period and limit.isdigit() and period.isdigit() and int(period):
            found.append(int(limit) / int(period))
    return min(found, default=None)


def memory_limit(groups: list[Path]) -> int | None:
    """The least memory in bytes that a control group leaves this process; None if none is limited."""
    texts = [_words(group / name, 1)[0] for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text and text.isdigit()), default=None)


def _groups(said: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[Path]:
    """The folders of the process's control groups, from its own up to the root, of version 1 or 2."""
    try:
        rows = [line.split(":", 2) for line in said.read_text().splitlines()]
    except OSError:
        return []
    found: list[Path] = []
    for _, controllers, path in (row for row in rows if len(row) == 3):
        for name in controllers.split(",") if set(controllers.split(",")) & {"cpu", "memory"} else [""]:
            home, own = root / name, Path(path.lstrip("/"))
            found += [home / part for part in (own, *own.parents)]
    return list(dict.fromkeys(found))


def _words(file: Path, count: int) -> list[str | None]:
    try:
        words: list[str | None] = list(file.read_text().split())
    except (OSError, UnicodeDecodeError):
        words = []
    return [*words, None, None][:count]
