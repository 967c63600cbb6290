"""Which elements of a network's tensors hang on which: boolean structure, carried along a tape as zeros and ones.

Two things are carried. The *signal* of an element is 1 where it depends on the input. Its *presence* is 1 where it
can differ from 0. A sum has a signal where a part has one. A product has a signal where one factor has one and the
other factor is present. Every rule adds and multiplies non-negative numbers only, so nothing cancels. Autograd runs
the rules backwards: an element with a gradient reaches an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from prune_bench.path_rules import from_nothing, is_pointwise, spread
from prune_bench.tape import Ref, Step, Tape


class NotKnownError(ValueError):
    """Dependence cannot be read off a network's forward pass; the message says why."""


class _Cut(torch.autograd.Function):
    """1 where a signal is above ``floor`` and 0 elsewhere; the same for the gradient and ``gradient_floor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float, gradient_floor: float) -> Tensor:
        ctx.gradient_floor = gradient_floor
        return (x > floor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient > ctx.gradient_floor).to(gradient.dtype), None, None


def _cut(x: Tensor, floor: float = 0.0, gradient_floor: float = 0.0) -> Tensor:
    return cast("Tensor", _Cut.apply(x, floor, gradient_floor))


@dataclass
class _Laid:
    """What is carried for a piece of memory: as it was written last, or flat, element by element."""

    ref: Ref
    value: Tensor | None
    flat: Tensor | None = None

    def flattened(self) -> Tensor:
        if self.flat is None:
            assert self.value is not None
            dense = _contiguous(self.ref) and math.prod(self.ref.size) == self.ref.length
            empty = self.value.new_zeros(self.ref.length)
            self.flat = self.value.reshape(-1) if dense else _scattered(empty, self.value, self.ref)
        return self.flat


class Carried:
    """Zeros and ones for the elements of the tape's tensors; views see what is written through one another."""

    def __init__(self) -> None:
        self._memory: dict[int, _Laid] = {}

    def __contains__(self, ref: Ref) -> bool:
        return ref.storage in self._memory

    def get(self, ref: Ref) -> Tensor:
        """Of the window's shape."""
        laid = self._memory[ref.storage]
        if laid.value is not None and _same_window(laid.ref, ref):
            return laid.value
        flat, own = laid.flattened(), laid.ref.itemsize
        if own > ref.itemsize:  # the real view of complex numbers
            flat = flat.repeat_interleave(own // ref.itemsize)
        elif own < ref.itemsize:
            flat = flat.view(-1, ref.itemsize // own).sum(1)
        if _contiguous(ref) and math.prod(ref.size) == len(flat):
            return flat.view(ref.size)
        return flat.as_strided(ref.size, ref.stride, ref.offset)

    def put(self, ref: Ref, value: Tensor, around: Tensor | None = None) -> None:
        """Writes into the window; ``around`` is what the rest of memory holds that was not written to before."""
        value = value.expand(ref.size)
        if math.prod(ref.size) == ref.length and 0 not in ref.stride:
            self._memory[ref.storage] = _Laid(ref, value)
            return
        if ref.storage in self._memory:
            laid = self._memory[ref.storage]
            base = laid.flattened()
            if laid.ref.itemsize != ref.itemsize:
                whole = Ref(ref.storage, (ref.length,), (1,), 0, ref.itemsize, ref.length)
                base = self.get(whole)
        else:
            base = value.new_zeros(ref.length) if around is None else around
        self._memory[ref.storage] = _Laid(ref, None, _scattered(base, value, ref))


def _scattered(flat: Tensor, value: Tensor, ref: Ref) -> Tensor:
    # torch 2.14's `as_strided_scatter` has a wrong gradient: the complement of the right one.
    places = torch.arange(ref.length).as_strided(ref.size, ref.stride, ref.offset)
    return flat.index_copy(0, places.reshape(-1), value.reshape(-1))


def _same_window(a: Ref, b: Ref) -> bool:
    return (a.size, a.stride, a.offset, a.itemsize) == (b.size, b.stride, b.offset, b.itemsize)


def _contiguous(ref: Ref) -> bool:
    expected = 1
    for size, stride in zip(reversed(ref.size), reversed(ref.stride)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return ref.offset == 0


PRODUCTS: dict[str, tuple[str, str, str]] = {
    "mm": ("self", "mat2", ""),
    "bmm": ("self", "mat2", ""),
    "mv": ("self", "vec", ""),
    "dot": ("self", "tensor", ""),
    "vdot": ("self", "other", ""),
    "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"),
    "addmv": ("mat", "vec", "self"),
    "linear": ("input", "weight", "bias"),
    "convolution": ("input", "weight", "bias"),
    "mul": ("self", "other", ""),
    "addcmul": ("tensor1", "tensor2", "self"),
}
"""Operators that multiply: the names of the two factors and of what is added."""
_BARE: dict[str, Callable[..., Tensor]] = {
    "addmm": torch.mm, "baddbmm": torch.bmm, "addmv": torch.mv, "addcmul": torch.mul, "vdot": torch.dot,
    "mm": torch.mm, "bmm": torch.bmm, "mv": torch.mv, "dot": torch.dot, "mul": torch.mul,
    "linear": torch.nn.functional.linear,
}  # fmt: skip


@dataclass
class _Carrier:
    """Signal or presence, as rules read them."""

    replay: Replay
    presence: bool

    def of(self, value: Any) -> Tensor:
        return self.replay.presence_of(value) if self.presence else self.replay.signal_of(value)

    def has(self, value: Any) -> bool:
        return self.presence or (isinstance(value, Ref) and value in self.replay.signal)


class Replay:
    """Carries signal and presence along a tape.

    Args:
        tape: Of the network.
        weights: Presence of prunable weights by name, float32 0 or 1; gradients come back to them.
    """

    def __init__(self, tape: Tape, weights: Mapping[str, Tensor]) -> None:
        self.tape = tape
        self.signal, self.presence = Carried(), Carried()
        for name, ref in tape.parameters.items():
            # Biases are no source: where nothing else arrives, an element is as good as 0.
            constant = torch.zeros if "bias" in name.rpartition(".")[2] else torch.ones
            if name in weights or ref not in self.presence:
                self.presence.put(ref, weights[name] if name in weights else constant(ref.size))
        # Presence behind the input is asked for only where two signals are multiplied.
        self._gated = any(_multiplies_signals(step) for step in tape.steps)

    def run(self) -> Tensor:
        """How many output elements the input reaches; its gradient is positive at the weights on a path.

        Raises:
            NotKnownError: The tape holds an operator without a rule, or the network reads data to make a decision.
        """
        if self.tape.opaque:
            raise NotKnownError(self.tape.opaque)
        for carried in (self.signal, self.presence):
            carried.put(self.tape.inputs, torch.ones(self.tape.inputs.size))
        for step in self.tape.steps:
            self._take(step)
        reached = [self.signal.get(ref).sum() for ref in self.tape.outputs if ref in self.signal]
        return torch.stack(reached).sum() if reached else torch.zeros(())

    def saved_operations(self) -> float:
        """Operations of the pass that pruned weights save, where a weight is a factor of a product."""
        saved = 0.0
        for step in self.tape.steps:
            if not step.carrying:
                self._put(self.presence, step, self._presences(step))
            if step.flops and step.name in PRODUCTS:
                for factor in PRODUCTS[step.name][:2]:
                    ref = step.arguments[factor]
                    if ref in self.presence and (presence := self.presence.get(ref)).requires_grad:
                        saved += step.flops * (1 - int((presence > 0).sum()) / presence.numel())
        return saved

    def _take(self, step: Step) -> None:
        signals = self._signals(step) if step.carrying else None
        if not step.carrying or self._gated:
            # Weights are on a path by the signal that they pass on, or by what they make of weights alone.
            with torch.set_grad_enabled(not step.carrying):
                self._put(self.presence, step, self._presences(step))
        if signals is not None:
            self._put(self.signal, step, signals)

    def _put(self, carried: Carried, step: Step, found: Sequence[Tensor]) -> None:
        for ref, value in zip(step.outs, found):
            before = self.tape.initial.get(ref.storage) if carried is self.presence else None
            carried.put(ref, value, before)

    def _signals(self, step: Step) -> Sequence[Tensor]:
        if step.name in PRODUCTS:
            return [self._product_signal(step)]
        if step.name == "div":
            over, under = step.arguments["self"], step.arguments["other"]
            closed = self.presence_of(over) if self._has_signal(under) else torch.zeros(())
            return [_cut((self.signal_of(over) + closed * self.signal_of(under)).expand(step.outs[0].size))]
        found = spread(step, _Carrier(self, presence=False))
        if found is None:
            raise NotKnownError(f"there is no rule for the operator {step.op}")
        return found if is_pointwise(step) and _alone(step, self.signal) else [_cut(signal) for signal in found]

    def _presences(self, step: Step) -> Sequence[Tensor]:
        if step.name in PRODUCTS:
            first, second, added = (step.arguments.get(name) for name in PRODUCTS[step.name])
            product = _multiply(step, self.presence_of(first), self.presence_of(second))
            return [_cut(product + _aligned(step, self.presence_of(added)), 0.5 if step.flops else 0.0)]
        if step.name == "div":
            return [self.presence_of(step.arguments["self"]).expand(step.outs[0].size)]
        found = spread(step, _Carrier(self, presence=True))
        if found is None or torch.Tag.nondeterministic_seeded in step.op.tags:
            return [torch.ones(ref.size) for ref in step.outs]
        something = from_nothing(step)
        return [_cut(presence + something) for presence in found]

    def _product_signal(self, step: Step) -> Tensor:
        """A product between two cuts; a fast convolution rounds, so that one half is the floor there."""
        first, second, added = (step.arguments.get(name) for name in PRODUCTS[step.name])
        floor = 0.5 if step.flops else 0.0
        parts = []
        if self._has_signal(first):
            parts.append(_multiply(step, _cut(self.signal_of(first), 0.0, floor), self.presence_of(second)))
        if self._has_signal(second):
            parts.append(_multiply(step, self.presence_of(first), _cut(self.signal_of(second), 0.0, floor)))
        if self._has_signal(added):
            parts.append(_aligned(step, self.signal_of(added)).expand(step.outs[0].size))
        return _cut(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0], floor)

    def _has_signal(self, value: Any) -> bool:
        return isinstance(value, Ref) and value in self.signal

    def signal_of(self, value: Any) -> Tensor:
        """Of an argument; 0 for what does not depend on the input."""
        if self._has_signal(value):
            return self.signal.get(value)
        return torch.zeros(value.size if isinstance(value, Ref) else ())

    def presence_of(self, value: Any) -> Tensor:
        """Of an argument; constants and plain numbers are present where they are not 0."""
        if not isinstance(value, Ref):
            return torch.tensor(float(value is not None and value != 0))
        if value in self.presence:
            return self.presence.get(value)
        return torch.ones(value.size) if value.value is None else (value.value != 0).float()


def _alone(step: Step, carried: Carried) -> bool:
    return sum(ref in carried for _, ref in step.refs()) == 1


def _multiplies_signals(step: Step) -> bool:
    if step.name not in PRODUCTS and step.name != "div":
        return False
    first, second = PRODUCTS.get(step.name, ("self", "other"))[:2]
    return all(isinstance(ref, Ref) and ref.carrying for ref in (step.arguments[first], step.arguments[second]))


def _aligned(step: Step, added: Tensor) -> Tensor:
    """The bias of a convolution has one element a channel, which is no trailing dimension."""
    channels = step.name == "convolution" and added.ndim == 1
    return added.view(-1, *(1,) * (len(step.outs[0].size) - 2)) if channels else added


def _multiply(step: Step, a: Tensor, b: Tensor) -> Tensor:
    if step.name == "convolution":
        how = [step.arguments[n] for n in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]
        return torch.convolution(a, b, None, *how)
    return _BARE[step.name](a, b)
