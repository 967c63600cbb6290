"""A pretended CUDA driver: the C++ functions that the Python code of ``torch.cuda`` calls.

The Python code of ``torch.cuda`` itself runs unchanged. So torch decides which of its functions initialise CUDA, and
which of them fail before that; no list of them is kept here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

MEMORY = 80 * 2**30  # bytes of a GPU


class Generator(torch.Generator):
    """A generator on the CPU that gives the device it was asked for as its own."""

    place = torch.device("cpu")

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        wanted = torch.device(device)
        made.place = torch.device("cuda", wanted.index or 0) if wanted.type == "cuda" else wanted
        return made

    device = property(lambda self: self.place)


class Driver:
    """State of the driver in this process.

    Args:
        count: Visible GPUs.

    Attributes:
        initialised: True once CUDA was initialised.
        current: Index of the current GPU.
        sync_debug_mode: Last mode that was set; kept and not acted on.
    """

    def __init__(self, count: int) -> None:
        self.count, self.initialised, self.current, self.sync_debug_mode = count, False, 0, 0

    def init(self) -> None:
        """Does what ``torch._C._cuda_init`` does."""
        self.initialised = True
        torch.cuda.default_generators = tuple(Generator(f"cuda:{index}") for index in range(self.count))

    def exchange(self, index: int) -> int:
        """Makes another GPU the current one; initialises CUDA, as torch's C++ does.

        Returns:
            Index of the GPU that was current before.
        """
        if index < 0:
            return -1
        torch.cuda._lazy_init()
        if index >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        before, self.current = self.current, index
        return before

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Stand-ins by their names in ``torch._C``."""
        statistics = {"allocated_bytes": {"all": {"peak": 0, "current": 0, "allocated": 0, "freed": 0}}}
        return {
            "_cuda_init": self.init,
            "_cuda_getDeviceCount": lambda: self.count,
            "_cuda_isInBadFork": lambda: False,
            "_cuda_getDevice": lambda: self.current,
            "_cuda_setDevice": self.exchange,
            "_cuda_exchangeDevice": self.exchange,
            "_cuda_maybeExchangeDevice": self.exchange,
            "_cuda_isCurrentStreamCapturing": lambda: False,
            "_cuda_clearCublasWorkspaces": lambda: None,
            "_cuda_memoryStats": self._initialised(lambda index: statistics),
            "_cuda_resetPeakMemoryStats": self._initialised(lambda index: None),
            "_cuda_resetAccumulatedMemoryStats": self._initialised(lambda index: None),
            "_cuda_emptyCache": self._initialised(lambda: None),
            "_cuda_synchronize": self._initialised(lambda: None),
            "_cuda_set_sync_debug_mode": self._initialised(lambda mode: setattr(self, "sync_debug_mode", mode)),
            "_cuda_get_sync_debug_mode": self._initialised(lambda: self.sync_debug_mode),
        }

    def _initialised(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not self.initialised:
                raise RuntimeError("Invalid device argument : did you call init?")  # words of torch's allocator
            return function(*args)

        return call

    def properties(self, index: int) -> SimpleNamespace:
        """Properties of one GPU."""
        name = f"Pretended GPU {index}"
        return SimpleNamespace(name=name, major=9, minor=0, total_memory=MEMORY, multi_processor_count=132)

    def state(self) -> dict[str, Any]:
        """Attributes of ``torch.cuda`` as they are in a fresh process with a driver."""
        functions = self.functions()
        return {
            "_initialized": False,
            "_queued_calls": [],
            "_lazy_seed_tracker": type(torch.cuda._lazy_seed_tracker)(),
            "_cached_device_count": None,
            "_cudart": SimpleNamespace(cudaMemGetInfo=lambda index: (MEMORY, MEMORY)),
            "_device_count_nvml": lambda: -1,
            "_get_device_properties": self.properties,
            "_exchange_device": functions["_cuda_exchangeDevice"],
            "_maybe_exchange_device": functions["_cuda_maybeExchangeDevice"],
            "default_generators": (),
        }


@contextlib.contextmanager
def pretended_driver(count: int = 1) -> Iterator[Driver]:
    """A fresh driver of ``count`` GPUs, not initialised."""
    driver = Driver(count)
    with contextlib.ExitStack() as stack:
        for home, values in ((torch._C, driver.functions()), (torch.cuda, driver.state())):
            for name, value in values.items():
                stack.enter_context(mock.patch.object(home, name, value, create=True))
        graphs = driver.functions()["_cuda_isCurrentStreamCapturing"]
        stack.enter_context(mock.patch.object(torch.cuda.graphs, "_cuda_isCurrentStreamCapturing", graphs))
        # C++ asks the real driver for the accelerator and its streams; optimisers ask in every step.
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.dict(os.environ))
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        yield driver
