from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prune_bench.config import Precision
from prune_bench.pruners import concrete
from prune_bench.training import descent
from prune_bench.training.layout import gpu_gains
from tests.gpu.jobs import JOBS, Place
from tests.gpu.pretended import Pretended, pretended_gpu
from tests.gpu.seen import Seen


@dataclass(frozen=True)
class Done:
    """A job that was done on the pretended GPU.

    Attributes:
        result: What it gave, on the CPU; None if it raised.
        error: What it raised.
        seen: What the GPU has seen.
        steps: Batches used inside of loops of steps.
    """

    result: Any
    error: Exception | None
    seen: Seen
    steps: int


def do(name: str) -> Done:
    """Does a job on a pretended GPU of its own."""
    with pretended_gpu() as gpu:
        place, result, error = Place(gpu.place, gpu.seen.steps), None, None
        try:
            result = JOBS[name].do(place)
            result = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Pretended) else leaf, result)
        except Exception as raised:
            error = raised
    return Done(result, error, gpu.seen, place.steps)


@pytest.fixture(scope="session")
def done() -> Callable[[str], Done]:
    """``done(name)``: a job that was done once, for all tests that ask about it."""
    kept: dict[str, Done] = {}

    def once(name: str) -> Done:
        if name not in kept:
            kept[name] = do(name)
        return kept[name]

    return once


@pytest.fixture
def gpu():
    """A pretended GPU, not initialised."""
    with pretended_gpu() as gpu:
        yield gpu


@pytest.fixture
def layout_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory layout that a GPU's networks have, on the CPU too: sums depend on it."""

    def chosen(network: nn.Module, x: Tensor, *, precision: Precision, lanes: int) -> torch.memory_format:
        return torch.channels_last if gpu_gains(precision, lanes) else torch.contiguous_format

    for module in (descent, concrete):
        monkeypatch.setattr(module, "memory_layout", chosen, raising=False)


@pytest.fixture
def cuda() -> torch.device:
    """The first GPU of the machine."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.cuda.init()  # C++ may take a pretended one for it
    return torch.device("cuda:0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one job follow each other, so that one worker of several does it."""
    at = [i for i, item in enumerate(items) if item.path.name == "test_jobs.py"]
    order = sorted((items[i] for i in at), key=lambda item: [*JOBS].index(item.callspec.params["job"]))
    for i, item in zip(at, order):
        items[i] = item
