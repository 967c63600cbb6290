"""Networks compiled by ``torch.compile``, where a sweep asks for it: fewer kernels, and CUDA graphs on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import nn

_asked: ContextVar[bool] = ContextVar("compile", default=False)


@contextlib.contextmanager
def compiling(asked: bool) -> Iterator[None]:
    """Inside it :func:`compile_` compiles, if ``asked``."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


def compile_(network: nn.Module, device: torch.device) -> nn.Module:
    """Has the network's passes compiled when they are first run, if that is asked for; gives the network itself.

    Parameters, their names and ``functional_call`` stay as they are. Each shape of input is compiled anew.

    Args:
        network: On ``device``.
        device: On a GPU the kernels of a pass are replayed as one CUDA graph.
    """
    if _asked.get():
        network.compile(mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)
    return network


def eager() -> contextlib.AbstractContextManager[object]:
    """Inside it networks run as they are: for passes that are too few to be worth compiling."""
    return torch.compiler.set_stance("force_eager") if _asked.get() else contextlib.nullcontext()
