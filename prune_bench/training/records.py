"""Records of a step: what it did, kept to be done again; a CUDA graph, and a tape of operators for tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_VALUE_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_HOST_READS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__})
_BATCH_NORMS = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")  # their schemas hide what they write


class Record(Protocol):
    """The operators of one step, kept to be run again."""

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step plainly."""

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        """Keeps what the step does, without doing it.

        Returns:
            The tensor in which every replay leaves its result.

        Raises:
            Exception: The step cannot be recorded. No tensor and no generator has changed.
        """

    def replay(self) -> None:
        """Does the recorded step once, on the same tensors."""


class Tape(TorchDispatchMode):
    """A record for any device that goes wrong where a CUDA graph would; slower than the plain step, for tests.

    Args:
        generators: What the step draws from, beside the global generator of the CPU.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        super().__init__()
        self._generators = (torch.default_generator, *generators)
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._before += [(written, written.clone()) for written in _written(func, args, kwargs)]
        outputs = func(*args, **kwargs)
        if obstacle := _obstacle(func, args, kwargs, outputs):
            raise RuntimeError(obstacle)
        self._calls.append((func, args, kwargs, outputs))  # holds the outputs, and with them their addresses
        return outputs

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step plainly."""
        return step()

    @torch.no_grad()
    def _undo(self) -> None:
        while self._before:
            written, values = self._before.pop()
            written.detach().copy_(values)

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step, keeps its operators and undoes what they wrote and drew."""
        states = [generator.get_state() for generator in self._generators]
        try:
            with self, HostReads() as reads:
                result = step()
            if reads.found:
                raise RuntimeError(reads.found)
            return result
        finally:
            self._undo()
            for generator, state in zip(self._generators, states):
                generator.set_state(state)

    @torch.no_grad()
    def replay(self) -> None:
        """Runs the operators again; each leaves its result at the recorded address."""
        for func, args, kwargs, outputs in self._calls:
            if func.is_view or torch.Tag.inplace_view in func.tags or "empty" in func.overloadpacket.__name__:
                continue
            for old, new in zip(tree_leaves(outputs), tree_leaves(func(*args, **kwargs))):
                if isinstance(old, Tensor) and old is not new:
                    old.detach().copy_(new)


class Graph:
    """A CUDA graph, captured on a side stream of the current device.

    Args:
        generators: What the step draws from, beside the device's global generator.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        device = torch.cuda.current_device()
        self._graph, self._stream = torch.cuda.CUDAGraph(), _side_stream(device)
        self._generators = (torch.cuda.default_generators[device], *generators)
        if hasattr(self._graph, "register_generator_state"):
            for generator in generators:
                self._graph.register_generator_state(generator)

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step on the side stream, as torch asks for before a capture."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = step()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        """Captures the step; nothing runs on the GPU meanwhile."""
        states = [generator.clone_state() for generator in self._generators]
        # A capture that fails leaves its stream current and its generators in capture; both are put back here.
        with torch.cuda.stream(torch.cuda.current_stream()):
            try:
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    return step()
            except BaseException:
                for generator, state in zip(self._generators, states):
                    generator.graphsafe_set_state(state)
                raise

    def replay(self) -> None:
        """Launches the whole step at once."""
        self._graph.replay()


class Operators(TorchDispatchMode):
    """Notes the first operator that cannot be recorded."""

    found = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.found = self.found or _obstacle(func, args, kwargs or {}, outputs)
        return outputs


class HostReads(TorchFunctionMode):
    """Notes the first call that reads a tensor's values without an operator; on a GPU it would be a copy."""

    found = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _HOST_READS:
            self.found = self.found or f"Tensor.{func.__name__} reads values"
        return func(*args, **(kwargs or {}))


def _obstacle(func: Any, args: Sequence[Any], kwargs: dict[str, Any], outputs: Any) -> str:
    """Why the operator cannot be recorded; empty if it can."""
    if func.overloadpacket.__name__.startswith(("index", "_index", "_unsafe_index")):
        indices = tree_leaves(args[1:2])
        if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
            return f"{func} by a mask reads values"
    elif any(tag in func.tags for tag in _VALUE_READS):
        return f"{func} reads values"
    devices = {leaf.device for leaf in tree_leaves((args, kwargs, outputs)) if isinstance(leaf, Tensor)}
    return f"{func} is between devices" if len(devices) > 1 else ""


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that the operator changes in place."""
    given = [(a, args[i] if i < len(args) else kwargs.get(a.name)) for i, a in enumerate(func._schema.arguments)]
    hidden = func.overloadpacket.__name__ in _BATCH_NORMS
    values = [value for a, value in given if (a.alias_info and a.alias_info.is_write) or hidden]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all records: cuBLAS keeps a workspace for every stream."""
    return torch.cuda.Stream(device)
