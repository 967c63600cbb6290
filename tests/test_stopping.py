"""Signals that ask a sweep to end: workers end, claims are free, a line says how to go on, and nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from prune_bench.sweep.store import Store
from tests.sweep.faults import content

WORDS = (
    "model=lenet300_100", "methods=[snip]", "densities=[0.5]", "train.epochs=4", "train.milestones=[1]",
    "train.batch_size=4", "wandb.mode=disabled", "devices.accelerator=cpu", "devices.count=2", "seeds=[0,1,2,3]",
    "train.pack=1",
)  # fmt: skip
FILE = "name: stopping\ndata: {name: synthetic, samples: 8000, image_size: 8}\n"


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "stopping.yaml"
    path.write_text(FILE)
    return path


def begin(experiment, *words, wrapper=()):
    folder = experiment.parent / "run"
    sweep = (sys.executable, "-m", "prune_bench.cli", "sweep", str(experiment))
    command = [*wrapper, *sweep, f"output={folder}", *WORDS, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell that runs these tests in the background has Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (folder / "store" / "ticket").exists():  # from here on it is in its trainings
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the sweep does not begin"
        time.sleep(0.05)
    time.sleep(0.3)
    return process, folder


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("number", "executor"),
    [
        (signal.SIGTERM, "processes"),
        (signal.SIGHUP, "inline"),
        pytest.param(signal.SIGUSR1, "inline", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "processes", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "processes", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("to", ["driver", "group"])
def test_a_signal_ends_a_sweep_tidily(experiment, number, executor, to):
    process, folder = begin(experiment, f"executor={executor}")
    others = children(process)
    assert list(Store(str(folder / "store")).files.names("claims"))
    (os.kill if to == "driver" else os.killpg)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.strip().splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in said
    assert not list(Store(str(folder / "store")).files.names("claims"))
    assert not list(Store(str(folder / "store")).files.names("failures"))
    assert not psutil.wait_procs(others, timeout=10)[1]


@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(experiment):
    words = ("executor=inline", "seeds=[0]", "train.epochs=2")
    process, folder = begin(experiment, *words)
    process.terminate()
    process.communicate(timeout=60)
    begin(experiment, *words)[0].communicate(timeout=120)
    stopped = content(folder)
    shutil.rmtree(folder)
    begin(experiment, *words)[0].communicate(timeout=120)
    assert content(folder) == stopped


def test_under_nohup_a_closed_terminal_is_nothing(experiment):
    process, _ = begin(experiment, "executor=inline", "seeds=[0]", "train.epochs=2", wrapper=("nohup",))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_the_first_process_of_a_container_hears_them_too(experiment):
    wrapper = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("no process namespace can be made here")
    process, _ = begin(experiment, "executor=inline", wrapper=wrapper)
    (first,) = psutil.Process(process.pid).children()
    first.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
