"""The W&B mirror online, against a server on loopback: what arrives is what the cells hold, once each."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

import prune_bench as pb
from prune_bench import cli
from prune_bench.config import Wandb, make_experiment
from prune_bench.sweep import sweep
from prune_bench.tracking import Mirror
from tests.test_tracking import cell
from tests.wandb_server import WandbServer

ONLINE = Wandb(mode="online", project="pruning", patience=30.0)


@pytest.fixture
def server(monkeypatch, request):
    with WandbServer(refuse=getattr(request, "param", ())) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield server
        assert server.unknown == []


def rows(run):
    return [(row["epoch"], row["train/loss"]) for row in run["history"] if "epoch" in row]


@pytest.mark.parametrize("server", [(), (429, 500, 500)], indirect=True, ids=["willing", "refusing at first"])
def test_a_run_arrives_whole(server, tmp_path):
    with Mirror(ONLINE, tmp_path) as mirror:
        mirror.send(cell("a" * 32))
        assert mirror.close() == 0
    assert set(server.runs) == {"a" * 32}
    run = server.run("a" * 32)
    assert rows(run) == [(0, 2.0), (1, 1.5)]
    assert run["summary"]["test/accuracy"] == 0.75
    assert run["groupName"] == "smoke"
    assert run["displayName"].startswith("snip 0.05")
    assert run["project"] == "pruning"
    assert set(run["tags"]) == {"snip", "resnet8"}
    assert json.loads(run["config"])["density"]["value"] == 0.05
    assert run["exit"] == 0
    tables = [json.loads(data) for path, data in server.files.items() if "media/table" in path]
    assert tables == [{"columns": ["layer", "density", "kept", "total"], "data": [["fc.weight", 0.5, 2, 4]]}]


def test_a_run_that_a_crash_left_half_told_is_completed_and_no_row_stands_there_twice(server, tmp_path):
    whole = cell("a" * 32)
    half = replace(whole, curves=whole.curves[:1], layers=[], summary={})
    for run, folder in ((half, tmp_path / "crashed"), (whole, tmp_path / "again")):
        with Mirror(ONLINE, folder) as mirror:
            mirror.send(run)
            assert mirror.close() == 0
    run = server.run("a" * 32)
    assert rows(run) == [(0, 2.0), (1, 1.5)]
    assert run["summary"]["test/accuracy"] == 0.75


def test_sync_brings_an_offline_sweep_online_and_a_second_sync_sends_nothing(server, tmp_path, monkeypatch):
    experiment = make_experiment(
        {
            "name": "tiny",
            "output": str(tmp_path / "run"),
            "model": {"name": "resnet8", "width": 4},
            "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "image_size": 8, "classes": 4},
            "train": {"epochs": 2, "batch_size": 32},
            "methods": {"snip": {}, "magnitude": {}},
            "executor": "inline",
            "wandb": {"mode": "offline"},
        }
    )
    assert sweep.run_sweep(experiment, Console(file=io.StringIO())) == 0
    assert server.runs == {}
    assert cli.main(["sync", str(tmp_path / "run")]) == 0
    results = pb.load_results(tmp_path / "run")
    told = {json.loads(run["config"])["method"]["value"]: run["summary"] for run in server.runs.values()}
    assert set(told) == {"snip", "magnitude"}
    for row in results.itertuples():
        assert told[row.method]["test/accuracy"] == results.loc[row.Index, "test/accuracy"]
        assert told[row.method]["effective_density"] == results.loc[row.Index, "effective_density"]
    before = {name: run["created"] for name, run in server.runs.items()}
    assert cli.main(["sync", str(tmp_path / "run")]) == 0
    assert {name: run["created"] for name, run in server.runs.items()} == before
