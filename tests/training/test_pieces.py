"""Batch statistics of pieces: what several devices do when each normalises its own share."""

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.errors import ConfigError
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.randomness import generator
from prune_bench.training import evaluate_lanes, train_lanes
from prune_bench.training.pieces import in_pieces, piece_count
from prune_bench.training.replay import recorded_steps
from tests.test_packing import Float64, random_mask, resnet
from tests.training.test_sparse_training import CPU


@pytest.mark.parametrize(
    ("images", "size", "sizes"),
    [(512, 128, [128] * 4), (500, 128, [125] * 4), (5, 2, [3, 2]), (3, 2, [3]), (1, 2, [1]), (7, None, [7])],
)
def test_pieces_are_few_equal_and_never_of_a_single_image(images, size, sizes):
    seen = []
    in_pieces(lambda x: seen.append(len(x)) or x, size)(torch.zeros(images, 1))
    assert seen == sizes and piece_count(images, size) == len(sizes)


def test_each_piece_is_normalised_by_its_own_statistics():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, 2, 2, generator=g, dtype=torch.float64)
    found = in_pieces(nn.BatchNorm2d(3, track_running_stats=False).double(), 4)(x)
    for piece, own in zip(x.split(4), found.split(4)):
        mean, var = piece.mean((0, 2, 3), keepdim=True), piece.var((0, 2, 3), keepdim=True, correction=0)
        torch.testing.assert_close(own, (piece - mean) / (var + 1e-5).sqrt(), rtol=1e-12, atol=1e-12)


def test_evaluation_takes_the_statistics_of_pieces():
    network = build_model("resnet8", {"width": 2}, in_channels=1, image_size=8, num_classes=4, generator=generator(0))
    x, y = torch.randn(12, 1, 8, 8, generator=generator(1)), torch.arange(12) % 4
    pieces = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    (whole,), (found,), (by_hand,) = (
        evaluate_lanes(network, iter(batches), 1, size)
        for batches, size in (([(x, y)], None), ([(x, y)], 4), (pieces, None))
    )
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert found["loss"] != pytest.approx(whole["loss"], rel=1e-3)


def test_lanes_side_by_side_train_in_pieces_as_they_do_alone():
    recipe = pb.Recipe(epochs=1, batch_size=32, norm_batch=8, loss_reduction="sum", clip_over="all")
    data, networks = Float64(0), [resnet(seed) for seed in (0, 1)]
    masks = [random_mask(network, seed) for seed, network in enumerate(networks)]
    packed = train_lanes(networks, masks, recipe, pack_data([data, data]), device=CPU)
    for network, mask, lane in zip(networks, masks, packed):
        (alone,) = train_lanes([network], [mask], recipe, data, device=CPU)
        for one, two in zip(alone.network.parameters(), lane.network.parameters()):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_steps_in_pieces_that_are_replayed_have_the_same_bits():
    recipe = pb.Recipe(epochs=4, batch_size=32, norm_batch=8, loss_reduction="sum", clip_over="all", milestones=(2,))
    network, data, found = resnet(0), Float64(0), []
    for kind in (None, "tape"):
        with recorded_steps(kind) as recording:
            (lane,) = train_lanes([network], [random_mask(network, 0)], recipe, data, device=CPU)
        found.append(lane.network.state_dict())
    assert recording.replayed > 0 and not recording.refused
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_pieces_and_shared_batches_are_refused_together():
    with pytest.raises(ConfigError, match=r"train\.norm_batch.*devices\.per_cell=2"):
        make_experiment({"methods": ["snip"], "name": "x"}, ["train.norm_batch=64", "devices.per_cell=2"])
