"""Every random draw comes from a generator named by (seed, purpose): never from global state."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the same words give the same number on every machine."""
    words = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for one purpose of one seed: ``generator(0, "order", epoch)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@contextlib.contextmanager
def draws_put_back(device: torch.device) -> Iterator[None]:
    """Puts the global generators of Python, NumPy and torch (the CPU's and ``device``'s) back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
