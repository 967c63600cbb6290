"""What a concrete search minimises: one small function each (2512.07142, section 4 and its comparisons).

Each gives one value a lane, [lanes], for networks that are searched side by side; a search by itself is one lane.
Of several ranks each is given its share of a batch, and gives the whole batch's value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune_bench.data.protocol import Batch
from prune_bench.packing import lane_outputs
from prune_bench.parallel import batch_mean, ranks, summed
from prune_bench.precision import run_in
from prune_bench.pruners.pair import Pair
from prune_bench.second_derivatives import differentiable_twice
from prune_bench.training.descent import cross_entropies

Name = Literal[
    "task_loss", "reverse_kl", "forward_kl", "loss_change", "feature_mse", "gradient_match", "gradient_norm"
]
Over = Literal["prunable", "all"]
_EPSILON = 1e-5


def task_loss(pair: Pair, batch: Batch) -> Tensor:
    """Cross-entropy of the sparse network: CTS."""
    x, y = batch
    return cross_entropies(pair.sparse(x), y, pair.lanes)


def reverse_kl(pair: Pair, batch: Batch) -> Tensor:
    """KL(sparse || dense) of the output distributions, mean over the batch: CTS-KL."""
    sparse, dense = _log_outputs(pair, batch)
    # kl_div(input, target) is KL(target || input).
    return batch_mean(F.kl_div(dense, sparse, log_target=True, reduction="none").sum(-1))


def forward_kl(pair: Pair, batch: Batch) -> Tensor:
    """KL(dense || sparse), mean over the batch."""
    sparse, dense = _log_outputs(pair, batch)
    return batch_mean(F.kl_div(sparse, dense, log_target=True, reduction="none").sum(-1))


def loss_change(pair: Pair, batch: Batch) -> Tensor:
    """|L(sparse) / L(dense) - 1|."""
    x, y = batch
    dense = cross_entropies(pair.dense(x).transpose(0, 1).flatten(1), y, pair.lanes)
    return (cross_entropies(pair.sparse(x), y, pair.lanes) / dense - 1).abs()


def feature_mse(pair: Pair, batch: Batch, correction: Literal[0, 1] = 0) -> Tensor:
    """Mean over ReLU outputs and the softmax of the MSE between per-sample standardised features.

    The outputs are those of ``nn.ReLU`` modules; a network that calls ``relu`` as a function shows only its softmax.

    Args:
        pair: The networks.
        batch: Images and labels.
        correction: 0 for the deviation of a population, 1 for that of a sample, which the code of 2512.07142 takes.
    """
    x, _ = batch
    sparse = _features(pair.network, pair.sparse, x, lambda outputs: lane_outputs(outputs, pair.lanes))
    with torch.no_grad():
        network = pair.against.network
        run = partial(run_in, pair.precision, network)
        dense = _features(network, run, pair.against.inputs(x), pair.against.spread)
    return torch.stack([_mse(s, d, correction) for s, d in zip(sparse, dense)]).mean(0)


def gradient_match(pair: Pair, batch: Batch) -> Tensor:
    """Mean over layers of the MSE between standardised weight gradients dL/dw, sparse against dense."""
    sparse = _weight_gradients(pair, pair.mask, batch, create_graph=True)
    dense = _weight_gradients(pair, torch.ones_like(pair.mask), batch, create_graph=False)
    return torch.stack([_mse(s.unsqueeze(1), d.unsqueeze(1)) for s, d in zip(sparse, dense)]).mean(0)


def gradient_norm(pair: Pair, batch: Batch, over: Over = "prunable") -> Tensor:
    """Minus the length of dL(sparse)/dw.

    Args:
        pair: The networks.
        batch: Images and labels.
        over: Which parameters w are; ``all`` adds normalisation and biases, as the code of 2512.07142 does.
    """
    gradients = _weight_gradients(pair, pair.mask, batch, create_graph=True, over=over)
    squares = torch.stack([g.square().sum(1) for g in gradients]).sum(0)
    return -(squares + torch.finfo(torch.float32).tiny).sqrt()


@dataclass(frozen=True)
class Objective:
    """An objective and what comes with it.

    Attributes:
        value: The function to minimise; a value a lane.
        scale: The published factor on it; with Adam it matters only against Adam's epsilon.
        forwards: Forward passes of a batch through the whole network in one step.
        backwards: Backward passes; differentiating a gradient costs three more.
    """

    value: Callable[[Pair, Batch], Tensor]
    scale: float = 100.0
    forwards: int = 2
    backwards: int = 1


OBJECTIVES: dict[Name, Objective] = {
    "task_loss": Objective(task_loss, forwards=1),
    "reverse_kl": Objective(reverse_kl),
    "forward_kl": Objective(forward_kl),
    "loss_change": Objective(loss_change, scale=10_000.0),
    "feature_mse": Objective(feature_mse),
    "gradient_match": Objective(gradient_match, backwards=5),
    "gradient_norm": Objective(gradient_norm, scale=1.0, forwards=1, backwards=4),
}


def objective_of(options: Any) -> Objective:
    """The objective of a search's options.

    Args:
        options: Has ``objective``, ``feature_correction`` and ``gradient_over``.
    """
    found = OBJECTIVES[options.objective]
    if options.objective == "feature_mse" and options.feature_correction:
        return replace(found, value=partial(feature_mse, correction=options.feature_correction))
    if options.objective == "gradient_norm" and options.gradient_over == "all":
        return replace(found, value=partial(gradient_norm, over="all"))
    return found


def _log_outputs(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    x, _ = batch
    return lane_outputs(pair.sparse(x), pair.lanes).log_softmax(-1), pair.dense(x).log_softmax(-1)


def _features(
    network: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor, apart: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """What the ReLUs of ``network`` give in ``run(x)``, and the softmax; each put ``apart``, [lanes, B, features]."""
    found: list[Tensor] = []
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    hooks = [
        relu.register_forward_hook(lambda _m, _i, out: found.append(apart(_whole(out.flatten(1))))) for relu in relus
    ]
    try:
        outputs = apart(run(x)).softmax(-1)
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, outputs]


def _whole(outputs: Tensor) -> Tensor:
    """In float32 at least: inputs, of whose type they need not be, may be integers."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _mse(sparse: Tensor, dense: Tensor, correction: int = 0) -> Tensor:
    """Mean squared difference of standardised rows [lanes, rows, features], a lane each."""
    return batch_mean((_standardised(sparse, correction) - _standardised(dense, correction)).square())


def _standardised(rows: Tensor, correction: int) -> Tensor:
    """Each row less its mean over its standard deviation, both over the row; [lanes, rows, features]."""
    variance, mean = torch.var_mean(rows, -1, keepdim=True, correction=correction)
    # Gradients can be so small that a fixed epsilon would drown them, and a dead layer's variance is 0.
    slight = _EPSILON * batch_mean(variance.detach()).view(-1, 1, 1) + torch.finfo(rows.dtype).tiny
    return (rows - mean) / (variance + slight).sqrt()


def _weight_gradients(
    pair: Pair, mask: Tensor, batch: Batch, *, create_graph: bool, over: Over = "prunable"
) -> list[Tensor]:
    """dL/dw of each layer, [lanes, weights]; the lanes' losses do not meet, so that their sum gives each its own."""
    x, y = batch
    leaf = pair.weights.detach().requires_grad_()
    others = pair.other_parameters() if over == "all" else {}
    with differentiable_twice(create_graph):
        loss = cross_entropies(pair.run(mask * leaf, x, others), y, pair.lanes).sum()
    shares = torch.autograd.grad(loss / ranks(), [leaf, *others.values()], create_graph=create_graph)
    gradient, *rest = (summed(share) if create_graph else summed(share).detach() for share in shares)
    return [*gradient.split(pair.layout.sizes, -1), *(own.reshape(pair.lanes, -1) for own in rest)]
