"""Scores of lanes side by side are those of torchmetrics and of torch, lane by lane."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from prune_bench.training.scores import LaneScores


def test_each_lane_has_the_accuracy_and_loss_it_has_alone():
    torch.manual_seed(0)
    scores = LaneScores(3)
    accuracies, losses = [MulticlassAccuracy(4, average="micro") for _ in range(3)], [MeanMetric() for _ in range(3)]
    for size in (7, 7, 5):  # the last batch weighs less
        logits, labels = torch.randn(3, size, 4), torch.randint(4, (3, size))
        scores.update(logits, labels)
        for lane in range(3):
            accuracies[lane].update(logits[lane], labels[lane])
            losses[lane].update(F.cross_entropy(logits[lane], labels[lane]), weight=size)
    found = scores.compute()
    assert [lane["accuracy"] for lane in found] == [float(accuracy.compute()) for accuracy in accuracies]
    assert [lane["loss"] for lane in found] == pytest.approx([float(loss.compute()) for loss in losses], rel=1e-6)


def test_a_diverged_lane_harms_no_other():
    logits, labels = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long)
    logits[1] = float("nan")
    scores = LaneScores(2)
    scores.update(logits, labels)
    sound, broken = scores.compute()
    assert sound == {"accuracy": 1.0, "loss": pytest.approx(torch.tensor(3.0).log().item())}
    assert broken["loss"] != broken["loss"]
