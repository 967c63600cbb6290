"""In what arithmetic a network's passes are done; weights, sums, losses and gradients stay float32 throughout.

Scores of saliency methods, tests and validations are always taken in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from prune_bench.config import Precision

_MATRICES: Any = torch.backends.cuda.matmul
_CONVOLUTIONS: Any = getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)
_RECURRENT: Any = getattr(torch.backends.cudnn, "rnn", torch.backends.cudnn)
# torch 2.9 has other switches than those before it, and refuses to be asked by the old ones once the new are used.
_NEW = hasattr(_CONVOLUTIONS, "fp32_precision")
_SWITCHES = [
    (home, *(("fp32_precision", ("ieee", "tf32")) if _NEW else ("allow_tf32", (False, True))))
    for home in (_MATRICES, _CONVOLUTIONS, _RECURRENT)
]


def run_in(precision: Precision, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``network(x)``; in ``bfloat16`` convolutions and matrix products are taken in that (torch.autocast).

    The context is one forward pass and no more: what autocast keeps of cast weights must not outlive an update of
    them, nor a backward pass run inside it.

    Args:
        precision: The arithmetic.
        network: Gives logits.
        x: Images of the weights' dtype.

    Returns:
        The logits, of the images' dtype; float32 if the inputs are integers.
    """
    if precision != "bfloat16":
        return network(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        outputs = network(x)
    return outputs.to(x.dtype if x.is_floating_point() else torch.float32)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside it cuDNN takes algorithms that give the same bits every time, and does not choose them by speed.

    On a CPU nothing changes. ``torch.backends.cudnn.flags`` would do the same, and raises inside :func:`products`.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Inside it a GPU's float32 products are rounded to TF32 if ``precision`` says so, and are whole if not.

    It is to hold forward and backward pass; by itself torch rounds those of convolutions and recurrent layers, and
    not those of matrices. Inside it torch's older questions (``get_float32_matmul_precision``,
    ``cudnn.flags``) raise; what asks them, such as a compiler, is to be run outside.
    """
    before = [getattr(home, name) for home, name, _ in _SWITCHES]
    for home, name, values in _SWITCHES:
        setattr(home, name, values[precision == "tf32"])
    try:
        yield
    finally:
        for (home, name, _), value in zip(_SWITCHES, before):
            setattr(home, name, value)
