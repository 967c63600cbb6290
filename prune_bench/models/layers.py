"""Layers the families have in common."""

from __future__ import annotations

from torch import nn


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation without running statistics: evaluation uses the batch's own (2512.07142, appendix).

    In training and evaluation alike it needs more than one value a channel, that is a batch of at least two where
    the maps are 1x1.
    """
    return nn.BatchNorm2d(channels, track_running_stats=False)
