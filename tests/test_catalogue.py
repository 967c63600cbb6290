"""The lists of methods, networks and data sets: complete, quick the second time, and never out of date."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import prune_bench as pb
from prune_bench import catalogue
from prune_bench.cli import main
from prune_bench.pruners.registry import pruners

QUICK = "import sys; from prune_bench.cli import main; main(['methods']); print('torch' in sys.modules)"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "prune_bench" / "catalogue.json"


def names(listed):
    return [entry.name for entry in listed]


def test_all_that_is_registered_is_listed_with_its_options(cache):
    listed = catalogue.catalogue()
    assert names(listed["methods"]) == pb.methods()
    assert names(listed["models"]) == pb.models()
    assert names(listed["datasets"]) == pb.datasets()
    synflow = next(entry for entry in listed["methods"] if entry.name == "synflow")
    assert [(row["name"], row["default"]) for row in synflow.options] == [("steps", 100)]


def test_the_second_call_gives_the_same_without_torch(cache):
    first = catalogue.catalogue()
    assert catalogue.catalogue() == first
    out = subprocess.run([sys.executable, "-c", QUICK], check=True, capture_output=True, text=True).stdout
    assert "synflow" in out
    assert out.split()[-1] == "False"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"mark": 1}'])
def test_a_damaged_or_older_file_is_made_anew(cache, damage):
    first = catalogue.catalogue()
    cache.write_text(damage)
    assert catalogue.catalogue() == first
    assert json.loads(cache.read_text())["mark"] == catalogue.code_mark()


def test_changed_code_is_looked_at_again(cache, monkeypatch):
    catalogue.catalogue()
    kept = json.loads(cache.read_text())
    cache.write_text(json.dumps(kept | {"methods": []}))
    assert catalogue.catalogue()["methods"] == []
    monkeypatch.setattr(catalogue, "code_mark", lambda: "another")
    assert names(catalogue.catalogue()["methods"]) == pb.methods()


def test_where_other_packages_add_methods_nothing_is_kept(cache, monkeypatch):
    monkeypatch.setattr(catalogue, "entry_points", lambda group: ["theirs"])
    assert names(catalogue.catalogue()["methods"]) == pb.methods()
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_no_list(cache):
    cache.parent.write_text("a file where the folder should be")
    assert names(catalogue.catalogue()["methods"]) == pb.methods()


def broken():
    raise ImportError("no module named x [/usr/lib]")


def taken():
    from prune_bench.options import NoOptions
    from prune_bench.pruners.registry import pruners

    pruners.add("snip", options=NoOptions, source="theirs", summary="Another.")(object)


@pytest.mark.parametrize("load", [broken, taken, sys.exit], ids=["does not import", "takes a taken name", "ends"])
def test_a_plug_in_that_cannot_be_used_is_one_clear_error_in_every_command(monkeypatch, capsys, tmp_path, load):
    point = SimpleNamespace(name="x", value="theirs.x", load=load, dist=SimpleNamespace(name="theirs"))
    monkeypatch.setattr("prune_bench.registry.entry_points", lambda group: [point] if "pruners" in group else [])
    monkeypatch.setattr(catalogue, "entry_points", lambda group: ["theirs"])
    monkeypatch.setattr(pruners, "_completed", False)
    monkeypatch.setattr(pruners, "_broken", "")
    for words in (["methods"], ["methods"], ["sweep", "experiments/smoke.yaml", f"output={tmp_path / 'run'}"]):
        assert main(words) == 2
        assert "theirs.x" in (said := capsys.readouterr().err)
        assert len(said.splitlines()) == 1
