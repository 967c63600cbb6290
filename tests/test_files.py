"""What a store asks of a place for files, and what becomes of one that does not give it."""

import errno
import os
import threading
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from prune_bench.errors import ConfigError
from prune_bench.files import LocalFiles, open_files
from prune_bench.sweep.claims import Claims, living_claims

KEY = "training-" + "0" * 32


class ObjectStore(MemoryFileSystem):
    """As S3 is: no folders, and a write that may be told to make only what is new, in one step."""

    protocol, store, pseudo_dirs, lock = "objects", {}, [""], threading.Lock()

    def makedirs(self, path, exist_ok=False):
        pass

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        with self.lock:
            return super().pipe_file(path, value, mode=mode, **kwargs)


class Deaf(MemoryFileSystem):
    """As fsspec before 2024.12: it takes any argument and heeds none."""

    protocol, store, pseudo_dirs = "deaf", {}, [""]

    def pipe_file(self, path, value, **kwargs):
        super().pipe_file(path, value)


class Older(Deaf):
    """As file systems that know no such argument."""

    protocol, store, pseudo_dirs = "older", {}, [""]

    def pipe_file(self, path, value):
        MemoryFileSystem.pipe_file(self, path, value)


class ReadOnly(Deaf):
    protocol, store, pseudo_dirs = "readonly", {}, [""]

    def pipe_file(self, path, value, **kwargs):
        raise PermissionError(13, "Access Denied")


for system in (ObjectStore, Deaf, Older, ReadOnly):
    fsspec.register_implementation(system.protocol, system, clobber=True)


@pytest.fixture(params=["local", "memory", "objects"])
def files(request, tmp_path):
    return open_files(tmp_path if request.param == "local" else f"{request.param}://{uuid.uuid4().hex}/run")


def test_what_is_written_is_read_and_listed_and_gone_when_removed(files):
    assert list(files.names()) == []
    files.write("a/b/c", b"1")
    files.write("a/b/c", b"22")
    files.write("d", b"")
    assert (files.read("a/b/c"), files.size("a/b/c"), files.exists("d"), files.exists("a/x")) == (
        b"22",
        2,
        True,
        False,
    )
    assert list(files.names()) == ["a/b/c", "d"]
    assert list(files.names("a")) == ["a/b/c"]
    files.remove("a/b/c")
    files.remove("a/b/c")
    assert list(files.names()) == ["d"]
    with pytest.raises(FileNotFoundError):
        files.read("a/b/c")


def test_of_all_who_make_a_file_that_must_be_new_one_does(files):
    made, barrier = [], threading.Barrier(8)

    def make(who):
        barrier.wait()
        if files.create("claims/x", str(who).encode()):
            made.append(who)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.read("claims/x") == str(*made).encode()


def test_touching_makes_young_and_never_makes_anew(files):
    files.write("claims/x", b"1")
    files.touch("claims/x")
    assert abs(files.age("claims/x")) < 5
    files.remove("claims/x")
    for look in (files.touch, files.age):
        with pytest.raises(FileNotFoundError):
            look("claims/x")
    assert list(files.names()) == []


def test_a_claim_that_is_let_go_while_it_is_touched_does_not_rise_again(files, monkeypatch):
    first, second = Claims(files), Claims(files)
    first.take([KEY])
    owner, kind = first._me, type(files)
    real_read, real_write, let_go = kind.read, kind.write, []

    def let_go_once():
        if not let_go:
            let_go.append(True)
            first.release([KEY])
            assert second.take([KEY])

    def read(self, name):
        data = real_read(self, name)
        let_go_once()
        return data

    def write(self, name, data):
        let_go_once()
        real_write(self, name, data)

    second._me = b'{"host": "elsewhere"}'
    monkeypatch.setattr(kind, "read", read)
    monkeypatch.setattr(kind, "write", write)
    files.touch(f"claims/{KEY}.0")
    monkeypatch.undo()
    let_go_once()
    assert files.read(f"claims/{KEY}.0") == second._me != owner
    second.release([KEY])
    assert living_claims(files) == []


@pytest.mark.parametrize("system", ["deaf", "older"])
def test_a_store_that_makes_a_new_file_twice_is_refused_when_it_is_opened(system):
    with pytest.raises(ConfigError, match="makes a file twice that must be new"):
        open_files(f"{system}://x")


def test_a_store_that_cannot_be_written_can_be_read():
    assert list(open_files("readonly://x").names()) == []


@pytest.mark.parametrize("location", ["nonsense://x/y", "s3a+b://x"])
def test_a_store_of_no_known_kind_is_told(location):
    with pytest.raises(ConfigError, match="store"):
        open_files(location)


def test_a_location_holds_no_credentials():
    assert open_files("memory://user:p@ss@bucket/x").location == "memory://bucket/x"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_sync_is_written_all_the_same(tmp_path, monkeypatch, code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fsync)
    LocalFiles(tmp_path).write("a", b"1")
    assert LocalFiles(tmp_path).read("a") == b"1"


def test_a_claim_that_the_disk_does_not_take_is_not_left_in_part(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no full device")
    os.symlink("/dev/full", tmp_path / "full")

    class Full(LocalFiles):
        def _path(self, name):
            return tmp_path / "new"

    import builtins

    real = builtins.open
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("builtins.open", lambda path, mode: (real(path, mode).close(), real("/dev/full", "wb"))[1])
        Full(tmp_path).create("new", b"1")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_real_s3_client_against_a_stand_in():
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
                patch.setenv(f"AWS_{name}", value)
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            fsspec.filesystem("s3").mkdir("bucket")
            files = open_files("s3://bucket/run")
            test_what_is_written_is_read_and_listed_and_gone_when_removed(files)
            files.remove("d")
            test_touching_makes_young_and_never_makes_anew(files)
            test_of_all_who_make_a_file_that_must_be_new_one_does(files)
    finally:
        server.stop()
