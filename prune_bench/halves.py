"""Networks in half precision are scored in float32: in float16 most scores round to equal numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_HALVES = (torch.float16, torch.bfloat16)


def widen_(network: nn.Module) -> nn.Module:
    """Makes float16 and bfloat16 parameters and buffers float32, in place, and widens the inputs as they come.

    Args:
        network: A network that the caller owns alone. One without any such tensor stays as it is.

    Returns:
        The network itself.
    """
    if any(t.dtype in _HALVES for t in (*network.parameters(), *network.buffers())):
        network._apply(_wide)
        network.register_forward_pre_hook(_widen_inputs)
    return network


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALVES else value


def _widen_inputs(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_wide(value) for value in inputs)
