"""Whole sweeps: results, resuming, failing, and the same bits whoever computes them."""

import io
import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import prune_bench as pb
from prune_bench.config import Limits, load_experiment, make_experiment
from prune_bench.sweep import compute, sweep
from prune_bench.sweep.executors.processes import ProcessExecutor
from prune_bench.sweep.graph import missing_stages
from prune_bench.sweep.runner import run_plan
from prune_bench.sweep.store import Store
from prune_bench.sweep.toy import toy_size

TINY = {
    "name": "tiny",
    "model": {"name": "resnet8", "width": 4},
    "data": {"name": "synthetic", "samples": 128, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1], "rewind_epoch": 1},
    "methods": {"dense": {}, "snip": {}, "ltr": {}, "cts": {"steps": 3, "batch_size": 32}},
    "densities": [0.5, 0.3],
    "variants": ["original", "invert"],
    "prune_at": ["init", "rewind"],
    "executor": "inline",
    "wandb": {"mode": "disabled"},
}
TIMES = ["search/seconds", "train/seconds", "memory/peak_bytes", "run"]  # and what the folder is called


def run(folder, *overrides, base=TINY, **how):
    out = io.StringIO()
    experiment = make_experiment(base, [f"output={folder}", *overrides])
    code = sweep.run_sweep(experiment, Console(file=out, width=140), **how)
    return code, out.getvalue()


def results(folder):
    return pb.load_results(folder).drop(columns=TIMES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, words = run(folder)
    assert code == 0, words
    return folder, words


def test_every_cell_has_a_row_with_the_metric_vocabulary(undisturbed):
    frame = pb.load_results(undisturbed[0])
    assert len(frame) == 2 * (1 + 3 * 2 * 2)
    assert set(frame.status) == {"done"}
    wanted = (
        "model data prune_at method density variant seed status test/accuracy test/loss effective_density kept total "
        "flops/dense flops/sparse search/seconds search/dense_epochs train/seconds memory/peak_bytes"
    )
    assert set(wanted.split()) <= set(frame.columns)
    assert frame["test/accuracy"].between(0, 1).all()
    assert (frame.kept == (frame.density * frame.total).round()).all()


def test_the_words_name_the_plan_the_table_and_where_results_lie(undisturbed):
    folder, words = undisturbed
    assert "26 cells" in words
    assert "ltr" in words
    assert str(folder / "results.csv") in words.replace("\n", "")
    assert len(pd.read_csv(folder / "results.csv")) == 26


def test_running_again_computes_nothing(undisturbed, monkeypatch):
    monkeypatch.setattr(compute, "compute", None)
    before = {p: p.stat().st_mtime_ns for p in (undisturbed[0] / "store").rglob("*")}
    code, words = run(undisturbed[0])
    assert code == 0
    assert "0 to do" in words
    assert {p: p.stat().st_mtime_ns for p in (undisturbed[0] / "store").rglob("*")} == before


def test_processes_give_the_same_bits_as_inline(undisturbed, tmp_path):
    code, _ = run(tmp_path, "executor=processes", "devices.count=2")
    assert code == 0
    pd.testing.assert_frame_equal(results(tmp_path), results(undisturbed[0]))


@pytest.mark.parametrize("kind", ["state", "ranking", "ticket", "training", "result"])
@pytest.mark.parametrize("moment", ["begins", "has begun"])
def test_an_interrupt_in_any_stage_and_a_rerun_give_the_undisturbed_result(
    undisturbed, tmp_path, monkeypatch, kind, moment
):
    real, seen = compute._HOW[kind], []

    def interrupted(stages, inputs, *where):
        seen.append(stages)
        if len(seen) == 2 or (len(seen) == 1 and kind == "state" and moment == "begins"):
            if moment == "has begun":
                real(stages, inputs, *where)
            raise KeyboardInterrupt
        return real(stages, inputs, *where)

    monkeypatch.setitem(compute._HOW, kind, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setitem(compute._HOW, kind, real)
    done = len(list((tmp_path / "store").rglob("*.safetensors")))
    code, words = run(tmp_path)
    assert code == 0
    total = len(list((undisturbed[0] / "store").rglob("*.safetensors")))
    assert f"{total} stages, {total - done} to do" in words
    pd.testing.assert_frame_equal(results(tmp_path), results(undisturbed[0]))


def test_a_failing_stage_costs_only_the_cells_that_need_it(tmp_path, monkeypatch):
    real = compute._HOW["ranking"]

    def failing(stages, inputs, *where):
        if stages[0].spec["method"] == "snip":
            raise RuntimeError("no such luck")
        return real(stages, inputs, *where)

    monkeypatch.setitem(compute._HOW, "ranking", failing)
    code, words = run(tmp_path, "prune_at=[init]")
    assert code == 1
    frame = pb.load_results(tmp_path)
    assert set(frame[frame.method == "snip"].status) == {"failed"}
    assert frame[frame.method == "snip"].reason.str.contains("no such luck").all()
    assert set(frame[frame.method != "snip"].status) == {"done"}
    assert "no such luck" in words
    assert "Traceback" in json.loads(next((tmp_path / "store" / "failures").iterdir()).read_text())["trace"]
    monkeypatch.setitem(compute._HOW, "ranking", real)
    assert run(tmp_path, "prune_at=[init]")[0] == 1
    assert run(tmp_path, "prune_at=[init]", retry_failed=True)[0] == 0
    assert set(pb.load_results(tmp_path).status) == {"done"}


def test_a_diverged_cell_is_a_result_with_its_epoch(tmp_path):
    code, words = run(tmp_path, "train.lr=1e30", "train.clip_norm=null", "prune_at=[init]", "methods={snip: {}}")
    frame = pb.load_results(tmp_path)
    assert code == 0
    assert set(frame.status) == {"diverged"}
    assert frame.reason.str.contains("epoch 0").all()
    assert "diverged" in words


def test_a_damaged_artifact_is_computed_again(tmp_path):
    run(tmp_path, "prune_at=[init]", "methods={snip: {}}")
    before = results(tmp_path)
    for kind in ("result", "training", "ticket", "ranking"):
        for file in (tmp_path / "store" / kind).rglob("*.safetensors"):
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(bytes(data)) if kind != "result" else file.write_bytes(b"")
    code, words = run(tmp_path, "prune_at=[init]", "methods={snip: {}}")
    assert code == 0
    assert "damaged" in words
    pd.testing.assert_frame_equal(results(tmp_path), before)


def test_a_worker_that_is_killed_is_replaced_and_its_stage_tried_again(tmp_path):
    plan = sweep.prepare(make_experiment(TINY, [f"output={tmp_path}", "prune_at=[init]", "methods={snip: {}}"]))
    store, executor, killed = Store(tmp_path / "store"), ProcessExecutor(["cpu"]), []

    def kill_once(progress, finished):
        if progress.running and executor._pools[0] and not killed:
            killed.extend(executor._pools[0]._processes)
            os.kill(killed[0], signal.SIGKILL)

    try:
        todo = missing_stages(plan, store)
        progress = run_plan(
            todo, [(key,) for key in todo], store, executor, threads=1, limits=Limits(), watch=kill_once
        )
    finally:
        executor.close()
    assert len(killed) == 1
    assert progress.failed == {}
    assert missing_stages(plan, store) == {}


@pytest.mark.parametrize(("method", "stage"), [("dense", "training"), ("ltr", "ranking"), ("ltr", "training")])
def test_a_stage_cut_off_in_its_second_epoch_begins_with_that_when_run_again(
    undisturbed, tmp_path, cut_off, method, stage
):
    words = (f"methods=[{method}]", "prune_at=[init]", "limits.checkpoint_seconds=1e-9")
    epoch = 3  # steps
    cut_off(None)
    assert run(tmp_path / "counted", *words)[0] == 0
    whole = cut_off.steps
    cut_off(epoch + 2 if stage == "ranking" else whole - 1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", *words)
    assert len(list((tmp_path / "run" / "store" / "checkpoints").iterdir())) == 1
    done = cut_off.steps - 1
    cut_off(None)
    assert run(tmp_path / "run", *words)[0] == 0
    assert 0 < done + cut_off.steps - whole < epoch
    assert list((tmp_path / "run" / "store" / "checkpoints").iterdir()) == []
    wanted = results(undisturbed[0])
    wanted = wanted[(wanted.method == method) & (wanted.prune_at == "init")].reset_index(drop=True)
    found = results(tmp_path / "run")
    pd.testing.assert_frame_equal(found, wanted[found.columns])


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(Path("experiments").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_experiment_runs_at_toy_size(file, tmp_path):
    words = ["wandb.mode=disabled", "model.width=4", f"output={tmp_path / 'run'}"]
    if "cifar" in file.stem or "cts_2025" in file.stem:
        words += ["data={name: synthetic, samples: 128, test_samples: 64, classes: 10}"]
        words += ["densities=[0.5, 0.3]"]
    if "cts_2025" in file.stem:  # many searches, of four draws a step each
        words += ["densities=[0.5]"]
    experiment = toy_size(load_experiment(file, words))
    out = io.StringIO()
    assert sweep.run_sweep(experiment, Console(file=out, width=140)) == 0, out.getvalue()
    assert set(pb.load_results(experiment.folder).status) <= {"done", "diverged"}
