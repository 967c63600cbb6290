"""Blocks of steps: an epoch is drawn before the last one's loss is read, and draws the same as it ever did."""

import copy

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.mask import Mask
from prune_bench.packing import pack_data
from prune_bench.training import SparseTraining, train
from prune_bench.training.blocks import Epochs

CPU = torch.device("cpu")
RECIPE = pb.Recipe(epochs=3, batch_size=16, milestones=())


def data(seed=0):
    options = {"samples": 80, "test_samples": 20, "image_size": 8, "channels": 1, "classes": 4, "validation": 0.2}
    return load_data("synthetic", options, seed)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4))


class Told:
    """A data set that notes when an epoch is drawn."""

    def __init__(self, inner, events):
        self._inner, self._events = inner, events

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def epoch(self, epoch, batch_size, *, augment):
        self._events.append(f"draws {epoch}")
        yield from self._inner.epoch(epoch, batch_size, augment=augment)


class Global(Told):
    """A contributed data set that draws from the global generator."""

    draws_apart = False

    def epoch(self, epoch, batch_size, *, augment):
        self._events.append(f"draws {epoch} {float(torch.rand(())):.6f}")
        yield from self._inner.epoch(epoch, batch_size, augment=augment)


@pytest.fixture
def events(monkeypatch):
    noted, real = [], SparseTraining.on_train_epoch_end

    def reads(self):
        noted.append(f"reads {self.current_epoch}")
        real(self)

    monkeypatch.setattr(SparseTraining, "on_train_epoch_end", reads)
    return noted


def test_an_epoch_is_drawn_before_the_loss_of_the_last_one_is_read(events):
    train(network(), Mask.full(network()), RECIPE, Told(data(), events), device=CPU)
    assert events == ["draws 0", "draws 1", "reads 0", "draws 2", "reads 1", "reads 2"]


def test_data_that_draw_from_the_global_generator_are_drawn_in_their_turn(events):
    torch.manual_seed(1)
    train(network(), Mask.full(network()), RECIPE, Global(data(), events), device=CPU)
    assert [event[:7] for event in events] == ["draws 0", "reads 0", "draws 1", "reads 1", "draws 2", "reads 2"]


def test_drawn_early_or_not_the_bits_are_the_same():
    results = []
    for early in (True, False):
        own = data()
        own.draws_apart = early
        torch.manual_seed(1)
        trained = train(network(), Mask.full(network()), RECIPE, own, device=CPU)
        results.append((trained.curves, [p.detach() for p in trained.network.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


def test_lanes_are_drawn_early_if_all_may_be():
    apart, other = data(0), data(1)
    assert pack_data([apart, other]).draws_apart
    other = copy.copy(other)
    other.draws_apart = False
    assert not pack_data([apart, other]).draws_apart


def test_an_epoch_has_the_batches_it_would_have_by_itself():
    whole = data()
    epochs = Epochs(whole, 16, first=2, end=5)
    for epoch in (0, 1, 2):
        epochs.set_epoch(epoch)
        found = [batch for block in epochs for batch in block]
        expected = list(whole.epoch(2 + epoch, 16, augment=True))
        assert len(found) == len(expected) == 4
        assert all(torch.equal(a, b) for ours, theirs in zip(found, expected) for a, b in zip(ours, theirs))
