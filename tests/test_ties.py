from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn

import prune_bench as pb
from prune_bench.ranking import Ranking
from prune_bench.ties import Ties


def batches(classes: int, *shape: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(4 * classes, *shape, generator=random), torch.arange(4 * classes) % classes)]


def by_counting(scores: list[float], kept: int) -> int:
    """Equal scores on both sides of the cut, counted one by one."""
    ordered = sorted(scores, reverse=True)
    if not 0 < kept < len(scores) or ordered[kept - 1] != ordered[kept]:
        return 0
    return sum(score == ordered[kept] for score in scores)


@pytest.mark.parametrize("seed", range(10))
def test_every_cut_of_a_ranking_is_told_from_its_record(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = {f"{i}.weight": torch.randint(-2, 3, (4, 3), generator=random).float() for i in range(3)}
    flat = torch.cat([s.flatten() for s in scores.values()]).tolist()
    ranking = Ranking.from_scores(scores)
    read = Ties.read({"ties": ranking.ties.record()})
    for kept in range(len(flat) + 1):
        assert ranking.ties.at(len(flat) - kept) == by_counting(flat, kept)
        assert read is not None
        assert read.at(len(flat) - kept) == by_counting(flat, kept)


def test_positive_and_negative_zero_are_equal() -> None:
    ranking = Ranking.from_scores({"w": torch.tensor([0.0, -0.0, 1.0])})
    assert ranking.ties.at(1) == 2


def test_a_ranking_of_an_earlier_version_says_nothing_of_ties() -> None:
    assert Ties.read({"density": 0.5}) is None
    assert Ranking({"w": torch.arange(4)}).ties.at(2) == 0


def test_a_tie_in_an_earlier_round_counts_while_one_that_stayed_by_its_place_is_kept() -> None:
    first = Ranking.from_scores({"w": torch.tensor([1.0, 1.0, 1.0, 0.0])})
    # Two of the three equal ones stay. The next round prefers the second to the first.
    second = first.refine({"w": torch.tensor([1.0, 2.0, 9.0, 9.0])}, alive=2)
    assert second.ties.at(4 - 1) == 3
    # An earlier tie of which nothing is left: both that stayed are pruned later.
    first = Ranking.from_scores({"w": torch.tensor([5.0, 4.0, 0.0, 0.0, 0.0])})
    second = first.refine({"w": torch.tensor([5.0, 4.0, 1.0, 0.5, 0.0])}, alive=4)
    assert second.ties.at(5 - 2) == 0
    assert second.ties.at(5 - 3) == 3


def zero_headed() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.zeros_(network[3].weight)
    nn.init.zeros_(network[3].bias)
    return network


@pytest.mark.parametrize("method", ["snip", "synflow"])
def test_find_mask_warns_of_a_zero_last_layer_and_says_how_many_are_tied(method: str) -> None:
    """The gradient of the first layer is 0, the last layer's weights are: all scores |w * dL/dw| are 0."""
    with pytest.warns(UserWarning, match=f"{method} at density 0.25: the cut falls among 160 equal scores") as warned:
        pb.find_mask(zero_headed(), method, density=0.25, data=batches(4, 4, 4))
    assert "40 weights are kept" in str(warned[0].message)


def test_a_vision_transformer_of_torchvision_is_tied_throughout() -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    with pytest.warns(UserWarning, match="equal scores"):
        pb.find_mask(network, "snip", density=0.5, data=batches(3, 3, 8, 8))


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "magnitude", "random", "random_erk", "cts"])
def test_where_scores_differ_nothing_is_said(method: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*equal scores.*")
        pb.find_mask(network, method, density=0.25, data=batches(4, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["grasp", "snip", "magnitude", "synflow"])
def test_a_network_in_half_precision_is_scored_in_float32(method: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    half = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).to(dtype)
    whole = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    whole.load_state_dict(half.state_dict())
    ((x, y),) = batches(4, 1, 4, 4)
    x = x.to(dtype)
    expected = pb.find_mask(whole, method, density=0.2, data=[(x.float(), y)])
    assert pb.find_mask(half, method, density=0.2, data=[(x, y)]) == expected
    assert pb.find_mask(half, method, density=0.2, data=[(x.float(), y)]) == expected
    assert all(parameter.dtype == dtype for parameter in half.parameters())
