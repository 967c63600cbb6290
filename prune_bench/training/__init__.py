"""Training networks, dense or under a mask, and the Trainer that runs searches and trainings alike."""

from prune_bench.training.checkpoint import Checkpoint
from prune_bench.training.sparse import (
    SparseTraining,
    Trained,
    evaluate,
    evaluate_lanes,
    train,
    train_lanes,
)
from prune_bench.training.trainer import fit

__all__ = ["Checkpoint", "SparseTraining", "Trained", "evaluate", "evaluate_lanes", "fit", "train", "train_lanes"]
