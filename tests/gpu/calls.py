"""An operator and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Call:
    """An operator and what it is given.

    Attributes:
        func: The operator.
        args: Arguments.
        kwargs: Named arguments.
        on_gpu: Tensors among both that are on a GPU.
        on_host: All other tensors among both.
        generator: Device of the generator that was given, None without one.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    on_gpu: list[Tensor]
    on_host: list[Tensor]
    generator: torch.device | None

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: Any, generator: torch.device | None) -> Call:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu, on_host = [t for t in tensors if t.is_cuda], [t for t in tensors if not t.is_cuda]
        drawn = generator if kwargs.get("generator") is not None else None
        return cls(func, args, kwargs, on_gpu, on_host, drawn)

    @property
    def name(self) -> str:
        """Name without the overload's."""
        return self.func.overloadpacket.__name__

    def target(self, current: torch.device) -> torch.device:
        """Device of the results.

        Args:
            current: The current GPU.
        """
        own = self.on_gpu[0].device if self.on_gpu else None
        asked = self.kwargs.get("device")
        if asked is None:
            return own or torch.device("cpu")
        asked = torch.device(asked)
        # To C++ a pretended tensor is a meta one, and so is what it makes for one.
        return own or current if asked.type == "meta" else asked
