"""Training under a mask: zeros stay zeros, and the numbers are those of a loop written out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.randomness import generator
from prune_bench.training import evaluate, train
from prune_bench.training.descent import Descent, clip_lanes_

CPU = torch.device("cpu")
RECIPE = pb.Recipe(epochs=4, batch_size=64, milestones=(2,), weight_decay=1e-2, clip_norm=0.5)


@pytest.fixture(scope="module")
def data():
    return load_data(
        "synthetic", {"samples": 256, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4}, 0
    )


@pytest.fixture
def network():
    return build_model(
        "resnet8", {"width": 4}, in_channels=1, image_size=8, num_classes=4, generator=generator(0, "t")
    )


def random_mask(network, density):
    g = torch.Generator().manual_seed(0)
    return Mask({n: torch.rand(w.shape, generator=g) < density for n, w in prunable_weights(network).items()})


def test_pruned_weights_and_their_momentum_are_exactly_zero_after_every_step(network, data):
    mask = random_mask(network, 0.2)
    descent = Descent(network, mask, RECIPE)
    for x, y in data.epoch(0, 64, augment=True):
        descent.step(x, y)
        for name, weight in prunable_weights(network).items():
            pruned = ~mask[name]
            assert bool((weight[pruned] == 0).all())
            assert bool((descent.optimizer.state[weight]["momentum_buffer"][pruned] == 0).all())
            assert bool((weight[mask[name]] != 0).any()) or not mask[name].any()


def test_training_equals_a_loop_written_out_in_float64(network, data):
    mask = random_mask(network, 0.3)
    network = network.double()
    by_hand = copy.deepcopy(network)
    named = dict(by_hand.named_parameters())
    velocity = {n: torch.zeros_like(p) for n, p in named.items()}
    descent = Descent(network, mask, RECIPE)
    with torch.no_grad():
        for name, keep in mask.items():
            named[name].mul_(keep)
    for epoch in range(4):
        descent.begin_epoch(epoch)
        for x, y in data.epoch(epoch, 64, augment=True):
            descent.step(x.double(), y)
            grads = torch.autograd.grad(F.cross_entropy(by_hand(x.double()), y), list(named.values()))
            grads = {n: g * mask[n] if n in mask else g for n, g in zip(named, grads)}
            length = sum(g.square().sum() for g in grads.values()).sqrt()
            with torch.no_grad():
                for n, p in named.items():
                    g = grads[n] * min(1.0, 0.5 / (float(length) + 1e-6)) + 1e-2 * p
                    velocity[n] = 0.9 * velocity[n] + g
                    p -= (0.1 if epoch < 2 else 0.01) * velocity[n]
    for (name, ours), theirs in zip(network.named_parameters(), named.values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)


def test_the_trainer_does_what_the_steps_do(network, data):
    mask = random_mask(network, 0.3)
    trained = train(network, mask, RECIPE, data, first_epoch=1, device=CPU)
    by_hand = copy.deepcopy(network)
    descent = Descent(by_hand, mask, RECIPE)
    for epoch in (1, 2, 3):
        descent.begin_epoch(epoch)
        for x, y in data.epoch(epoch, 64, augment=True):
            descent.step(x, y)
    assert [row["epoch"] for row in trained.curves] == [1, 2, 3]
    for (name, ours), theirs in zip(trained.network.named_parameters(), by_hand.parameters()):
        assert torch.equal(ours, theirs), name


def test_two_trainings_of_one_seed_are_equal_to_the_bit(network, data):
    mask = random_mask(network, 0.3)
    states = [train(network, mask, RECIPE, data, device=CPU).network.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_a_training_leaves_the_network_it_was_given(network, data):
    before = copy.deepcopy(network.state_dict())
    train(network, random_mask(network, 0.3), RECIPE, data, device=CPU)
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_training_with_its_epoch(network, data):
    with torch.no_grad():
        network.fc.weight[0, 0] = float("inf")
    done = train(network, Mask.full(network), RECIPE, data, device=CPU)
    assert done.diverged == 0
    assert len(done.curves) == 1


def test_evaluation_is_the_fraction_right_and_the_mean_cross_entropy(data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    batches = list(data.evaluation("test", 20))
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    found = evaluate(network, iter(batches))
    assert found["accuracy"] == pytest.approx(float((network(x).argmax(1) == y).double().mean()))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(network(x), y).detach()), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_has_the_host_wait_for_the_device(network, data, precision, no_host_sync):
    recipe = pb.Recipe(batch_size=64, precision=precision)
    descent = Descent(network, random_mask(network, 0.3), recipe)
    batches = data.epoch(0, 64, augment=True)
    descent.step(*next(batches))  # the first may make optimiser state
    with no_host_sync():
        loss = descent.step(*next(batches))
        with pytest.raises(AssertionError, match="waits for the device"):
            loss.item()


def test_masks_lie_in_memory_as_the_gradients_they_are_laid_on(network, data):
    descent = Descent(network, random_mask(network, 0.3), RECIPE)
    descent.step(*next(data.epoch(0, 64, augment=False)))
    gradients = [weight.grad for weight, _ in descent._keep]
    assert any(gradient.stride() != gradient.contiguous().stride() for gradient in gradients)
    assert [keep.stride() for _, keep in descent._keep] == [gradient.stride() for gradient in gradients]


def clipped_lane_by_lane(gradients, lanes, limit):
    """Each lane's pieces times a factor of its own, one product a piece."""
    pieces = [piece for gradient in gradients for piece in gradient.chunk(lanes)]
    norms = torch.stack(list(torch._foreach_norm(pieces))).view(-1, lanes).norm(dim=0)
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    for piece, factor in zip(pieces, list(factors.unbind()) * len(gradients)):
        piece.mul_(factor)


@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_the_product_of_each_piece_with_its_lanes_factor_to_the_bit(lanes, dtype, limit):
    g = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (5,), (6, 7), (2, 4, 1, 1)]
    found = [torch.randn(lanes * n, *rest, generator=g).to(dtype) for n, *rest in shapes]
    found[0] = found[0].contiguous(memory_format=torch.channels_last)
    expected = [gradient.clone() for gradient in found]
    clip_lanes_(found, lanes, limit)
    clipped_lane_by_lane(expected, lanes, limit)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected))


@pytest.mark.parametrize(("lanes", "products"), [(1, 1), (8, 4)])
def test_clipping_takes_one_product_or_one_a_gradient(lanes, products):
    counted = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__.endswith("mul_"):
                # A list of factors is a kernel for each tensor.
                counted.extend([func] * (len(args[0]) if "List" in str(func) else 1))
            return func(*args, **(kwargs or {}))

    with Count():
        clip_lanes_([torch.randn(lanes * 3, 2) for _ in range(4)], lanes, 0.5)
    assert len(counted) == products


def test_a_parameter_without_a_dimension_is_clipped_with_the_others():
    gradients = [torch.tensor(3.0), torch.tensor([4.0])]
    clip_lanes_(gradients, 1, 0.5)
    torch.testing.assert_close(torch.stack([gradients[0], gradients[1][0]]), torch.tensor([0.3, 0.4]))


def test_an_epoch_tells_whether_its_rate_is_another(network):
    descent = Descent(network, Mask.full(network), RECIPE)
    assert [descent.begin_epoch(epoch) for epoch in (0, 1, 2, 3)] == [False, False, True, False]
    assert descent.begin_epoch(0)


@pytest.mark.parametrize("norm_batch", [None, 16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("over", ["kept", "all"])
def test_a_step_is_that_of_plain_pytorch_that_masks_weights_in_the_forward_pass(
    network, data, norm_batch, reduction, over
):
    """The code of 2512.07142: weights are masked when a pass begins, and the gradient that is clipped is not.

    Several devices each have a piece of the batch: each sums its own losses, and their gradients are averaged.
    """
    recipe = pb.Recipe(
        batch_size=64, weight_decay=1e-2, clip_norm=2.0,
        norm_batch=norm_batch, loss_reduction=reduction, clip_over=over,
    )  # fmt: skip
    mask, network = random_mask(network, 0.2), network.double()
    plain = copy.deepcopy(network)
    descent = Descent(network, mask, recipe)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    weights = prunable_weights(plain)
    for x, y in data.epoch(0, 64, augment=True):
        descent.step(x.double(), y)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(mask[name])
        pieces = zip(x.double().split(norm_batch or 64), y.split(norm_batch or 64))
        losses = [F.cross_entropy(plain(images), labels, reduction=reduction) for images, labels in pieces]
        sgd.zero_grad()
        torch.stack(losses).mean().backward()
        if over == "kept":
            for name, weight in weights.items():
                weight.grad.mul_(mask[name])
        nn.utils.clip_grad_norm_(plain.parameters(), 2.0)
        sgd.step()
    mask.apply_(plain)
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
