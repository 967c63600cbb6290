"""A machine with GPUs, as far as ``nvidia-smi`` and profiles tell."""

from prune_bench.config import make_experiment
from prune_bench.device_profile import DeviceProfile, StepTime, local_versions
from prune_bench.sweep.pack_sizes import network_mark
from tests.sweep.test_packs import TINY

H100 = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111)"
GIB = 2**30


def step(lanes, ms, *, batch=32, network=None, **others):
    network = network or network_mark(make_experiment(TINY), (1, 8, 8), 4)
    values = {
        "precision": "float32",
        "layout": "contiguous",
        "own": True,
        "replayed_ms": None,
        "peak_bytes": lanes * GIB,
    }
    return StepTime(network=network, batch=batch, lanes=lanes, plain_ms=ms, **(values | others))


def profile(*steps, replay=None, versions=None):
    (own,) = [versions] if versions else local_versions()
    return DeviceProfile(
        versions=own, when="2026-11-25", memory_bytes=10 * GIB, replay={} if replay is None else replay, steps=steps
    )
