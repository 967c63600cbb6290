"""A cell is one process, whatever a scheduler or a launcher has set: no variable of theirs changes or stops it."""

import os
import signal

import pytest
import torch
from lightning.fabric.utilities import rank_zero

from prune_bench import parallel
from prune_bench.files import LocalFiles
from prune_bench.sweep.executors.ranks import launch
from prune_bench.training import Checkpoint
from tests.sweep.test_sweep import run
from tests.training.test_checkpoint import STEPS, training

ENVIRONMENTS = {
    "slurm, srun": {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3", "SLURM_NODEID": "0", "SLURM_NODELIST": "node1", "SLURM_STEP_ID": "0",
    },
    "slurm, two nodes": {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    },
    "slurm, one task": {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
    },
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "3", "GROUP_RANK": "1", "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "29500",
    },
    "lsf": {
        "LSB_JOBID": "12345", "LSB_DJOB_RANKFILE": "/no/such/file", "JSM_NAMESPACE_SIZE": "4",
        "JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_LOCAL_RANK": "3",
    },
    "kubeflow": {
        "KUBERNETES_PORT": "tcp://10.0.0.1:443", "MASTER_ADDR": "master-0", "MASTER_PORT": "23456",
        "WORLD_SIZE": "4", "RANK": "3",
    },
    "mpi": {
        "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3",
        "PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "3",
    },
    "tpu": {
        "TPU_NAME": "local", "XRT_TPU_CONFIG": "tpu_worker;0;10.0.0.1:8470", "PJRT_DEVICE": "TPU",
        "TPU_WORKER_ID": "1", "TPU_PROCESS_BOUNDS": "1,2,1", "CLOUD_TPU_TASK_ID": "1",
    },
    "nodes by hand": {"NODE_RANK": "nine", "LOCAL_RANK": "three", "MASTER_PORT": "none"},
    "Lightning's own defaults": {
        "PL_TRAINER_MAX_STEPS": "1", "PL_TRAINER_NUM_NODES": "2", "PL_TRAINER_FAST_DEV_RUN": "1",
        "PL_TRAINER_PRECISION": "bf16-true",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed():
    return training()[0]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_training_is_the_same_whatever_the_environment_says(name, monkeypatch, tmp_path, undisturbed):
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM)}
    for variable, value in ENVIRONMENTS[name].items():
        monkeypatch.setenv(variable, value)
    # Lightning takes its rank from the environment when it is imported.
    monkeypatch.setattr(rank_zero.rank_zero_only, "rank", 3)
    left = dict(os.environ)
    checkpoint = Checkpoint(files=LocalFiles(tmp_path), name="t.ckpt", every=0.0)
    (trained,) = training(checkpoint=checkpoint)
    assert trained.curves == undisturbed.curves
    for own, other in zip(trained.network.parameters(), undisturbed.network.parameters()):
        assert torch.equal(own, other)
    assert (tmp_path / "t.ckpt").is_file()
    assert dict(os.environ) == left
    assert {s: signal.getsignal(s) for s in before} == before  # nobody requeues a job of the scheduler's


def test_a_training_that_was_cut_off_under_slurm_goes_on(monkeypatch, tmp_path, undisturbed, cut_off):
    for variable, value in ENVIRONMENTS["slurm, srun"].items():
        monkeypatch.setenv(variable, value)
    checkpoint = Checkpoint(files=LocalFiles(tmp_path), name="t.ckpt", every=0.0)
    cut_off(2 * STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        training(checkpoint=checkpoint)
    cut_off(None)
    (trained,) = training(checkpoint=checkpoint)
    assert cut_off.steps == 2 * STEPS
    assert trained.curves == undisturbed.curves


@pytest.mark.parametrize("place", ["cuda:1", "cpu"])
def test_nccl_is_told_its_gpu_and_gloo_needs_none(place, monkeypatch):
    said = {}
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: said.update(set=device))
    monkeypatch.setattr(
        parallel.distributed, "init_process_group", lambda backend, **how: said.update(backend=backend, **how)
    )
    monkeypatch.setattr(parallel, "_ranks", 1)
    device = torch.device(place)
    parallel.become_rank(1, 2, device, "file:///nowhere")
    if place == "cpu":
        assert said["backend"] == "gloo"
        assert said["device_id"] is None
    else:
        assert said["backend"] == "nccl"
        assert said["device_id"] == said["set"] == device


ALL = {variable: value for environment in ENVIRONMENTS.values() for variable, value in environment.items()}
ALL |= ENVIRONMENTS["torchrun"]  # Lightning cannot even be imported where a rank is no number


def train_in_a_rank(device):
    """With its process group, which no variable may describe either."""
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    assert total.item() == torch.distributed.get_world_size() == 2
    training()


@pytest.mark.slow
def test_ranks_meet_by_what_they_are_told_alone(monkeypatch):
    for variable, value in ALL.items():
        monkeypatch.setenv(variable, value)
    launch(train_in_a_rank, ["cpu", "cpu"])


@pytest.mark.slow
@pytest.mark.parametrize("environment", [ENVIRONMENTS["slurm, srun"], ALL])
def test_a_sweeps_workers_are_no_tasks_of_a_schedulers(environment, monkeypatch, tmp_path):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    words = ["prune_at=[init]", "methods={cts: {steps: 3, batch_size: 32}}", "densities=[0.5]", "variants=[original]"]
    code, told = run(tmp_path, *words, "executor=processes", "devices.accelerator=cpu", "devices.count=1")
    assert code == 0, told
