"""The pruning methods by name; other packages add theirs through the entry-point group ``prune_bench.pruners``."""

from prune_bench.pruners.base import Pruner
from prune_bench.registry import Registry

pruners: Registry[type[Pruner]] = Registry("method", "prune_bench.pruners")
