"""One step of SGD under a mask: what training a ticket and every level of LTR have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune_bench.config import Recipe
from prune_bench.mask import Mask, prunable_weights


class Descent:
    """SGD that keeps pruned weights, and their optimiser state, at exactly zero.

    The mask is applied once to the weights and from then on to every gradient, before the norm is clipped: momentum
    and weight decay of a pruned weight then have nothing to start from.

    Args:
        network: Trained in place; already on its device.
        mask: Which of its weights live.
        recipe: Rate, momentum, decay, milestones and clipping (2512.07142, appendix).
    """

    def __init__(self, network: nn.Module, mask: Mask, recipe: Recipe) -> None:
        # Convolutions of few channels are 10 to 30 % faster so, on the CPU too; values do not change.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mask.apply_(network)
        self.network, self.recipe = network, recipe
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        weights = prunable_weights(network)
        self._keep = [(weights[name], keep.to(weights[name])) for name, keep in mask.items() if not keep.all()]
        self.optimizer = torch.optim.SGD(
            self._parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=all(p.device.type in ("cpu", "cuda") for p in self._parameters),
        )

    def begin_epoch(self, epoch: int) -> None:
        """Sets the learning rate of ``epoch``, counted from the start of a whole training."""
        passed = sum(epoch >= milestone for milestone in self.recipe.milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.lr_decay**passed

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a batch.

        Args:
            x: Inputs, [B, ...].
            y: Class indices, int64 [B].

        Returns:
            The batch's cross-entropy before the step, a scalar left on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.network(x), y)
        loss.backward()
        alive = [(w.grad, keep) for w, keep in self._keep if w.grad is not None]
        if alive:
            torch._foreach_mul_([grad for grad, _ in alive], [keep for _, keep in alive])
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()
