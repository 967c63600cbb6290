"""What a network is measured by, of all lanes of a pack at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class LaneScores(Metric):
    """Accuracy and mean cross-entropy of each lane, summed up on the device, over ranks too.

    One metric for all lanes, because to make and move a pair of torchmetrics' for each costs more than a small
    network's forward pass.

    Args:
        lanes: How many networks stand side by side.
    """

    full_state_update = False
    correct: Tensor
    loss: Tensor
    seen: Tensor

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(lanes, dtype=torch.int64), "sum")
        self.add_state("loss", torch.zeros(lanes), "sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: [lanes, B, classes].
            labels: int64 [lanes, B].
        """
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        self.correct += (logits.argmax(-1) == labels).sum(1)
        self.loss += losses.view(labels.shape).sum(1)
        self.seen += labels.shape[1]

    def compute(self) -> list[dict[str, float]]:
        """Each lane's ``accuracy``, a fraction, and ``loss``."""
        accuracy, loss = (total.float() / self.seen for total in (self.correct, self.loss))
        return [{"accuracy": a, "loss": own} for a, own in zip(accuracy.tolist(), loss.tolist())]
