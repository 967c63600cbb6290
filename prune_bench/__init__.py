"""prune_bench: compare pruning methods on equal terms.

The names below are the public API; each is imported when it is first used, so that ``import prune_bench`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune_bench.api import find_mask
    from prune_bench.config import Recipe
    from prune_bench.mask import Mask
    from prune_bench.report.results import load_results

__version__ = "0.1.0"
__all__ = ["Mask", "Recipe", "datasets", "find_mask", "load_results", "methods", "models"]

_HOMES = {
    "Mask": "prune_bench.mask",
    "Recipe": "prune_bench.config",
    "find_mask": "prune_bench.api",
    "load_results": "prune_bench.report.results",
}


def methods() -> list[str]:
    """The names of the pruning methods there are."""
    return list(import_module("prune_bench.pruners").pruners)


def datasets() -> list[str]:
    """The names of the data sets there are."""
    return list(import_module("prune_bench.data").datasets)


def __getattr__(name: str) -> Any:
    if name == "models":
        # A package of ours and a function of the public API at once: the package can be called.
        return import_module("prune_bench.models")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prune_bench' has no attribute {name!r}")
