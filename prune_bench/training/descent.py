"""One step of SGD under a mask: what training tickets and every level of LTR have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune_bench.config import Recipe
from prune_bench.mask import Mask, prunable_weights
from prune_bench.packing import lane_outputs
from prune_bench.parallel import batch_mean, ranks, sum_
from prune_bench.precision import products, run_in
from prune_bench.training.layout import lay_out_, memory_layout
from prune_bench.training.pieces import in_pieces, piece_count


class Descent:
    """SGD that keeps pruned weights, and their optimiser state, at exactly zero.

    The mask is applied once to the weights and from then on to every gradient: momentum and weight decay of a pruned
    weight then have nothing to start from. The norm that is clipped is that of the masked gradient, or of the whole
    one if the recipe says so.

    Args:
        network: Trained in place; already on its device; of several lanes if it is packed.
        mask: Which of its weights live; of several lanes one after the other, as the weights are.
        recipe: Rate, momentum, decay, milestones, loss, batch statistics and clipping.
        lanes: Networks that stand side by side in ``network``.
    """

    def __init__(self, network: nn.Module, mask: Mask, recipe: Recipe, *, lanes: int = 1) -> None:
        mask.apply_(network)
        self.network, self.recipe, self.lanes, self._mask = network, recipe, lanes, mask
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._keep: list[tuple[Tensor, Tensor]] | None = None
        self.optimizer = torch.optim.SGD(
            self._parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=all(p.device.type in ("cpu", "cuda") for p in self._parameters),
        )

    def begin_epoch(self, epoch: int) -> bool:
        """Sets the learning rate of ``epoch``, counted from the start of a whole training.

        Returns:
            True if the rate has changed. A recorded step must then be forgotten.
        """
        passed = sum(epoch >= milestone for milestone in self.recipe.milestones)
        rate = self.recipe.lr * self.recipe.lr_decay**passed
        before = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return any(old != rate for old in before)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a batch of every lane.

        Args:
            x: Inputs, [B, lanes x C, ...]; of several ranks, this one's share of the batch.
            y: Class indices, int64 [lanes, B], or [B] of a single one.

        Returns:
            Each lane's cross-entropy before the step, [lanes], left on the device.
        """
        if self._keep is None:
            self._keep = self._laid_out(x)
        self.optimizer.zero_grad(set_to_none=True)
        with products(self.recipe.precision):
            network = in_pieces(self.network, self.recipe.norm_batch)
            losses = cross_entropies(run_in(self.recipe.precision, network, x), y, self.lanes)
            loss = losses.sum() / ranks()
            if self.recipe.loss_reduction == "sum":
                loss = loss * (y.shape[-1] * ranks() / piece_count(y.shape[-1], self.recipe.norm_batch))
            loss.backward()
        sum_([p.grad for p in self._parameters if p.grad is not None])
        if self.recipe.clip_over == "all":
            self._clip()
            self._mask_gradients(self._keep)
        else:
            self._mask_gradients(self._keep)
            self._clip()
        self.optimizer.step()
        return losses.detach()

    def _clip(self) -> None:
        if self.recipe.clip_norm is not None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            clip_lanes_(gradients, self.lanes, self.recipe.clip_norm)

    @staticmethod
    def _mask_gradients(keeps: list[tuple[Tensor, Tensor]]) -> None:
        alive = [(w.grad, keep) for w, keep in keeps if w.grad is not None]
        if alive:
            torch._foreach_mul_([grad for grad, _ in alive], [keep for _, keep in alive])

    @torch.no_grad()
    def _laid_out(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Chooses the network's memory layout by the first batch; gives the pruned weights and their masks."""
        lay_out_(self.network, memory_layout(self.network, x, precision=self.recipe.precision, lanes=self.lanes))
        weights, densities = prunable_weights(self.network), self._mask.layer_densities
        # Laid out as the weights, and so as their gradients: a GPU then masks all of them in one kernel.
        return [
            (weights[name], torch.empty_like(weights[name]).copy_(keep))
            for name, keep in self._mask.items()
            if densities[name] < 1
        ]


def cross_entropies(outputs: Tensor, y: Tensor, lanes: int) -> Tensor:
    """Mean cross-entropy of each lane, [lanes], of logits [B, lanes x classes] and labels [lanes, B] or [B].

    Of several ranks, the mean over the whole batch.
    """
    logits = lane_outputs(outputs, lanes)
    return batch_mean(F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(lanes, -1))


def clip_lanes_(gradients: list[Tensor], lanes: int, limit: float) -> None:
    """Shortens each lane's whole gradient to ``limit`` if it is longer, in place, as ``clip_grad_norm_`` does.

    Args:
        gradients: [lanes x ..., ...] each.
        lanes: How many there are side by side.
        limit: Largest Euclidean norm of a lane's gradients together.
    """
    pieces = gradients if lanes == 1 else [piece for gradient in gradients for piece in gradient.chunk(lanes)]
    norms = torch.stack(list(torch._foreach_norm(pieces))).view(-1, lanes).norm(dim=0)
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    if lanes == 1:  # a GPU does this in one kernel, and a list of factors in one a tensor
        torch._foreach_mul_(gradients, factors[0])
        return
    for gradient in gradients:
        gradient.unflatten(0, (lanes, -1)).mul_(factors.view(-1, *(1 for _ in gradient.shape)))
