"""Stores that fill up, cannot be written, lose files, or are no folder at all."""

import errno
import os
import shutil
import subprocess
import uuid

import pandas as pd
import pytest

import prune_bench as pb
from prune_bench import cli
from prune_bench.errors import PruneBenchError
from prune_bench.files import LocalFiles
from prune_bench.sweep import compute
from prune_bench.sweep.housekeeping import export_run, import_run
from prune_bench.sweep.run_folder import read_cells
from prune_bench.sweep.store import Store, decode
from tests.report.synthetic import make_run
from tests.sweep.test_sweep import results, run

WORDS = ("prune_at=[init]", "methods={snip: {}, magnitude: {}}", "variants=[original]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *WORDS)[0] == 0
    return folder


@pytest.fixture(scope="module")
def whole(finished):
    return results(finished)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 160 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def sound(folder):
    """Every artifact of a store can be read."""
    files = list((folder / "store").rglob("*.safetensors"))
    for file in files:
        decode(file.read_bytes())
    return len(files)


def test_a_full_disk_costs_cells_a_clear_reason_and_nothing_that_was_written(whole, small_disk):
    code, words = run(small_disk, *WORDS)
    assert code == 1
    assert "No space left" in words
    assert sound(small_disk) > 0
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert run(small_disk, *WORDS, retry_failed=True)[0] == 0
    pd.testing.assert_frame_equal(results(small_disk), whole)


def test_writes_that_fail_cost_their_own_cells_only(whole, tmp_path, monkeypatch):
    real, failed = LocalFiles.write, []

    def write(self, name, data):
        if name.startswith("training/"):
            failed.append(name)
        if name in failed[:1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "write", write)
        assert run(tmp_path, *WORDS)[0] == 1
    frame = pb.load_results(tmp_path)
    assert sorted(frame.status) == ["done"] * (len(whole) - 1) + ["failed"]
    assert frame[frame.status == "failed"].reason.str.contains("No space left").all()
    assert run(tmp_path, *WORDS, retry_failed=True)[0] == 0
    pd.testing.assert_frame_equal(results(tmp_path), whole)


def test_a_store_that_cannot_be_written_fails_every_cell_with_the_reason(tmp_path, monkeypatch):
    def refuse(self, name, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    monkeypatch.setattr(LocalFiles, "write", refuse)
    monkeypatch.setattr(LocalFiles, "create", refuse)
    code, words = run(tmp_path, *WORDS)
    assert code == 1
    assert set(pb.load_results(tmp_path).status) == {"failed"}
    assert "the store cannot be written" in words
    assert "Read-only" in words


def test_a_store_below_a_plain_file_fails_every_cell_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    code, words = run(tmp_path / "run", *WORDS, f"store={tmp_path / 'file' / 'store'}")
    assert code == 1
    assert set(pb.load_results(tmp_path / "run").status) == {"failed"}
    assert "the store cannot be written" in words
    assert "Not a directory" in words


def test_a_finished_run_on_a_disk_that_is_read_only_now_is_shown(whole, small_disk):
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    run(small_disk, *WORDS)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, words = run(small_disk, *WORDS)
    assert code == 0
    assert "magnitude" in words
    pd.testing.assert_frame_equal(results(small_disk), whole)


def test_a_file_that_is_deleted_meanwhile_costs_only_the_cells_that_need_it(whole, tmp_path, monkeypatch):
    real = compute._HOW["training"]

    def deleting(stages, inputs, *where):
        for file in (tmp_path / "store" / "training").rglob("*.safetensors"):
            file.unlink()
        return real(stages, inputs, *where)

    with monkeypatch.context() as patch:
        patch.setitem(compute._HOW, "training", deleting)
        patch.setattr("prune_bench.sweep.graph.math.inf", -1.0)  # results last, so that trainings are deleted
        code, words = run(tmp_path, *WORDS, "train.pack=1")
    assert code == 1
    assert "gone from the store" in words
    assert run(tmp_path, *WORDS, "train.pack=1", retry_failed=True)[0] == 0
    assert set(pb.load_results(tmp_path).status) == {"done"}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "another version"])
@pytest.mark.parametrize("kind", ["state", "ranking", "ticket", "training", "result"])
def test_damage_of_any_kind_is_found_and_mended(whole, done, kind, damage):
    for file in (done / "store").rglob("*.safetensors"):
        data = file.read_bytes()
        if file.parent.parent.name == kind:
            file.write_bytes(damaged(data, damage))
        elif file.parent.parent.name == "result" or not needed_for(kind, file.parent.parent.name):
            file.unlink()  # so that the damaged one is asked for
    code, words = run(done, *WORDS)
    assert code == 0
    assert "damaged" in words
    assert list((done / "store" / "damaged").iterdir())
    pd.testing.assert_frame_equal(results(done), whole)


@pytest.fixture
def done(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def needed_for(kind, other):
    order = ["state", "ranking", "ticket", "training", "result"]
    return order.index(other) < order.index(kind)


def damaged(data, how):
    if how == "flipped":
        return data[:-1] + bytes([data[-1] ^ 1])
    if how == "another version":
        return data.replace(b'"format":"1"', b'"format":"0"')
    return data[:-9] if how == "truncated" else b""


def test_an_object_store_gives_the_same_table_as_a_folder(whole, tmp_path):
    words = (*WORDS, f"store=memory://{uuid.uuid4().hex}")
    assert run(tmp_path, *words)[0] == 0
    pd.testing.assert_frame_equal(results(tmp_path), whole)
    assert not (tmp_path / "store").exists()
    assert "0 to do" in run(tmp_path, *words)[1]


def test_damage_in_an_object_store_is_set_aside_there(tmp_path):
    said = []
    store = Store(f"memory://{uuid.uuid4().hex}", said.append)
    store.files.write(Store.name("result-00aa"), b"nonsense")
    assert store.read("result-00aa") is None
    assert not store.has("result-00aa")
    assert len(list(store.files.names("damaged"))) == 1
    assert "damaged" in said[0]


def test_an_export_to_a_full_disk_and_house_kept_on_a_read_only_one_end_in_words(small_disk, tmp_path, capsys):
    made = make_run(tmp_path / "made", seeds=8)
    archive = tmp_path / "y.zip"
    export_run(made, archive, [row["key"] for row in read_cells(made).rows])
    assert archive.stat().st_size > 160_000
    with pytest.raises(PruneBenchError, match="No space left"):
        export_run(made, small_disk / "z.zip", [row["key"] for row in read_cells(made).rows])
    with pytest.raises(PruneBenchError, match="No space left"):
        import_run(archive, small_disk / "a" / "run")
    assert list(small_disk.rglob("*")) == []
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    run(small_disk / "run", *WORDS)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert cli.main(["clean", str(small_disk / "run")]) == 2
    assert "Read-only" in capsys.readouterr().err
    for folder in (small_disk / "run", small_disk / "new"):
        with pytest.raises(PruneBenchError):
            import_run(archive, folder)
    assert cli.main(["status", str(small_disk / "run")]) == 0
