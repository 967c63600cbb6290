"""The store: what a sweep needs of it, each need seen to be missed."""

import time

import fsspec
import pytest

from prune_bench.doctor import store
from prune_bench.files import LocalFiles
from tests.doctor.planted import subject, verdicts


def look(location):
    return list(store.look(subject(f"store={location}")))


class NotExclusive(LocalFiles):
    def create(self, name, data):
        self.write(name, data)
        return True


class LastOneWins(LocalFiles):
    """Looks first and writes then, as a store without conditional writes may."""

    def create(self, name, data):
        free = not self.exists(name)
        time.sleep(0.05)
        self.write(name, data)
        return free


class NobodyWins(LocalFiles):
    def create(self, name, data):
        return False


class Forgets(LocalFiles):
    def write(self, name, data):
        if not self.exists(name):
            super().write(name, data)


class ListsNothing(LocalFiles):
    def names(self, folder=""):
        return iter(())


class Ages(LocalFiles):
    def age(self, name):
        return 3600.0


class Refuses(LocalFiles):
    def write(self, name, data):
        raise PermissionError(13, "Permission denied")


def test_a_good_store_passes_and_keeps_nothing(tmp_path):
    assert verdicts(look(tmp_path / "run" / "store")) == [("store", "pass"), ("claims", "pass")]
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_passes_and_keeps_nothing():
    assert verdicts(look("memory://doctor-test/run")) == [("store", "pass"), ("claims", "pass")]
    assert fsspec.filesystem("memory").find("/doctor-test") == []


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (NotExclusive, "claims", "8 of 8 who made one file"),
        (LastOneWins, "claims", "were told that it is theirs"),
        (NobodyWins, "claims", "0 of 8"),
        (Ages, "claims", "3600 s old"),
        (Forgets, "store", "other bytes than were written"),
        (ListsNothing, "store", "does not list"),
        (Refuses, "store", "Permission denied"),
    ],
)
def test_a_store_that_does_not_do_as_it_should_is_a_mend(tmp_path, monkeypatch, kind, name, words):
    monkeypatch.setattr(store, "open_files", lambda location: kind(tmp_path))
    lines = [line for line in look(tmp_path) if line.verdict == "mend"]
    assert [line.name for line in lines] == [name]
    assert words in lines[0].words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("location", ["nosuch://bucket/run", "/proc/version/store"])
def test_a_store_that_cannot_be_opened_is_a_mend(location):
    (line,) = look(location)
    assert (line.verdict, location in line.words) == ("mend", True)
