"""Checks that go wrong, for the process that makes checks; and subjects to look at."""

import os
import signal
import subprocess
import sys
import time

from prune_bench.config import make_experiment
from prune_bench.doctor import Check, Line, Subject

TINY = {
    "name": "tiny",
    "model": {"name": "resnet8", "width": 4},
    "data": {"name": "synthetic", "samples": 128, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1]},
    "methods": {"snip": {}, "cts": {"steps": 3, "batch_size": 16}},
    "executor": "inline",
    "wandb": {"mode": "disabled"},
}


def check(name, seconds=60.0):
    return Check(name=name, function=f"tests.doctor.planted:{name}", seconds=seconds, hint="look elsewhere")


def subject(*overrides, device="cpu", known=None):
    return Subject(experiment=make_experiment(TINY, overrides), device=device, known=known or {})


def verdicts(lines):
    return [(line.name, line.verdict) for line in lines]


def well(subject):
    print("what a library prints")
    os.write(1, b"and what its C code does\n")
    yield Line(name="well", verdict="pass", words="all is well", values={"seen": sorted(subject.known)})
    yield Line(
        name="well", verdict="figure", words=f"{subject.experiment.name} on {subject.device}", values={"two": 2}
    )


def raises(subject):
    yield Line(name="raises", verdict="pass", words="so far")
    raise ArithmeticError("one and one is three")


def hangs(subject):
    yield Line(name="hangs", verdict="pass", words="so far")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Line(name="hangs", verdict="figure", words=str(child.pid))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
    time.sleep(600)


def crashes(subject):
    print("the GPU has fallen off the bus", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGSEGV)
    yield Line(name="crashes", verdict="pass", words="never")


def falls_off_the_bus(subject):
    yield Line(name="falls", verdict="pass", words=str(os.getpid()))
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def leaves(subject):
    os._exit(3)
    yield Line(name="leaves", verdict="pass", words="never")


def two_gpus(subject):
    values = {"devices": ["cuda:0", "cuda:1"], "slots": ["cuda:0", "cuda:1"]}
    yield Line(name="devices", verdict="pass", words="2", values=values)


def gpu(subject):
    values = {"versions": {"gpu": "one kind"}, "memory_bytes": 1}
    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    yield Line(name="GPU", verdict="pass", words=f"{subject.device} is {visible}", values=values)


def process(subject):
    yield Line(name="process", verdict="figure", words=str(os.getpid()))


def broken(subject):
    yield Line(name="broken", verdict="mend", words="turn it off and on [again], " * 6)
