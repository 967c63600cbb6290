"""A pretended GPU: tensors that give ``cuda:0`` as their device and hold their numbers on the CPU.

FakeTensorMode cannot stand in for it. FakeTensorMode runs no backward pass on ``cuda`` without a driver, holds no
values, and accepts a CPU generator for a draw on the GPU. Here C++ takes a tensor for a ``meta`` one, whose backward
pass autograd runs in the calling thread. Python sees ``cuda:0``, and operators run on the CPU tensors inside.

Not seen: autocast's casts, the CUDA branches of C++ (cuDNN, checks of fused kernels), streams, graphs, memory, time.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map, tree_map_only

from tests.gpu.calls import Call
from tests.gpu.driver import Driver, pretended_driver
from tests.gpu.rules import check
from tests.gpu.seen import Seen

CPU, META = torch.device("cpu"), torch.device("meta")


class Pretended(Tensor):
    """A tensor of a pretended GPU.

    Attributes:
        inner: The numbers, on the CPU.
        place: The GPU.
    """

    inner: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, place: torch.device) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=META,
        )
        made.inner, made.place = inner, place
        return made

    device = property(lambda self: self.place)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor of a pretended GPU is used outside of its GPU")

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"Pretended({self.inner!r})"

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other: Pretended) -> None:
        Tensor.data.__set__(self, other)  # refuses what is not of a GPU; changes sizes and strides
        self.inner, self.place = other.inner, other.place

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        # By this method modules know that ``parameter.data = other`` cannot move the numbers, and swap tensors.
        return ["inner"], self.place

    @classmethod
    def __tensor_unflatten__(cls, parts: dict[str, Tensor], place: torch.device, *_: Any) -> Pretended:
        return cls(parts["inner"], place)

    def get_device(self) -> int:
        return self.place.index

    def tolist(self) -> Any:
        Gpu.current.seen.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        Gpu.current.seen.fault(TypeError(f"can't convert {self.place} device type tensor to numpy"))

    __array__ = numpy

    def __reduce_ex__(self, protocol: int) -> Any:
        Gpu.current.seen.wait("device->host copy of a pickle")
        return read_back, (self.inner.detach().clone(), self.place.index, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        made = self.detach().clone()
        is_parameter = isinstance(self, torch.nn.Parameter)
        made = (
            torch.nn.Parameter(made, self.requires_grad) if is_parameter else made.requires_grad_(self.requires_grad)
        )
        made.grad = copy.deepcopy(self.grad, memo)
        memo[id(self)] = made
        return made


def read_back(inner: Tensor, index: int, requires_grad: bool) -> Tensor:
    """A tensor out of a file: on the GPU that it came from, unless ``torch.load`` is asked for another place."""
    asked = Gpu.current.map_location
    place = torch.device("cuda", index) if asked is None else torch.device(asked)
    return (inner if place == CPU else Pretended(inner, place)).requires_grad_(requires_grad)


class Gpu(TorchDispatchMode):
    """Runs the operators.

    Attributes:
        seen: What has happened so far.
        driver: The driver beneath.
        generator: Device of the generator of the call that runs now, None without one.
        map_location: Of the ``torch.load`` that runs now.
    """

    current: Gpu

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.seen, self.driver = Seen(), driver
        self.generator: torch.device | None = None
        self.map_location: Any = None

    @property
    def place(self) -> torch.device:
        """The current GPU."""
        return torch.device("cuda", self.driver.current)

    def loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """``torch.load`` that knows pretended tensors."""

        def loaded(file: Any, map_location: Any = None, **how: Any) -> Any:
            on_gpu = _kind(map_location) == "cuda"
            self.map_location = CPU if on_gpu else map_location
            with torch.serialization.safe_globals([read_back]):
                found = load(file, self.map_location, **how)
            return tree_map_only(Tensor, lambda tensor: tensor.to(map_location), found) if on_gpu else found

        return loaded

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call.of(func, args, kwargs or {}, self.generator)
        target = call.target(self.place)
        check(call, target, self.seen)
        if target.type == "cuda":
            torch.cuda._lazy_init()
        wrappers = {id(t.inner): t for t in call.on_gpu}
        hosts = {id(t) for t in call.on_host}

        def inside(leaf: Any) -> Any:
            if isinstance(leaf, Pretended):
                assert leaf.stride() == leaf.inner.stride(), "C++ has changed a tensor that is only pretended"
                return leaf.inner
            return CPU if isinstance(leaf, torch.device) else leaf

        def outside(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if (known := wrappers.get(id(leaf))) is not None:
                assert known.shape == leaf.shape, f"{func} changes a shape in place, which cannot be pretended"
                return known
            # What is moved but not changed must still be another tensor.
            is_host = target.type != "cuda" or (id(leaf) in hosts and call.name != "_to_copy")
            return leaf if is_host else Pretended(leaf, target)

        args, kwargs = tree_map(inside, (call.args, call.kwargs))
        return tree_map(outside, func(*args, **kwargs))


class Calls(TorchFunctionMode):
    """What must be seen or changed before C++ reads a call's arguments."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self._placed(func, args, dict(kwargs or {}))
        if _kind(kwargs.get("device")) == "meta":
            with _disable_current_modes():  # a tensor that Python wants without numbers
                return func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return self.gpu.seen.pin(args[0])
        if func is Tensor.is_pinned:
            return self.gpu.seen.is_pinned(args[0])
        if func is Tensor.new_tensor and args[0].is_cuda:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            func, args = torch.tensor, args[1:]
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _kind(kwargs.get("device")) == "cuda":
            # C++ asks the driver before any mode; it too makes the tensor on the CPU and copies it.
            device, dtype = kwargs.pop("device"), kwargs.get("dtype")
            made = args[0] if isinstance(args[0], Tensor) else func(*args, **kwargs)
            return made.to(device=device, dtype=dtype or made.dtype)
        if (generator := kwargs.get("generator")) is None:
            return func(*args, **kwargs)
        # Below Python a generator is another object: the device it gives is noted here.
        before, self.gpu.generator = self.gpu.generator, generator.device
        try:
            return func(*args, **kwargs)
        finally:
            self.gpu.generator = before

    def _placed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments with ``cuda`` as ``cuda:index``, and another tensor's device and dtype instead of it."""
        if "device" in kwargs:
            kwargs["device"] = self._indexed(kwargs["device"])
        if func is Tensor.cuda:
            return args[:1], {"device": self._indexed("cuda")}
        if func is Tensor.to and len(args) > 1:
            if isinstance(other := args[1], Pretended):
                return args[:1], {"device": other.device, "dtype": other.dtype} | kwargs
            return (args[0], self._indexed(args[1]), *args[2:]), kwargs
        return args, kwargs

    def _indexed(self, device: Any) -> Any:
        return self.gpu.place if _kind(device) == "cuda" and torch.device(device).index is None else device


def _kind(device: Any) -> str | None:
    return torch.device(device).type if isinstance(device, (str, torch.device)) else None


@contextlib.contextmanager
def pretended_gpu(count: int = 1) -> Iterator[Gpu]:
    """Pretends GPUs; nothing remains of it afterwards, and no tensor of it may be used then.

    Args:
        count: How many.
    """
    with pretended_driver(count) as driver:
        Gpu.current = Gpu(driver)
        load = mock.patch.object(torch, "load", Gpu.current.loading(torch.load))
        with load, Gpu.current, Calls(Gpu.current):
            yield Gpu.current
