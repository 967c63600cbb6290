"""One forward pass written down: which operators ran, on which memory, and how many operations each took.

The pass runs on the CPU in float32, whatever the network's own device, so that what is read off it is the same
everywhere. Nothing has to be traceable: the network runs as it is, and torch's dispatcher reports every operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from prune_bench.hold import released_copy
from prune_bench.mask import prunable_weights
from prune_bench.transparent import outputs


@dataclass(frozen=True)
class Ref:
    """A tensor of the pass: a window on a piece of memory."""

    storage: int
    """Names the memory; views share it."""
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    itemsize: int
    """Bytes of one element; a complex tensor and its real view differ in it."""
    length: int
    """Elements of ``itemsize`` bytes that the memory holds."""
    carrying: bool = False
    """Whether the memory depends on the input."""
    value: Tensor | None = field(default=None, compare=False)
    """A copy of a constant; None for what depends on the input or on parameters."""


@dataclass(frozen=True)
class Step:
    """One operator call, with :class:`Ref` in place of every tensor."""

    op: Any
    arguments: dict[str, Any]
    """By the names of the operator's schema."""
    outs: tuple[Ref, ...]
    carrying: bool
    """Whether an argument depends on the input."""
    flops: int
    open: Tensor | None = None
    """Of a softmax: 0.0 where a constant mask closes an element, with minus infinity or a huge number; else 1.0."""

    @property
    def name(self) -> str:
        """The operator's name without its overload, for example ``add``; ``add_`` is ``add`` as well."""
        return base_name(self.op)

    def refs(self) -> Iterator[tuple[str, Ref]]:
        """Every tensor argument, with its argument's name."""
        for name, value in self.arguments.items():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, Ref):
                    yield name, item


@dataclass
class Tape:
    """What one forward pass did."""

    batch: int
    """Samples that went through."""
    inputs: Ref
    parameters: dict[str, Ref]
    outputs: list[Ref] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    initial: dict[int, Tensor] = field(default_factory=dict)
    """Of constant memory that is written to later: where it was not 0 before, flat, float32 0 or 1."""
    flops: int = 0
    """Of the whole pass, a multiply-add counted as two."""
    opaque: str = ""
    """Why dependence cannot be read off it; empty where it can."""


def base_name(op: Any) -> str:
    """``aten::relu_`` and ``aten::relu`` are both ``relu``."""
    return str(op._schema.name).split("::")[-1].rstrip("_")


def record(network: nn.Module, input_shape: Sequence[int]) -> Tape:
    """Runs a private copy of the network once in evaluation mode, on a sample of ones, and writes down what it does.

    Batch normalisation is left out and dropout never drops: both pass every element on, and neither needs more than
    one sample. Attention is the plain product of matrices, and recurrent layers are their cells.

    Args:
        network: Left as it is, and so are the global random generators.
        input_shape: Shape of one sample, without the batch dimension.

    Raises:
        Exception: Whatever the network's forward pass raises, with one sample and with two.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        private = released_copy(network).cpu().float().eval()
        try:
            return _record(private, torch.ones(1, *input_shape))
        except Exception:
            # `squeeze` and batch statistics by hand can need a second sample.
            return _record(private, torch.ones(2, *input_shape))


def _record(network: nn.Module, inputs: Tensor) -> Tape:
    # With gradients, for without them torch has kernels that its dispatcher does not see, and numpy is let in.
    inputs = inputs.requires_grad_().clone()
    recorder = _Recorder(network, inputs)
    recorder.tape.outputs = [recorder.ref(tensor) for tensor in outputs(network, inputs, recorder)]
    return recorder.tape


class _Recorder(TorchDispatchMode):
    """Writes every operator that touches the input or a parameter onto a tape."""

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.carrying: set[int] = set()
        self.generic: set[int] = set()
        self._alive: list[Any] = []  # memory must not be handed out again while its number is in use
        # A wrapper puts its own name before those of the network that masks go by.
        parameters = {**dict(network.named_parameters(remove_duplicate=False)), **prunable_weights(network)}
        for parameter in parameters.values():
            self.generic.add(_storage(parameter))
        self.carrying.add(_storage(inputs))
        self.tape = Tape(len(inputs), self.ref(inputs), {name: self.ref(p) for name, p in parameters.items()})

    def ref(self, tensor: Tensor) -> Ref:
        """A window on memory that stays reserved until the pass is over; constants are copied."""
        memory = tensor.untyped_storage()
        self._alive.append(memory)
        carrying = memory._cdata in self.carrying
        known = carrying or memory._cdata in self.generic
        return Ref(
            storage=memory._cdata,
            size=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            offset=int(tensor.storage_offset()),
            itemsize=tensor.element_size(),
            length=memory.nbytes() // tensor.element_size(),
            carrying=carrying,
            value=None if known else tensor.detach().clone(),
        )

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, Tensor)]
        made_new = base_name(func) in _FACTORIES
        known = [] if made_new else [t for t in tensors if self._follows(t)]
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not known and not random:
            found = func(*args, **kwargs)
            self.tape.flops += _flops(func, args, kwargs, found)
            return found
        carrying = not made_new and any(_storage(t) in self.carrying for t in tensors)
        if carrying and (base_name(func) in _READS_DATA or _index_by_mask(func, tensors, self.carrying)):
            self.tape.opaque = self.tape.opaque or f"{func} makes shapes or decisions depend on the data"
        arguments = self._bound(func, args, kwargs)
        if func._schema.is_mutable:
            self._remember_constants(tensors)
        before = {_storage(t) for t in tensors}
        found = func(*args, **kwargs)
        flops = _flops(func, args, kwargs, found)
        self.tape.flops += flops
        outs = [t for t in _flat((found,)) if isinstance(t, Tensor)]
        # A view needs no step: it is a window on memory that is known already.
        if outs and not func._schema.is_mutable and all(_storage(t) in before for t in outs):
            return found
        for tensor in outs:
            (self.carrying if carrying else self.generic).add(_storage(tensor))
        if outs and base_name(func) not in _GEOMETRY_IN_PLACE:
            refs = tuple(self.ref(tensor) for tensor in outs)
            closed = _unmasked(tensors[0], arguments["dim"]) if "softmax" in base_name(func) else None
            self.tape.steps.append(Step(func, arguments, refs, carrying, flops, closed))
        return found

    def _follows(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self.carrying or _storage(tensor) in self.generic

    def _bound(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = [argument.name for argument in func._schema.arguments]
        given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        given |= dict(zip(names, args)) | dict(kwargs)
        return {name: self._seen(given[name]) for name in names if name in given}

    def _seen(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.ref(value)
        return [self._seen(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _remember_constants(self, tensors: list[Tensor]) -> None:
        """A buffer of zeros that outputs are written into is a constant until then."""
        for tensor in tensors:
            place = _storage(tensor)
            if not self._follows(tensor) and place not in self.tape.initial:
                length = tensor.untyped_storage().nbytes() // tensor.element_size()
                whole = tensor.detach().as_strided((length,), (1,), 0)
                self.tape.initial[place] = (whole != 0).float()


_READS_DATA = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "nonzero_static", "masked_select", "bincount"}
_READS_DATA |= {"_unique", "_unique2", "unique_dim", "unique_consecutive"}
_FACTORIES = {f"new_{kind}" for kind in ("zeros", "ones", "full", "empty", "empty_strided")}
_FACTORIES |= {f"{kind}_like" for kind in ("zeros", "ones", "full", "empty", "rand", "randn", "randint")}
_GEOMETRY_IN_PLACE = {"transpose", "t", "squeeze", "unsqueeze", "swapaxes", "swapdims", "as_strided"}


def _index_by_mask(func: Any, tensors: list[Tensor], carrying: set[int]) -> bool:
    masks = [t for t in tensors[1:] if t.dtype in (torch.bool, torch.uint8)]
    return base_name(func) == "index" and any(_storage(mask) in carrying for mask in masks)


def _unmasked(scores: Tensor, dim: int) -> Tensor:
    """Scores of a network differ by far less than a thousand; masks are minus infinity or a huge number."""
    far = scores < scores.amax(dim, keepdim=True) - 1000 if scores.ndim else torch.zeros((), dtype=torch.bool)
    return (~far).float()


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _flops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Any) -> int:
    count = flop_registry.get(func._overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=found))
