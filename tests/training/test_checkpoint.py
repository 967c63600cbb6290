"""Trainings that are cut off go on from their checkpoint, and end with the bits of undisturbed ones."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.files import LocalFiles
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.randomness import generator
from prune_bench.training import Checkpoint, train_lanes

CPU = torch.device("cpu")
RECIPE = pb.Recipe(epochs=5, batch_size=64, milestones=(2, 4), weight_decay=1e-2, momentum=0.9, clip_norm=0.5)
STEPS = 3  # an epoch's


def lane_data(seed):
    options = {"samples": 192, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4, "validation": 0.0}
    return load_data("synthetic", options, seed)


def lane_network(seed, **options):
    shape = {"in_channels": 1, "image_size": 8, "num_classes": 4}
    return build_model("resnet8", {"width": 4, **options}, generator=generator(seed, "t"), **shape)


def lane_mask(network, seed):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(w.shape, generator=g) < 0.3 for n, w in prunable_weights(network).items()})


def training(lanes=1, checkpoint=None, networks=None, recipe=RECIPE):
    networks = networks or [lane_network(seed) for seed in range(lanes)]
    masks = [lane_mask(network, seed) for seed, network in enumerate(networks)]
    data = pack_data([lane_data(seed) for seed in range(lanes)])
    torch.manual_seed(0)
    return train_lanes(networks, masks, recipe, data, first_epoch=1, device=CPU, checkpoint=checkpoint)


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(files=LocalFiles(tmp_path), name="checkpoints/t.ckpt", every=0.0)


def file_of(checkpoint):
    return checkpoint.files.folder / checkpoint.name


def assert_same_bits(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.curves, ours.diverged) == (theirs.curves, theirs.diverged)
        state = theirs.network.state_dict()
        assert [n for n, v in ours.network.state_dict().items() if not torch.equal(v, state[n])] == []


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_training_that_was_cut_off_ends_with_the_bits_of_an_undisturbed_one(lanes, done, checkpoint, cut_off):
    undisturbed = training(lanes)
    cut_off(done * STEPS + 2)
    with pytest.raises(KeyboardInterrupt):
        training(lanes, checkpoint)
    cut_off(None)
    assert_same_bits(training(lanes, checkpoint), undisturbed)
    assert cut_off.steps == (4 - done) * STEPS


def test_it_may_be_cut_off_again_and_again(checkpoint, cut_off):
    undisturbed = training()
    for _ in range(3):
        cut_off(STEPS + 1)
        with pytest.raises(KeyboardInterrupt):
            training(1, checkpoint)
    cut_off(None)
    assert_same_bits(training(1, checkpoint), undisturbed)
    assert cut_off.steps == STEPS


def test_layers_that_draw_go_on_drawing_where_they_stood(checkpoint, cut_off):
    def networks():
        return [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), lane_linear())]

    undisturbed = training(1, networks=networks())
    cut_off(2 * STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        training(1, checkpoint, networks())
    cut_off(None)
    assert_same_bits(training(1, checkpoint, networks()), undisturbed)


def lane_linear():
    layer = nn.Linear(64, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-0.1, 0.1, 256).view(4, 64))
        layer.bias.zero_()
    return layer


def test_a_lane_that_has_diverged_stays_so(checkpoint, cut_off):
    def networks():
        broken = lane_network(0)
        with torch.no_grad():
            broken.fc.weight.fill_(float("inf"))
        return [broken, lane_network(1)]

    undisturbed = training(2, networks=networks())
    assert [lane.diverged for lane in undisturbed] == [1, None]
    cut_off(2 * STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        training(2, checkpoint, networks())
    cut_off(None)
    broken, sound = training(2, checkpoint, networks())
    assert_same_bits([sound], undisturbed[1:])
    assert (broken.diverged, [row["epoch"] for row in broken.curves]) == (1, [1])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def one_bit_flipped(path):
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + largest.file_size] ^= 1  # a header is before it and smaller: within the tensor
    path.write_bytes(data)


def not_a_checkpoint(path):
    path.write_bytes(b"no checkpoint at all")


def of_another_version(path):
    torch.save({**torch.load(path), "made_by": "torch 1.0"}, path)


def of_another_network(path):
    whole = torch.load(path)
    torch.save({**whole, "state_dict": {"network.weight": torch.zeros(3)}}, path)


@pytest.mark.parametrize(
    "damage", [truncated, one_bit_flipped, not_a_checkpoint, of_another_version, of_another_network]
)
def test_a_checkpoint_that_cannot_be_used_is_removed_with_a_word_and_the_training_begins_anew(
    damage, checkpoint, cut_off, caplog
):
    undisturbed = training()
    cut_off(2 * STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        training(1, checkpoint)
    damage(file_of(checkpoint))
    cut_off(None)
    never_due = dataclasses.replace(checkpoint, every=1e9)
    with caplog.at_level(logging.WARNING):
        assert_same_bits(training(1, never_due), undisturbed)
    assert cut_off.steps == 4 * STEPS
    assert "begins anew" in caplog.text
    assert not file_of(checkpoint).exists()


def test_a_checkpoint_that_cannot_be_written_costs_a_word_and_no_bit(checkpoint, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        assert_same_bits(training(1, checkpoint), training())
    assert "No space left" in caplog.text
    assert list(file_of(checkpoint).parent.iterdir()) == []


def test_a_checkpoint_is_written_when_one_is_due_and_not_before(tmp_path):
    training(1, Checkpoint(files=LocalFiles(tmp_path), name="t.ckpt", every=3600.0))
    assert list(tmp_path.iterdir()) == []


def test_a_training_killed_outright_goes_on(checkpoint, cut_off):
    """A process of its own, killed while it trains."""
    code = (
        "import pathlib, sys, time, tests.training.test_checkpoint as t\n"
        "from prune_bench.training.descent import Descent\n"
        "real = Descent.step\n"
        "Descent.step = lambda *a: (time.sleep(0.2), real(*a))[1]\n"
        "t.torch.set_num_threads(1)\n"
        "t.training(2, t.Checkpoint(files=t.LocalFiles(pathlib.Path(sys.argv[1])), name=sys.argv[2], every=0.0))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, checkpoint.files.location, checkpoint.name])
    deadline = time.monotonic() + 120
    while not file_of(checkpoint).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    cut_off(None)
    resumed = training(2, checkpoint)
    assert cut_off.steps < 4 * STEPS
    assert_same_bits(resumed, training(2))
