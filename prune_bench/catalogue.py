"""What there is to choose from, as plain data: the methods, networks and data sets with their options.

To ask the registries is to import torch, which takes seconds; so the answer is kept in the user's cache folder for as
long as the code that gave it stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from prune_bench.places import cache_root

_REGISTRIES = {
    "methods": ("prune_bench.pruners", "pruners"),
    "models": ("prune_bench.models", "models"),
    "datasets": ("prune_bench.data", "datasets"),
}
_GROUPS = ("prune_bench.pruners", "prune_bench.models", "prune_bench.datasets")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One registered thing.

    Attributes:
        name: What an experiment file calls it.
        summary: One line on what it is.
        source: Paper, package or file it comes from.
        options: For each option its ``name``, ``type``, ``default`` and ``meaning``.
    """

    name: str
    summary: str
    source: str
    options: list[dict[str, Any]]


def catalogue() -> dict[str, list[Listed]]:
    """All that is registered, under ``methods``, ``models`` and ``datasets``."""
    path, mark = cache_root() / "catalogue.json", code_mark()
    if mark and (kept := _read(path, mark)) is not None:
        return kept
    made = {what: _listed(*home) for what, home in _REGISTRIES.items()}
    if mark:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next call some seconds
            _write(path, mark, made)
    return made


def code_mark() -> str:
    """A hash of this package's code; empty if other packages add to the registries, whose code is not looked at."""
    if any(entry_points(group=group) for group in _GROUPS):
        return ""
    package, sha = Path(__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        sha.update(f"{file.relative_to(package)}\n".encode())
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _listed(module: str, name: str) -> list[Listed]:
    from prune_bench.options import option_table

    return [
        Listed(name=entry.name, summary=entry.summary, source=entry.source, options=option_table(entry.options))
        for entry in getattr(import_module(module), name).values()
    ]


def _read(path: Path, mark: str) -> dict[str, list[Listed]] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            return {what: [Listed(**entry) for entry in kept[what]] for what in _REGISTRIES}
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        pass
    return None


def _write(path: Path, mark: str, made: dict[str, list[Listed]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    entries = {what: [asdict(entry) for entry in listed] for what, listed in made.items()}
    try:
        aside.write_text(json.dumps({"mark": mark, **entries}), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
