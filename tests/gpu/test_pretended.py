"""The pretended GPU itself: it refuses what a real one refuses, and sees what a real one waits for."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prune_bench.pruners import concrete
from prune_bench.training.descent import Descent
from tests.gpu.jobs import JOBS, Place
from tests.gpu.pretended import pretended_gpu

CUDA = "cuda:0"


def ones(*shape: int, device: str = CUDA) -> Tensor:
    return torch.ones(*shape, device=device)


REFUSED = {
    "a sum over two devices": lambda: ones(2) + ones(2, device="cpu"),
    "a sum in place on the host": lambda: ones(2, device="cpu").add_(ones(2)),
    "a product over two devices": lambda: ones(2, 2) @ ones(2, 2, device="cpu"),
    "a layer on the host": lambda: nn.Linear(2, 2)(ones(1, 2)),
    "a number of the host in a stack": lambda: torch.stack([ones(()), ones((), device="cpu")]),
    "a number of the host in a list operator": lambda: torch._foreach_mul_([ones(2)], ones((), device="cpu")),
    "a list over two devices": lambda: torch._foreach_add_([ones(2)], [ones(2, device="cpu")]),
    "a host's tensor indexed by the GPU": lambda: ones(2, device="cpu")[torch.tensor([0], device=CUDA)],
    "a host's value written by index": lambda: ones(2).index_put_((torch.tensor([0]),), ones(1, device="cpu")),
    "two GPUs": lambda: ones(2) + ones(2, device="cuda:1"),
    "a CPU generator in a draw on the GPU": lambda: ones(2).uniform_(generator=torch.Generator()),
    "a CPU generator in a new draw": lambda: torch.randperm(3, generator=torch.Generator(), device=CUDA),
    "a GPU's generator in a draw on the host": lambda: torch.rand(2, generator=torch.Generator(CUDA)),
    "numpy": lambda: ones(2).numpy(),
    "numpy by asarray": lambda: np.asarray(ones(2)),
    "a fused optimiser with gradients of another layout": lambda: torch._fused_sgd_(
        [ones(2, 3)], [ones(3, 2).t()], [ones(2, 3)],
        weight_decay=0.0, momentum=0.9, lr=0.1, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
    ),
}  # fmt: skip

WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "a boolean mask": lambda x: x[x > 0],
    "a list as an index": lambda x: x[[0, 1]],
    "an index on the host": lambda x: x[torch.tensor([0])],
    "to the host": lambda x: x.cpu(),
    "to the GPU": lambda x: torch.ones(2).to(x.device),
    "to the GPU of another tensor": lambda x: torch.ones(2).to(x),
    "a copy into it": lambda x: x.copy_(torch.ones(2)),
    "a copy out of it": lambda x: torch.ones(2).copy_(x),
    "a tensor of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a new tensor of numbers": lambda x: x.new_tensor([1.0, 2.0]),
    "a copy not to be waited for from memory that is not pinned": lambda x: torch.ones(2).to(CUDA, non_blocking=True),
    "torch.save": lambda x: torch.save(x, io.BytesIO()),
}

FREE = {
    "a number of Python": lambda x: x * 2 + 1,
    "a number of the host": lambda x: x + torch.tensor(1.0),
    "a view": lambda x: x[:1].view(1, 1),
    "an index on the GPU": lambda x: x[torch.arange(2, device=x.device)],
    "a choice": lambda x: torch.where(x > 0, x, 0.0),
    "zeros": lambda x: torch.zeros(2, device="cuda") + x,
    "a draw": lambda x: x.uniform_(generator=torch.Generator(x.device)),
    "a copy from pinned memory": lambda x: torch.ones(2).pin_memory()[:1].to(x.device, non_blocking=True),
    "a copy on the GPU": lambda x: copy.deepcopy(x).to("cuda"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what):
    with pretended_gpu(2) as gpu:
        with pytest.raises((RuntimeError, TypeError)):
            REFUSED[what]()
        assert len(gpu.seen.faults) == 1


@pytest.mark.parametrize("what", WAITS)
def test_it_sees_a_wait(gpu, what):
    x = torch.ones(2, device=CUDA)
    WAITS[what](x)
    assert gpu.seen.waits.total() == 1, gpu.seen.waits
    assert gpu.seen.faults == []


@pytest.mark.parametrize("what", FREE)
def test_it_lets_pass(gpu, what):
    result = FREE[what](torch.ones(2, device=CUDA))
    assert result.device == torch.device(CUDA)
    assert gpu.seen.waits == {}


def test_a_backward_pass_gives_the_cpus_gradients(gpu):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    other, x = copy.deepcopy(layer).to(CUDA), torch.randn(3, 1, 4, 4)
    layer(x).square().sum().backward()
    other(x.to(CUDA)).square().sum().backward()
    for own, pretended in zip(layer.parameters(), other.parameters()):
        assert pretended.grad.device == torch.device(CUDA)
        assert torch.equal(own.grad, pretended.grad.cpu())


def test_a_module_that_is_moved_keeps_its_parameters_and_what_they_share(gpu):
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    weight = network[0].weight
    assert network.to(CUDA)[1].weight is weight
    assert weight.is_cuda


def test_data_that_are_exchanged_are_those_that_count_from_then_on(gpu):
    weight = nn.Parameter(torch.rand(2, 3, 4, 4, device=CUDA))
    weight.data = 2 * weight.data.to(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (weight + 0).is_contiguous(memory_format=torch.channels_last)
    assert (weight.cpu() == weight.data.cpu()).all()
    with pytest.raises(RuntimeError, match="incompatible"):
        weight.data = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(("asked", "device"), [(None, CUDA), ("cpu", "cpu"), (torch.device(CUDA), CUDA)])
def test_a_file_is_read_back_to_where_it_came_from_or_is_asked_for(gpu, asked, device):
    file = io.BytesIO()
    torch.save({"weight": torch.arange(3.0, device=CUDA)}, file)
    file.seek(0)
    found = torch.load(file, map_location=asked, weights_only=True)["weight"]
    assert found.device == torch.device(device)
    assert found.tolist() == [0.0, 1.0, 2.0]


def train_with(monkeypatch, gpu, fault):
    """A training in whose every step ``fault`` happens to the losses."""
    real = Descent.step

    def step(self, x, y):
        losses = real(self, x, y)
        fault(losses)
        return losses

    monkeypatch.setattr(Descent, "step", step)
    JOBS["training x1 float32"].do(Place(gpu.place, gpu.seen.steps))


@pytest.mark.parametrize("fault", [lambda losses: losses + torch.zeros(1), lambda losses: losses.numpy()])
def test_a_fault_planted_in_a_step_is_refused(monkeypatch, gpu, fault):
    with pytest.raises((RuntimeError, TypeError)):
        train_with(monkeypatch, gpu, fault)


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (lambda losses: losses.item(), 1),
        (lambda losses: losses[[0]], 1),
        (lambda losses: losses.cpu().to(losses.device), 2),
        (lambda losses: losses.new_tensor([0.0]), 1),
    ],
    ids=["item", "a list as an index", "a round trip", "a new tensor"],
)
def test_a_wait_planted_in_a_step_is_seen_in_every_step_but_the_first(monkeypatch, gpu, fault, waits):
    train_with(monkeypatch, gpu, fault)
    assert gpu.seen.waits_in_steps.total() == 2 * 2 * waits  # two epochs of three steps


def test_a_cpu_generator_planted_in_a_search_is_refused(monkeypatch, gpu):
    real = concrete.generator
    monkeypatch.setattr(concrete, "generator", lambda *purpose, device: real(*purpose))
    with pytest.raises(RuntimeError, match="generator"):
        JOBS["cts lagrange"].do(Place(gpu.place))
