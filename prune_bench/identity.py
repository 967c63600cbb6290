"""Which process this is, and whether another one still runs: how sweeps on one store tell each other apart."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil


def identity() -> dict[str, Any]:
    """This process as others can tell it: its host, number, and when it began, because numbers are used again."""
    return {"host": host(), "pid": os.getpid(), "began": psutil.Process().create_time()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs.

    Args:
        process: Its :func:`identity`.
    """
    try:
        found = psutil.Process(process["pid"])
        # The kernel's clock may be set meanwhile, which moves the time of beginning a little.
        same = abs(found.create_time() - float(process["began"])) < 2
        return same and bool(found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@lru_cache
def host() -> str:
    """This machine; containers may share a name and nothing else, so the kernel's marks are part of it."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(marks)
