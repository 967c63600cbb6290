"""What counts against a stage's time."""

import subprocess
import sys

CODE = """
import contextlib, sys
from prune_bench.config import Limits
from prune_bench.sweep.executors import base
from prune_bench.sweep.stages import Stage

stage, seen = Stage("state", "x", {"seed": 0}), []
base._do = lambda *job: None
base.at_most = lambda seconds: (seen.append("prune_bench.sweep.compute" in sys.modules), contextlib.nullcontext())[1]
assert "torch" not in sys.modules
base._try(base.Job(lanes=(stage,), pack=(stage.key,), store="x", device="cpu", threads=1, seeds=(0,),
                   limits=Limits(stage_seconds=1.0)), (stage,))
assert seen == [True]
"""


def test_the_import_of_torch_is_no_part_of_a_stages_time():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
