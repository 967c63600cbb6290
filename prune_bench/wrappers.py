"""Networks as people hold them: inside DataParallel or DistributedDataParallel, or compiled."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from prune_bench.errors import PruneBenchError


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and ``torch.compile``, however they are nested."""
    # torch.compile has imported this module if anything was compiled; to import it here would cost a second.
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    while True:
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        elif dynamo is not None and isinstance(network, dynamo.OptimizedModule):
            network = cast("nn.Module", network._orig_mod)
        else:
            return network


def as_logits(network: nn.Module, args: Any, outputs: Any) -> Tensor | None:
    """A forward hook that replaces what a network gives by its logits, if that is more than one tensor.

    Logits are the attribute or the key ``logits``, the only tensor of a mapping, or the first item of a tuple or
    list. Auxiliary outputs and states are left out.

    Args:
        network: The module that ran.
        args: What it was given; not looked at.
        outputs: What it gave.

    Returns:
        The logits, or None to leave a tensor as it is.

    Raises:
        PruneBenchError: There are no logits in it.
    """
    if isinstance(outputs, Tensor):
        return None
    found = getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, Mapping):
        tensors = [value for value in outputs.values() if isinstance(value, Tensor)]
        found = outputs.get("logits", tensors[0] if len(tensors) == 1 else None)
    elif found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if isinstance(found, Tensor):
        return found
    keys = f" with the keys {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise PruneBenchError(
        f"{type(network).__name__} gives a {type(outputs).__name__}{keys}, in which no logits were found: give a "
        "tensor [B, classes], a tuple that begins with it, or an object or mapping with 'logits'"
    )
