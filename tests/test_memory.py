"""The C library is told to keep freed memory; where it is another library, nothing happens."""

import ctypes
import platform
import subprocess
import sys

import pytest

from prune_bench.memory import keep_freed_memory

STEPS = """
import resource, sys, torch
from prune_bench.config import Recipe
from prune_bench.mask import Mask
from prune_bench.memory import keep_freed_memory
from prune_bench.models import build_model
from prune_bench.packing import pack
from prune_bench.training.descent import Descent
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
random = torch.Generator().manual_seed(0)
shape = {"in_channels": 1, "image_size": 8, "num_classes": 10, "generator": random}
network = pack([build_model("resnet8", {"width": 8}, **shape) for _ in range(8)])
descent = Descent(network, Mask.full(network), Recipe(), lanes=8)
x, y = torch.randn(64, 8, 8, 8), torch.zeros(8, 64, dtype=torch.long)
def faults():
    for _ in range(10):
        descent.step(x, y)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(-faults() + faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_steps_do_not_pay_for_their_memory_again_and_again():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True).stdout)
        for how in ("keep", "give back")
    )
    assert kept < given_back / 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
