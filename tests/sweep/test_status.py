"""How a run stands, asked from outside: counts that add up, as a picture and as data."""

import io
import json
import subprocess
import sys
import time

import pytest
from rich.console import Console

from prune_bench import cli
from prune_bench.errors import PruneBenchError
from prune_bench.sweep import compute, sweep
from prune_bench.sweep.run_folder import StatusFile, read_statuses
from prune_bench.sweep.status import run_status, show_status
from tests.sweep import faults
from tests.sweep.test_sweep import run

WORDS = ("prune_at=[init]", "methods={snip: {}, magnitude: {}}", "variants=[original]", "train.pack=1")


def shown(folder, **how):
    out = io.StringIO()
    code = show_status(folder, Console(file=out, width=140), **how)
    return code, out.getvalue()


def test_a_run_that_is_done_says_so(tmp_path, capsys):
    run(tmp_path, *WORDS)
    status = run_status(tmp_path)
    assert status["cells"] == {"done": 4, "failed": 0, "missing": 0}
    code, words = shown(tmp_path)
    assert code == 0
    assert "4 done" in words
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == status["cells"]


def test_while_it_runs_the_counts_add_up_to_the_plan(tmp_path, monkeypatch):
    real, seen = compute._HOW["training"], []

    def looking(*args):
        seen.append(run_status(tmp_path))
        return real(*args)

    monkeypatch.setitem(compute._HOW, "training", looking)
    monkeypatch.setattr(sweep, "_SNAPSHOT_EVERY", 0.0)
    run(tmp_path, *WORDS)
    for status in seen:
        (said,) = status["sweeps"]
        assert status["running"] and said["state"] == "running"
        assert sum(status["cells"].values()) == said["cells"] == 4
        assert sum(count["total"] for count in said["counts"]) == 15  # a state, 2 rankings, 4 of each other kind
        assert all(c["done"] + c["failed"] + c["running"] <= c["total"] for c in said["counts"])
        assert said["running"]
        assert said["updated"] >= said["began"]
    done = [sum(count["done"] for count in status["sweeps"][0]["counts"]) for status in seen]
    assert done == sorted(done) and len(set(done)) == 4


def test_failures_are_counted_and_named(tmp_path, monkeypatch):
    def failing(*args):
        raise RuntimeError("no such luck")

    monkeypatch.setitem(compute._HOW, "training", failing)
    run(tmp_path, *WORDS)
    code, words = shown(tmp_path)
    assert code == 1
    assert run_status(tmp_path)["cells"] == {"done": 0, "failed": 4, "missing": 0}
    assert "no such luck" in words


def test_a_sweep_that_was_killed_is_not_taken_for_one_at_work(tmp_path):
    folder = tmp_path / "run"
    child = faults.start(folder)
    while not list((folder / "status").glob("*.json")):
        time.sleep(0.01)
        assert child.exitcode is None
    assert run_status(folder)["running"]
    faults.kill(child)
    status = run_status(folder)
    assert not status["running"]
    assert status["sweeps"][0]["state"] == "ended"
    assert "goes on from here" in shown(folder)[1]
    StatusFile(folder)
    assert read_statuses(folder) == []  # the next sweep tidies up


def test_watching_ends_with_the_sweep(tmp_path, capsys):
    folder = tmp_path / "run"
    child = faults.start(folder)
    while not list((folder / "status").glob("*.json")):
        time.sleep(0.01)
    assert show_status(folder, Console(file=io.StringIO()), as_json=True, watch=True) == 0
    child.join()
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert looks[0]["running"] and not looks[-1]["running"]
    assert looks[-1]["cells"]["missing"] == 0


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(PruneBenchError, match="not the folder of a sweep"):
        run_status(tmp_path)


@pytest.mark.parametrize("module", ["sweep.finished", "sweep.status", "report.results"])
def test_who_only_looks_at_a_run_does_not_wait_for_torch(module):
    code = f"import sys, prune_bench.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
