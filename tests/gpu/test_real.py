"""The same jobs on a real GPU: ``pytest -m gpu``, skipped where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from tests.gpu.compare import assert_close
from tests.gpu.jobs import JOBS, Place

pytestmark = pytest.mark.gpu
# Searches by concrete masks draw their noise on the device, which is another one on the CPU.
COMPARABLE = (
    "training x1 float32", "training x3 float32", "training vgg11", "training x1 resumed", "ltr x1", "ltr x2",
    "snip rounds", "grasp", "synflow",
)  # fmt: skip


@contextlib.contextmanager
def waits_raise() -> Iterator[None]:
    """Inside it whatever has the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_and_none_of_its_steps_waits(cuda, job):
    place = Place(cuda, waits_raise)
    JOBS[job].do(place)
    assert place.steps >= 2 or not JOBS[job].steps


@pytest.mark.parametrize("job", COMPARABLE)
def test_a_job_gives_what_the_cpu_gives_in_float64(cuda, job):
    found, wanted = (JOBS[job].do(Place(device, dtype=torch.float64)) for device in (cuda, torch.device("cpu")))
    assert_close(found, wanted, tolerance=1e-9)


def test_a_wait_in_a_step_is_an_error(cuda):
    with waits_raise(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=cuda).item()
