"""The run's disk: each fault of it is told, and nothing is left on it."""

import os
import shutil
from types import SimpleNamespace

import pytest

from prune_bench.doctor import disk
from prune_bench.files import LocalFiles
from tests.doctor.planted import subject, verdicts

ROOM = {"f_bavail": 10**8, "f_blocks": 10**9, "f_bfree": 10**8, "f_frsize": 1024}


def look(folder):
    return list(disk.look(subject(f"output={folder}")))


def test_a_good_disk_has_room_and_speed_and_keeps_nothing(tmp_path):
    lines = look(tmp_path / "runs" / "mine")
    assert verdicts(lines) == [("disk", "pass"), ("writing", "figure")]
    assert lines[1].values["disk_bytes_per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_in_the_folder_stays(tmp_path):
    (tmp_path / "kept").write_text("kept")
    look(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_little_room_is_a_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e8))
    assert disk.room(tmp_path).verdict == "mend"
    assert "500 MB free" in disk.room(tmp_path).words


def test_few_inodes_are_a_mend_and_a_disk_that_counts_none_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=100, f_favail=7, **ROOM))
    assert (disk.room(tmp_path).verdict, "7 files more" in disk.room(tmp_path).words) == ("mend", True)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=0, f_favail=0, **ROOM))
    assert disk.room(tmp_path).verdict == "pass"


def read_only(path):
    """Root may write anywhere, but nowhere below a file."""
    path.write_text("no folder")
    return path / "run"


def test_a_folder_that_cannot_be_written_is_a_mend(tmp_path):
    lines = look(read_only(tmp_path / "file"))
    assert lines[1].verdict == "mend"
    assert "output=" in lines[1].words


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to it")
def test_a_folder_that_is_read_only_is_a_mend(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert look(tmp_path)[1].verdict == "mend"
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_does_not_sync_is_a_mend(tmp_path, monkeypatch):
    def refused(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    assert "Input/output error" in disk.writing(tmp_path).words
    assert disk.writing(tmp_path).verdict == "mend"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_gives_back_other_bytes_is_a_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalFiles, "read", lambda self, name: b"")
    assert disk.writing(tmp_path).verdict == "mend"


def test_a_slow_disk_is_a_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_timed", lambda *_: 0.3)
    line = disk.writing(tmp_path)
    assert (line.verdict, "300.0 ms a small file" in line.words) == ("mend", True)
