"""Toy stages for checks: a small network on random images, twelve steps with one change of the rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from prune_bench.config import Experiment, Precision, make_experiment
from prune_bench.sweep.compute import compute
from prune_bench.sweep.graph import with_inputs
from prune_bench.sweep.stages import Plan
from prune_bench.sweep.store import Artifact
from prune_bench.sweep.sweep import prepare

Work = Literal["training", "cts", "cts_kl"]
WORKS: tuple[Work, ...] = ("training", "cts", "cts_kl")
STEPS = 12
_BATCH = 32
_DATA = {"name": "synthetic", "samples": STEPS // 2 * _BATCH, "test_samples": 64, "image_size": 8, "channels": 3,
         "classes": 4, "validation": 0.0}  # fmt: skip


def toy_experiment(precision: Precision = "float32", methods: tuple[str, ...] = ("cts_kl",)) -> Experiment:
    """Six steps an epoch; the rate falls after the first, and halfway through a search."""
    search = {"steps": STEPS, "batch_size": _BATCH, "decay_at": 0.5, "precision": precision}
    return make_experiment(
        {
            "name": "doctor",
            "model": {"name": "resnet8", "width": 4},
            "data": _DATA,
            "train": {
                "epochs": 3,
                "batch_size": _BATCH,
                "milestones": [1],
                "rewind_epoch": 2,
                "precision": precision,
            },
            "methods": dict.fromkeys(methods, search),
            "densities": [0.3],
            "prune_at": ["rewind"],
            "wandb": {"mode": "disabled"},
        }
    )


def outcome(work: Work, precision: Precision, device: torch.device) -> Artifact:
    """What twelve steps come to, by the code of a sweep: the weights of a training, the ranking of a search."""
    plan = prepare(toy_experiment(precision, ("cts_kl",) if work == "training" else (work,)))
    return _computed(plan, _last(plan, work), device)


def _last(plan: Plan, work: Work) -> str:
    kind = "state" if work == "training" else "ranking"
    return next(key for key, stage in plan.stages.items() if stage.kind == kind and stage.cost > 0)


def _computed(plan: Plan, key: str, device: torch.device) -> Artifact:
    done: dict[str, Artifact] = {}
    for own in (k for k in plan.stages if k in with_inputs([key], plan.stages)):
        stage = plan.stages[own]
        (done[own],) = compute([stage], [{role: done[k] for role, k in stage.inputs.items()}], device)
    return done[key]


def difference(one: Artifact, other: Artifact) -> float:
    """The largest relative difference of tensors, by their norms, and of curves; 0 only if all bits are equal."""
    found = [_apart(one.tensors[name], other.tensors[name]) for name in one.tensors]
    for row, its in zip(one.record.get("curves", []), other.record.get("curves", [])):
        found += [_apart(np.float64(row[name]), np.float64(its[name])) for name in row]
    return max(found, default=0.0)


def _apart(one: Any, other: Any) -> float:
    one, other = np.asarray(one), np.asarray(other)
    if one.tobytes() == other.tobytes():
        return 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    apart = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), np.finfo(np.float64).tiny))
    # Zeros of other sign, and NaN: other bits that no difference tells.
    return apart if apart > 0 else float("inf") if np.isnan(apart) else float(np.finfo(np.float64).tiny)


def precisions(device: torch.device, known: Mapping[str, Any]) -> tuple[Precision, ...]:
    """Kinds of arithmetic that there are on a device."""
    if device.type != "cuda":
        return ("float32", "bfloat16")
    return ("float32", "tf32", "bfloat16") if known.get("bfloat16") else ("float32", "tf32")
