"""Data of a user's own: moved to the device batch by batch, and only what is used there."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prune_bench.data.user import UserData

META = torch.device("meta")
"""A device that holds no values: whoever reads one back from it raises."""


def test_shape_classes_and_samples_are_read_and_a_balanced_batch_chosen_before_anything_is_moved():
    x, y = torch.randn(40, 3), torch.arange(40) % 4
    data = UserData(DataLoader(TensorDataset(x, y), 16), nn.Linear(3, 4), META)
    assert (data.input_shape, data.num_classes, data.samples) == ((3,), 4, 40)
    chosen, labels = data.balanced(2)
    assert chosen.shape == (8, 3) and labels.shape == (8,) and chosen.device == labels.device == META
    assert [len(labels) for _, labels in data.epoch(0, 16, augment=True)] == [16, 16, 8]


def test_a_loader_is_read_no_further_than_it_is_used():
    read = []

    class Counted:
        def __iter__(self):
            for i in range(4):
                read.append(i)
                yield torch.full((2, 3), float(i)), torch.zeros(2, dtype=torch.long)

        def __len__(self):
            return 4

    data = UserData(Counted(), nn.Linear(3, 4), torch.device("cpu"))
    assert data.num_classes == 4  # a first batch is looked at for it
    read.clear()
    x, _ = next(data.epoch(0, 2, augment=True))
    assert x[0, 0] == 0 and read == [0]
