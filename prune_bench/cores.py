"""How many CPU cores this process may use, and how much memory: a container's limits are its control groups'."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> float:
    """Cores that this process may keep busy: those it may run on, or fewer by its quota, which can be a fraction."""
    there, limit = cores_there(), core_quota(control_groups())
    return float(there) if limit is None else min(float(there), limit)


def cores_there() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_quota(groups: list[Path]) -> float | None:
    """The fewest cores that a control group leaves this process; None if none is limited.

    Args:
        groups: The process's group and those above it.
    """
    found = []
    for group in groups:
        limit, period = _words(group / "cpu.max", 2)
        if limit is None:
            limit, period = (_words(group / f"cpu.cfs_{name}_us", 1)[0] for name in ("quota", "period"))
        if limit and period and limit.isdigit() and period.isdigit() and int(limit) and int(period):
            found.append(int(limit) / int(period))
    return min(found, default=None)


def memory_limit(groups: list[Path]) -> int | None:
    """The least memory in bytes that a control group leaves this process; None if none is limited."""
    texts = [_words(group / name, 1)[0] for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text and text.isdigit()), default=None)


def control_groups(said: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[Path]:
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
