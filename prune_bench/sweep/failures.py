"""Failures as data: why a stage failed, kept in the store until somebody asks for another try."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from prune_bench.sweep.store import Store


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a stage failed.

    Attributes:
        reason: One line.
        trace: The traceback, if it raised.
        log: Name of its log in the store.
        out_of_memory: Whether the device's memory was full, which may be its neighbours' fault.
    """

    reason: str
    trace: str = ""
    log: str = ""
    out_of_memory: bool = False


def write_failure(store: Store, key: str, label: str, failure: Failure) -> None:
    """Records a failure; a store that takes no more loses the record, never the sweep."""
    with contextlib.suppress(OSError):
        store.files.write(failure_name(key), json.dumps({"stage": label, **asdict(failure)}, indent=1).encode())


def read_failure(store: Store, key: str) -> Failure | None:
    """What was recorded of a stage, or None."""
    try:
        said = json.loads(store.files.read(failure_name(key)))
        return Failure(**{name: said[name] for name in ("reason", "trace", "log", "out_of_memory")})
    except (FileNotFoundError, ValueError, KeyError):
        return None


def failures_of(store: Store, keys: Iterable[str]) -> dict[str, Failure]:
    """The recorded failures of some stages."""
    recorded = set(store.files.names("failures"))
    found = {key: read_failure(store, key) for key in keys if failure_name(key) in recorded}
    return {key: failure for key, failure in found.items() if failure is not None}


def forget_failures(store: Store, keys: Iterable[str]) -> None:
    """Lets stages be tried again."""
    recorded = set(store.files.names("failures"))
    for name in map(failure_name, keys):
        if name in recorded:
            store.files.remove(name)


def failure_name(key: str) -> str:
    """A failure's name among the store's files."""
    return f"failures/{key}.json"
