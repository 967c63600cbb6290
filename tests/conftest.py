import itertools
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prune_bench.training.descent import Descent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


class TinyNet(nn.Module):
    """A convolution with normalisation and a classifier, small enough to differentiate by hand."""

    def __init__(self, running: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3, track_running_stats=running)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(3 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.norm(self.conv(x))).flatten(1))


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(1)
    return TinyNet().double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(12, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(12) % 4


@pytest.fixture
def cut_off(monkeypatch):
    """``cut_off(k)`` has trainings raise in the k-th step from now, if not None; ``cut_off.steps`` counts them."""
    real = Descent.step

    def at(last):
        steps, at.steps = itertools.count(1), 0

        def step(self, x, y):
            at.steps = next(steps)
            if at.steps == last:
                raise KeyboardInterrupt
            return real(self, x, y)

        monkeypatch.setattr(Descent, "step", step)

    return at


class NoHostSync(TorchDispatchMode):
    """Inside it, what would have the host wait for a GPU raises: a value read, or a size that hangs on values.

    What leaves no operator behind (``tolist``, ``numpy``) the fixture catches; that a list used as an index is copied
    to the device shows on a GPU only.
    """

    WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(a, Tensor) and a.dtype == torch.bool for a in tree_leaves(args[1:2])
        )
        if name in self.WAITS or by_mask:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_sync(monkeypatch) -> type[TorchDispatchMode]:
    def waits(self: Tensor, *_: Any) -> None:
        raise AssertionError("waits for the device")

    class Guard(NoHostSync):
        def __enter__(self) -> Any:
            for name in ("tolist", "numpy", "cpu"):
                monkeypatch.setattr(Tensor, name, waits)
            return super().__enter__()

        def __exit__(self, *error: Any) -> None:
            monkeypatch.undo()
            super().__exit__(*error)

    return Guard


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(line, ...)`` lets ``nvidia-smi -L`` say these lines; every GPU has one driver. The cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def has(*lines, driver="580.65.06"):
        uuids = [line.split("UUID: ")[1].rstrip(")") for line in lines if line.startswith("GPU")]
        rows = "\n".join(f"{uuid}, {driver}, Default" for uuid in uuids)
        listing = "\n".join(lines)
        script = f'#!/bin/sh\nif [ "$1" = -L ]; then cat <<"E"\n{listing}\nE\nelse cat <<"E"\n{rows}\nE\nfi\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return has
