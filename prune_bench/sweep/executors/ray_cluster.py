"""A Ray cluster: how it is reached, and what fits on it."""

from __future__ import annotations

import socket
from typing import Any

import ray

from prune_bench.config import Devices
from prune_bench.errors import ConfigError
from prune_bench.stopping import handlers_put_back

_PATIENCE = 5.0  # seconds for a cluster's port to open


def find_slots(settings: Devices) -> list[str]:
    """The device of each slot of the cluster at ``settings.address``: what fits on its nodes as they are now.

    Raises:
        ConfigError: The cluster cannot be reached, or has not what is asked for.
    """
    connect(settings.address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    kind = settings.accelerator
    if kind == "auto":
        kind = "cuda" if any("GPU" in node for node in nodes) else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ConfigError(
            "devices.accelerator", kind, "is nothing that Ray hands out", allowed=("auto", "cpu", "cuda")
        )
    per_device = settings.cells_per_gpu if kind == "cuda" else 1
    there = sum(_room(node, settings.threads, per_device if kind == "cuda" else None) for node in nodes)
    if not there:
        share = f" and 1/{per_device} of a GPU" if kind == "cuda" else ""
        words = f"has no room for a cell: no node of the cluster has {settings.threads} CPUs (devices.threads){share}"
        raise ConfigError("devices.address", settings.address, words)
    wanted = there if settings.count is None else settings.count * per_device
    if wanted > there:
        words = f"is more than the {there // per_device} that the cluster has room for"
        raise ConfigError("devices.count", settings.count, words)
    return ["cuda:0" if kind == "cuda" else "cpu"] * wanted


def _room(node: dict[str, float], threads: int, cells_per_gpu: int | None) -> int:
    """How many cells fit on a node; None for cells that need no GPU."""
    fit = int(node.get("CPU", 0)) // threads
    return fit if cells_per_gpu is None else min(fit, int(node.get("GPU", 0)) * cells_per_gpu)


def gpu_share(cells: int) -> float:
    """What of a GPU Ray is asked for: it counts in ten-thousandths, and rounded up the last cell would not fit."""
    return 10_000 // cells / 10_000


def connect(address: str | None, **own: int) -> Any:
    """Ray's context at an address, or of a Ray of one's own with these resources.

    Raises:
        ConfigError: The cluster cannot be reached.
    """
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        with handlers_put_back():
            return ray.init(address="local", **own, **quiet)  # type: ignore[arg-type]
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            # Ray itself would try for minutes, and then end the process.
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        with handlers_put_back():
            return ray.init(address=address, **quiet)  # type: ignore[arg-type]
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "devices.address", address, f"is no Ray cluster that can be reached: {error}; give host:port as "
            "`ray start --head` printed it, or auto on one of its machines"
        ) from None  # fmt: skip
