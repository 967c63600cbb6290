"""A mask that is held: training by any loop is training of f(x; m * w), written out in plain PyTorch."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from prune_bench.hold import _HELD
from prune_bench.mask import Mask, prunable_weights
from prune_bench.metrics import mask_metrics
from prune_bench.sweep.executors.ranks import launch


class Attention(nn.Module):
    """Reads the weight of ``out_proj`` and of ``mine`` without calling these layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mine = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.linear(x, self.mine.weight).relu().mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean(1))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Linear(18, 4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


NETWORKS = {"plain": Plain, "attention": Attention, "tied": Tied}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def make(name="plain", density=0.4):
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    random = torch.Generator().manual_seed(1)
    weights = prunable_weights(network)
    mask = Mask({n: torch.rand(w.shape, generator=random) < density for n, w in weights.items()})
    return network, mask


def batches(count=6):
    random = torch.Generator().manual_seed(2)
    xs = [torch.randn(8, 3, 5, generator=random, dtype=torch.float64) for _ in range(count)]
    return [(x, torch.arange(8) % 4) for x in xs]


def step(optimizer, loss_of, parameters, clip):
    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        return loss

    return optimizer.step(closure).detach()


def train(network, optimizer, data, clip=None):
    return [
        float(step(optimizer, lambda x=x, y=y: F.cross_entropy(network(x), y), list(network.parameters()), clip))
        for x, y in data
    ]


def train_reference(network, mask, optimizer, data, clip=None):
    """The network is called with m * w in place of w; what pruned weights themselves become is no matter."""

    def loss(x, y):
        masked = {n: torch.where(mask[n], p, 0) if n in mask else p for n, p in network.named_parameters()}
        return F.cross_entropy(functional_call(network, masked, (x,)), y)

    parameters = list(network.parameters())
    return [float(step(optimizer, lambda x=x, y=y: loss(x, y), parameters, clip)) for x, y in data]


def check_same(held, reference, mask):
    theirs = prunable_weights(reference)
    for name, weight in prunable_weights(held).items():
        assert torch.equal(weight[~mask[name]], torch.zeros_like(weight[~mask[name]])), name
        torch.testing.assert_close(weight[mask[name]], theirs[name][mask[name]], rtol=1e-9, atol=1e-12)
    others = dict(reference.named_parameters())
    for name, parameter in held.named_parameters():
        if name not in theirs:
            torch.testing.assert_close(parameter, others[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("how", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_under_a_hold_is_training_of_the_masked_network(name, how, clip):
    network, mask = make(name)
    reference = copy.deepcopy(network)
    mask.hold_(network)
    losses = train(network, OPTIMIZERS[how](network.parameters()), batches(), clip)
    wanted = train_reference(reference, mask, OPTIMIZERS[how](reference.parameters()), batches(), clip)
    assert losses == pytest.approx(wanted, rel=1e-9)
    check_same(network, reference, mask)


@pytest.mark.parametrize("how", ["sgd", "adam"])
def test_momentum_from_before_moves_no_pruned_weight(how):
    network, mask = make()
    optimizer = OPTIMIZERS[how](network.parameters())
    train(network, optimizer, batches(3))
    reference = copy.deepcopy(network)
    theirs = OPTIMIZERS[how](reference.parameters())
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    mask.hold_(network)
    for batch in batches():
        train(network, optimizer, [batch])
        assert all(not weight[~mask[n]].any() for n, weight in prunable_weights(network).items())
    train_reference(reference, mask, theirs, batches())
    check_same(network, reference, mask)


def test_a_gradient_that_is_there_and_one_that_is_infinite_are_zeroed_where_pruned():
    network, mask = make()
    train(network, OPTIMIZERS["sgd"](network.parameters()), batches(1))
    mask.hold_(network)
    weight, pruned = network.head.weight, ~mask["head.weight"]
    assert not weight.grad[pruned].any() and weight.grad[~pruned].any()
    network.zero_grad()
    (weight * torch.where(pruned, float("inf"), 1.0)).sum().backward()
    assert torch.equal(weight.grad, mask["head.weight"].double())
    (taken,) = torch.autograd.grad(weight.sum(), [weight])
    assert torch.equal(taken, mask["head.weight"].double())


def test_gradient_scaling_accumulation_and_two_passes_before_one_backward():
    network, mask = make()
    reference = copy.deepcopy(network)
    mask.hold_(network)
    optimizer, scaler = OPTIMIZERS["sgd"](network.parameters()), torch.amp.GradScaler("cpu")
    theirs = OPTIMIZERS["sgd"](reference.parameters())
    data = batches()
    for (x, y), (xx, yy) in zip(data[::2], data[1::2], strict=True):
        optimizer.zero_grad()
        for loss in (F.cross_entropy(network(x), y), F.cross_entropy(network(xx), yy)):
            scaler.scale(loss / 4).backward()
        (scaler.scale((network(x).mean() + network(xx).mean()) / 4)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 0.05)
        scaler.step(optimizer)
        scaler.update()

        def loss(x=x, y=y, xx=xx, yy=yy):
            def run(inputs):
                masked = {n: torch.where(mask[n], p, 0) if n in mask else p for n, p in reference.named_parameters()}
                return functional_call(reference, masked, (inputs,))

            ends = F.cross_entropy(run(x), y) + F.cross_entropy(run(xx), yy) + run(x).mean() + run(xx).mean()
            return ends / 4

        step(theirs, loss, list(reference.parameters()), 0.05)
    check_same(network, reference, mask)


def test_the_state_dict_has_its_own_keys_and_a_dense_checkpoint_is_masked_when_loaded():
    network, mask = make("attention")
    dense = copy.deepcopy(network.state_dict())
    mask.hold_(network)
    assert list(network.state_dict()) == list(dense)
    assert [n for n, _ in network.named_buffers()] == []
    make("attention")[0].load_state_dict(network.state_dict())
    for assign in (False, True):
        network.load_state_dict(dense, assign=assign)
        for name, weight in prunable_weights(network).items():
            assert torch.equal(weight, torch.where(mask[name], dense[name], 0))
        train(network, OPTIMIZERS["sgd"](network.parameters()), batches(2))
        assert all(not w[~mask[n]].any() for n, w in prunable_weights(network).items())


def saved_and_loaded(network):
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), saved_and_loaded]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_is_held_too_and_let_go_by_itself(name, copied):
    network, mask = make(name)
    mask.hold_(network)
    train(network, OPTIMIZERS["sgd"](network.parameters()), batches(1))
    twin, reference = copied(network), copy.deepcopy(network)
    Mask.held_by(reference).release()
    train(twin, OPTIMIZERS["adam"](twin.parameters()), batches(3))
    train_reference(reference, mask, OPTIMIZERS["adam"](reference.parameters()), batches(3))
    check_same(twin, reference, mask)
    Mask.held_by(twin).release()
    train(twin, OPTIMIZERS["sgd"](twin.parameters()), batches(2))
    train(network, OPTIMIZERS["sgd"](network.parameters()), batches(2))
    assert prunable_weights(twin)["head.weight"][~mask["head.weight"]].any()
    assert not prunable_weights(network)["head.weight"][~mask["head.weight"]].any()


def test_released_all_weights_are_trained_and_nothing_is_left_behind():
    network, mask = make()
    hooks = [len(network._forward_pre_hooks), len(network._load_state_dict_post_hooks)]
    hold = mask.hold_(network)
    assert Mask.held_by(network) is hold
    hold.release()
    hold.release()
    assert [len(network._forward_pre_hooks), len(network._load_state_dict_post_hooks)] == hooks
    assert Mask.held_by(network) is None
    train(network, OPTIMIZERS["sgd"](network.parameters()), batches(2))
    assert prunable_weights(network)["head.weight"][~mask["head.weight"]].any()


def test_a_second_hold_takes_the_place_of_the_first():
    network, mask = make()
    other = Mask({name: ~keep for name, keep in mask.items()})
    first = mask.hold_(network)
    other.hold_(network)
    first.release()
    train(network, OPTIMIZERS["sgd"](network.parameters()), batches(2))
    weights = prunable_weights(network)
    assert all(not weight[~other[name]].any() for name, weight in weights.items())
    assert all(weight[other[name]].any() for name, weight in weights.items())


def test_what_is_written_by_hand_is_zeroed_before_the_next_pass():
    network, mask = make()
    mask.hold_(network)
    with torch.no_grad():
        network.head.weight.data.fill_(1.0)
    network(batches(1)[0][0])
    assert torch.equal(network.head.weight, mask["head.weight"].double())


def test_another_dtype_and_a_frozen_weight_that_is_thawed():
    network, mask = make()
    network.head.weight.requires_grad_(False)
    mask.hold_(network)
    network.float()
    network.head.weight.requires_grad_(True)
    train(network, OPTIMIZERS["adam"](network.parameters()), [(x.float(), y) for x, y in batches(2)])
    assert network.head.weight.dtype == torch.float32
    assert all(not weight[~mask[name]].any() for name, weight in prunable_weights(network).items())


def test_a_held_network_is_freed_when_it_is_dropped():
    network, mask = make()
    hold = mask.hold_(network)
    there = weakref.ref(network.head.weight)
    del network, hold
    gc.collect()
    assert there() is None
    assert all(isinstance(key, torch.Tensor) for key in _HELD)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("order", ["hold, compile", "compile, hold", "copy"])
def test_compiled_networks(order, backend):
    torch._dynamo.reset()
    network, mask = make()
    reference = copy.deepcopy(network)
    if order != "compile, hold":
        mask.hold_(network)
        network = copy.deepcopy(network) if order == "copy" else network
    compiled = torch.compile(network, backend=backend)
    if order == "compile, hold":
        mask.hold_(compiled)
    train(compiled, OPTIMIZERS["sgd"](compiled.parameters()), batches())
    train_reference(reference, mask, OPTIMIZERS["sgd"](reference.parameters()), batches())
    check_same(network, reference, mask)


def test_data_parallel_on_a_machine_without_gpus():
    network, mask = make()
    reference = copy.deepcopy(network)
    wrapped = nn.DataParallel(network)
    mask.hold_(wrapped)
    train(wrapped, OPTIMIZERS["sgd"](wrapped.parameters()), batches())
    train_reference(reference, mask, OPTIMIZERS["sgd"](reference.parameters()), batches())
    check_same(network, reference, mask)


def test_what_cannot_be_held_is_refused():
    network, mask = make()
    with pytest.raises(ValueError, match="another network"):
        mask.hold_(make("tied")[0])
    with pytest.raises(ValueError, match="is no parameter"):
        mask.hold_(mask.to_torch_prune(copy.deepcopy(network)))
    outer = nn.Sequential(network)
    mask.hold_(network)
    with pytest.raises(ValueError, match=r"0\.conv\.weight is held already"):
        Mask.full(outer).hold_(outer)
    with pytest.raises(ValueError, match="release"):
        mask.to_torch_prune(network)


def _train_shared(device, order, backend_view):
    rank = torch.distributed.get_rank()
    network, mask = make("plain")
    reference = copy.deepcopy(network)
    if order == "before":
        mask.hold_(network)
    wrapped = DistributedDataParallel(network, gradient_as_bucket_view=backend_view, broadcast_buffers=True)
    if order == "after":
        mask.hold_(wrapped)
    network.eval()
    reference.eval()  # batch normalisation would be of each share
    data = batches(4)
    mine = [(x[rank * 4 : rank * 4 + 4], y[rank * 4 : rank * 4 + 4]) for x, y in data]
    train(wrapped, OPTIMIZERS["sgd"](wrapped.parameters()), mine, 0.1)
    train_reference(reference, mask, OPTIMIZERS["sgd"](reference.parameters()), data, 0.1)
    check_same(network, reference, mask)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "view"), [("before", False), ("after", True)])
def test_two_processes_under_ddp_do_what_one_does(order, view):
    launch(_train_shared, ["cpu", "cpu"], order, view)


def test_what_is_measured_of_another_mask_does_not_hang_on_the_one_that_is_held():
    network, mask = make()
    network = network.float()
    other = Mask({name: ~keep for name, keep in mask.items()})
    wanted = [mask_metrics(network, each, (3, 5)) for each in (mask, other)]
    mask.hold_(network)
    for wrapped in (network, nn.Sequential(network)):
        named = [Mask({n if wrapped is network else f"0.{n}": k for n, k in m.items()}) for m in (mask, other)]
        assert [mask_metrics(wrapped, each, (3, 5)) for each in named] == wanted
    assert not network.head.weight[~mask["head.weight"]].any()
