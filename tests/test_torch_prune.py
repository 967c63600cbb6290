"""torch's own pruning is put on where it works, and refused or warned of where a weight is read functionally."""

import pickle
import warnings

import pytest
import torch
from torch import nn

from prune_bench.mask import Mask
from tests.test_hold import make, train


@pytest.mark.parametrize(
    "network",
    [
        nn.MultiheadAttention(8, 2),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.Sequential(nn.Linear(8, 8), nn.TransformerDecoderLayer(8, 2, 16)),
    ],
)
def test_attention_is_refused_and_the_mend_named(network):
    before = list(network.state_dict())
    with pytest.raises(ValueError, match=r"out_proj.*mask\.hold_"):
        Mask.full(network).to_torch_prune(network)
    assert list(network.state_dict()) == before


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(self.a(x), self.b.weight)


def test_a_layer_whose_weight_is_read_without_calling_it_is_warned_of_once():
    network = Reader()
    Mask.full(network).to_torch_prune(network)
    with pytest.warns(UserWarning, match=r"without calling b: .*hold_"):
        network(torch.ones(1, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.ones(1, 4))


@pytest.mark.filterwarnings("error")
def test_where_it_works_nothing_is_said_and_a_pickled_copy_works_too():
    network, mask = make("tied")
    twin = pickle.loads(pickle.dumps(mask.to_torch_prune(network)))
    for each in (network, twin):
        train(
            each, torch.optim.SGD(each.parameters(), 0.1), [(torch.ones(2, 3, 5).double(), torch.tensor([0, 1]))] * 2
        )
        assert all(not module._forward_hooks for module in each.modules())
    assert Mask.from_torch_prune(twin) == mask


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x).mean(1))


def test_a_weight_shared_with_an_embedding_is_refused_and_can_be_held():
    network = Language()
    mask = Mask({"head.weight": torch.rand(9, 4) < 0.5})
    with pytest.raises(ValueError, match=r"words\.weight is the weight of a prunable layer too.*hold_"):
        mask.to_torch_prune(network)
    mask.hold_(network)
    train(network, torch.optim.Adam(network.parameters(), 0.1), [(torch.arange(8).view(4, 2), torch.arange(4))] * 3)
    assert torch.equal(network.words.weight != 0, mask["head.weight"])
