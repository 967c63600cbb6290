"""Stages that end in odd ways: each costs its own cells, and never the sweep."""

import os
import signal
import time

import pytest
import torch

import prune_bench as pb
from prune_bench.sweep import compute
from tests.sweep.test_sweep import run

WORDS = ("prune_at=[init]", "methods={snip: {}, magnitude: {}}", "variants=[original]", "train.pack=1")


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Odd(BaseException):
    pass


def leave(*args):
    raise SystemExit(3)


def stay_mute(*args):
    raise MuteError


def be_odd(*args):
    raise Odd("\ud800 [/bold]")


def ask_for_a_gpu(*args):
    raise AssertionError("Torch not compiled with CUDA enabled")


def rest_in_lightning(*args):
    from lightning.pytorch import LightningModule

    from prune_bench.training import fit

    class Leaving(LightningModule):
        def training_step(self, batch, index):
            raise SystemExit(3)

        def configure_optimizers(self):
            return None

    fit(Leaving(), [1], epochs=1, device=torch.device("cpu"))


@pytest.mark.parametrize("odd", [leave, stay_mute, be_odd, ask_for_a_gpu, rest_in_lightning])
def test_an_odd_end_is_a_failure_of_its_own_cells(tmp_path, monkeypatch, odd):
    real = compute._HOW["ranking"]
    monkeypatch.setitem(
        compute._HOW,
        "ranking",
        lambda stages, *rest: (odd if stages[0].spec["method"] == "snip" else real)(stages, *rest),
    )
    code, words = run(tmp_path, *WORDS)
    frame = pb.load_results(tmp_path)
    assert code == 1
    assert set(frame[frame.method == "snip"].status) == {"failed"}
    assert set(frame[frame.method == "magnitude"].status) == {"done"}
    assert "failed" in words


def test_ctrl_c_still_ends_a_sweep_of_this_process(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(compute._HOW, "ranking", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *WORDS)


def test_a_worker_that_gets_sigterm_has_died_and_its_job_is_tried_again(tmp_path):
    from prune_bench.config import Limits
    from prune_bench.sweep.executors import Job
    from prune_bench.sweep.executors.processes import ProcessExecutor
    from prune_bench.sweep.stages import Stage

    stage = Stage("state", "a state", {"name": "nothing", "seed": 0})
    job = Job(
        lanes=(stage,), pack=(stage.key,), seeds=(0,), store=str(tmp_path), device="cpu", threads=1, limits=Limits()
    )
    executor = ProcessExecutor(["cpu"])
    try:
        executor.submit(job, 0).result(timeout=120)  # it is there, and listens
        (worker,) = executor._pools[0]._processes
        os.kill(worker, signal.SIGTERM)
        end = time.monotonic() + 30
        while not executor._pools[0]._broken and time.monotonic() < end:
            time.sleep(0.05)
        assert executor._pools[0]._broken
        assert list(executor.submit(job, 0).result(timeout=120).failed) == [stage.key]
    finally:
        executor.close()
