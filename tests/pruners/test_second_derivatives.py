"""Methods that differentiate twice run on attention and recurrent layers, or name the operator that cannot."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.errors import PruneBenchError
from tests.pruners.test_snip import kept, top

T = 200.0


class Fused(nn.Module):
    """Attention by torch's fused kernel."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.head(self.out(self.attend(q, k, v).transpose(1, 2).flatten(2)).tanh().mean(1))


class ByHand(Fused):
    def attend(self, q, k, v):
        return ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def batch(dtype=torch.float64):
    return torch.randn(9, 7, 6, generator=torch.Generator().manual_seed(0), dtype=dtype), torch.arange(9) % 3


def by_differences(network, x, y):
    """w * (H g), H g by central differences of the gradient."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]

    def gradient(net):
        weights = [net.get_submodule(name).weight for name in names]
        return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(net(x) / T, y), weights)])

    def moved(by):
        other, at = copy.deepcopy(network), 0
        for name in names:
            weight = other.get_submodule(name).weight.data
            weight += by[at : at + weight.numel()].view_as(weight)
            at += weight.numel()
        return other

    g = gradient(network)
    step = 1e-4 / g.norm()
    product = (gradient(moved(step * g)) - gradient(moved(-step * g))) / (2 * step)
    return torch.cat([network.get_submodule(name).weight.detach().flatten() for name in names]) * product


@pytest.mark.parametrize(
    "make", [Fused, ByHand, lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), lambda: Recurrent(nn.RNN)]
)
def test_grasp_is_w_times_hg_by_finite_differences(make):
    torch.manual_seed(0)
    network = make().double()
    score = by_differences(network, *batch())
    wanted = top({"all": score}, round(0.3 * len(score)))
    found = kept(pb.find_mask(network, "grasp", density=0.3, data=[batch()]))
    assert sum(a != b for a, b in zip(found, wanted, strict=True)) <= 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_in_float32_recurrent_layers_are_scored_without_their_fused_kernel(kind):
    torch.manual_seed(0)
    network = Recurrent(kind)
    single = kept(pb.find_mask(network, "grasp", density=0.5, data=[batch(torch.float32)]))
    x, y = batch(torch.float32)
    double = kept(pb.find_mask(copy.deepcopy(network).double(), "grasp", density=0.5, data=[(x.double(), y)]))
    assert sum(a != b for a, b in zip(single, double, strict=True)) <= 2
    assert torch.backends.mkldnn.enabled and torch.backends.cudnn.enabled


@pytest.mark.parametrize("objective", ["gradient_match", "gradient_norm"])
def test_concrete_searches_by_gradients_run_on_fused_attention_as_on_attention_by_hand(objective):
    torch.manual_seed(0)
    fused, by_hand = Fused().double(), ByHand().double()
    by_hand.load_state_dict(fused.state_dict())
    one, other = (
        pb.find_mask(net, "cts", density=0.3, data=[batch()], steps=5, objective=objective)
        for net in (fused, by_hand)
    )
    assert one == other


def test_grasp_runs_on_torchs_transformer_layer():
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.body(x).mean(1))

    network = Network().double()
    mask = pb.find_mask(network, "grasp", density=0.5, data=[batch()])
    assert 0 < int(mask["body.self_attn.out_proj.weight"].sum()) < 36


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class Without(nn.Module):
    """Has an operator without a second derivative."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.map, self.head = operator, nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.map(x.mean(1))
        return self.head(self.operator(x).tanh())


def bags(x):
    places = torch.arange(len(x))[:, None]
    return F.embedding_bag(places, x, mode="sum")


@pytest.mark.parametrize(
    ("operator", "name", "method", "how"),
    [
        (bags, "_embedding_bag_backward", "grasp", {}),
        (bags, "_embedding_bag_backward", "cts", {"steps": 2, "objective": "gradient_norm"}),
        (Once.apply, "once_differentiable", "grasp", {}),
    ],
)
def test_an_operator_without_a_second_derivative_is_named(method, how, operator, name):
    torch.manual_seed(0)
    with pytest.raises(PruneBenchError, match=f"{method} needs second derivatives, and the operator .*{name}"):
        pb.find_mask(Without(operator).double(), method, density=0.5, data=[batch()], **how)


def test_what_the_search_cost_is_counted_once_when_it_is_tried_again():
    from prune_bench.pruners import pruners

    entry = pruners["grasp"]
    found = entry.build(Recurrent(nn.LSTM), (0.5,), entry.options())
    x, y = batch(torch.float32)
    found.score([(x, y)])
    assert (found.forwards, found.backwards) == (18, 45)
