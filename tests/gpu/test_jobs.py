"""Every kind of work on a pretended GPU: what a real one would refuse, wait for, or give with other bits."""

import pytest
import torch

from tests.gpu.compare import same_bits
from tests.gpu.jobs import JOBS, STEPPING, Place

# Operators whose result a GPU may give with other bits from run to run, and why they do no harm where they are used.
HARMLESS = {
    ("sort", "pruners/baselines.py training_step"): "sorts ranks, which are distinct",
    ("index_put_", "ranking.py _ranks"): "writes a permutation: each place once",
    ("index_put_", "ranking.py refine"): "writes by a mask: each place once",
    ("index_put_", "pruners/baselines.py training_step"): "writes a permutation: each place once",
    ("cumsum", "ties.py groups_of"): "sums whole numbers",
    ("max_pool2d_with_indices_backward", "training/descent.py step"): "VGG's windows do not overlap: one term a sum",
}
# Autocast's casts are made in C++, which takes the pretended GPU for no GPU.
EXACT = [name for name in JOBS if "bfloat16" not in name]


@pytest.mark.parametrize("job", JOBS)
def test_nothing_mixes_devices(done, job):
    if done(job).error is not None:
        raise done(job).error
    assert done(job).seen.faults == []


@pytest.mark.parametrize("job", STEPPING)
def test_no_step_waits(done, job):
    assert done(job).steps >= 2
    assert done(job).seen.waits_in_steps == {}


@pytest.mark.parametrize("job", EXACT)
def test_bits_of_the_pretended_gpu_are_the_cpus(done, layout_of_a_gpu, job):
    assert same_bits(done(job).result, JOBS[job].do(Place(torch.device("cpu"))))


@pytest.mark.parametrize("job", JOBS)
def test_scattering_operators(done, job):
    assert done(job).seen.scattering <= HARMLESS.keys()
