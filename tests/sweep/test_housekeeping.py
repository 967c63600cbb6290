"""Keeping house: what is removed is needed by nothing, and halves of a grid become one."""

import shutil

import pandas as pd
import pytest

import prune_bench as pb
from prune_bench import cli
from prune_bench.errors import PruneBenchError
from prune_bench.sweep import compute
from prune_bench.sweep.claims import Claims
from prune_bench.sweep.housekeeping import clean, import_run
from prune_bench.sweep.store import Store
from prune_bench.sweep.sweep import stage_keys
from tests.sweep.test_sweep import results, run

WORDS = ("prune_at=[init]", "methods={snip: {}, magnitude: {}}", "variants=[original]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *WORDS)[0] == 0
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def kinds(folder):
    return {path.name for path in (folder / "store").iterdir() if any(path.rglob("*.*"))}


def test_clean_leaves_results_and_tickets_and_the_table_as_it_was(whole, folder, monkeypatch):
    assert cli.main(["clean", str(folder)]) == 0
    assert kinds(folder) == {"result", "ticket", "logs"}
    monkeypatch.setattr(compute, "compute", None)
    assert run(folder, *WORDS)[0] == 0
    pd.testing.assert_frame_equal(results(folder), results(whole))


def test_a_dry_run_removes_nothing_and_says_how_much_it_would(folder, capsys):
    before = sorted((folder / "store").rglob("*"))
    assert cli.main(["clean", str(folder), "--dry-run"]) == 0
    assert "would be removed" in capsys.readouterr().out
    assert sorted((folder / "store").rglob("*")) == before
    assert clean(folder, *stage_keys(folder), dry_run=True).names == clean(folder, *stage_keys(folder)).names


def test_clean_keeps_what_unfinished_cells_need(whole, folder, monkeypatch):
    gone = sorted((folder / "store" / "result").rglob("*.safetensors"))[0]
    gone.unlink()
    LEVEL = folder / "store" / "checkpoints" / "half.ckpt"
    LEVEL.parent.mkdir()
    LEVEL.touch()
    cli.main(["clean", str(folder)])
    assert LEVEL.exists()
    for kind in ("state", "ranking", "training"):
        monkeypatch.setitem(compute._HOW, kind, None)
    assert run(folder, *WORDS)[0] == 0
    pd.testing.assert_frame_equal(results(folder), results(whole))


def test_clean_keeps_the_results_of_a_wider_look_in_the_same_folder(folder):
    run(folder, "prune_at=[init]", "methods={magnitude: {}}", "variants=[original]")
    cli.main(["clean", str(folder)])
    methods = {record["method"] for record in map(record_of, (folder / "store" / "result").rglob("*.safetensors"))}
    assert methods == {"magnitude", "snip"}


def record_of(path):
    return Store(path.parents[2]).read(f"result-{path.stem}").record["cell"]


def test_clean_keeps_its_hands_off_a_store_at_work_or_shared(folder, tmp_path):
    with Claims(Store(folder / "store").files) as claims:
        claims.take(["result-00aa"])
        with pytest.raises(PruneBenchError, match="a sweep is at work"):
            clean(folder, [], [])
    assert run(tmp_path / "other", *WORDS, f"store={tmp_path / 'shared'}")[0] == 0
    with pytest.raises(PruneBenchError, match="may serve other runs"):
        clean(tmp_path / "other", [], [])


def test_two_halves_of_a_grid_become_one(whole, tmp_path, monkeypatch):
    ours, theirs, archive = tmp_path / "ours", tmp_path / "theirs", tmp_path / "theirs.zip"
    run(ours, "prune_at=[init]", "methods={magnitude: {}}", "variants=[original]")
    run(theirs, "prune_at=[init]", "methods={snip: {}}", "variants=[original]")
    assert cli.main(["export", str(theirs), str(archive)]) == 0
    shutil.rmtree(theirs)
    assert cli.main(["import", str(archive), str(ours)]) == 0
    found = results(ours).sort_values("key", ignore_index=True)
    wanted = results(whole).sort_values("key", ignore_index=True)
    assert set(pb.load_results(ours).status) == {"done"}
    columns = ["key", "method", "density", "seed", "kept", "search/dense_epochs"]
    pd.testing.assert_frame_equal(found[columns], wanted[columns])
    # Packed with other lanes a cell may differ in its last bits.
    assert (found["test/loss"] - wanted["test/loss"]).abs().max() < 1e-3
    monkeypatch.setattr(compute, "compute", None)
    assert run(ours, *WORDS)[0] == 0


def test_an_import_into_nothing_is_the_exported_run(whole, tmp_path):
    cli.main(["export", str(whole), str(tmp_path / "out.zip")])
    cli.main(["import", str(tmp_path / "out.zip"), str(tmp_path / "new" / "run")])
    pd.testing.assert_frame_equal(results(tmp_path / "new" / "run"), results(whole))


def test_a_damaged_archive_changes_nothing(whole, folder, tmp_path):
    archive = tmp_path / "out.zip"
    cli.main(["export", str(whole), str(archive)])
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(bytes(data))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(PruneBenchError, match="no exported run"):
        import_run(archive, folder)
    with pytest.raises(PruneBenchError, match="no exported run"):
        import_run(whole / "cells.json", folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
