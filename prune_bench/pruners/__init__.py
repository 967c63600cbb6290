"""Pruning methods, one file each; importing this package registers them all."""

from prune_bench.pruners import baselines, concrete, grasp, rewinding, snip, synflow
from prune_bench.pruners.base import Pruner, ScoringPruner
from prune_bench.pruners.registry import pruners

__all__ = ["Pruner", "ScoringPruner", "pruners"]
