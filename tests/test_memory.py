"""The C library is told to keep freed memory; where it is another library, nothing happens."""

import ctypes
import platform
import subprocess
import sys

import pytest

from prune_bench.memory import keep_freed_memory

STEPS = """
import resource, sys
import torch
from prune_bench.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
layers = [torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(4)]
network, x = torch.nn.Sequential(*layers, torch.nn.ReLU()), torch.randn(64, 64, 8, 8)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(12):
    before = faults() if step == 2 else (before if step > 2 else 0)
    network(x).sum().backward()
print(faults() - before)
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
