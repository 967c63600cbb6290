"""Which process this is, and whether another one still runs: how sweeps on one store tell each other apart."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

_SINCE_1970 = 1e9
"""A beginning above this is seconds since 1970, not since boot: no machine runs for 31 years."""


def identity() -> dict[str, Any]:
    """This process as others can tell it: its host, number, and when it began, because numbers are used again."""
    return {"host": host(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs.

    Args:
        process: Its :func:`identity`; what is none is no process.
    """
    try:
        pid, began = int(process["pid"]), float(process["began"])
        found = psutil.Process(pid)
        now = found.create_time() if began > _SINCE_1970 else _began(pid)
        return abs(now - began) < 2 and bool(found.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError, KeyError, TypeError, ValueError, OverflowError):
        return False


def _began(pid: int) -> float:
    """Seconds from boot to a process's beginning: setting the clock moves times since 1970, and never this.

    Where the kernel does not tell (it is no Linux), seconds since 1970.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return float(psutil.Process(pid).create_time())
    return int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")


@lru_cache
def host() -> str:
    """This machine; containers may share a name and nothing else, so the kernel's marks are part of it."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(marks)
