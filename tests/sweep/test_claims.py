"""Claims: of all who want a stage one has it, until it lets go or its heart stops."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil
import pytest

from prune_bench.errors import PruneBenchError
from prune_bench.files import open_files
from prune_bench.identity import identity, is_alive
from prune_bench.sweep.claims import Claims, cleaning, living_claims, sweeping

KEYS = [f"training-{i:032x}" for i in range(40)]
KEY = KEYS[0]


@pytest.fixture(params=["local", "memory"])
def files(request, tmp_path):
    return open_files(tmp_path if request.param == "local" else f"memory://claims-{uuid.uuid4().hex}")


@pytest.fixture
def folder(tmp_path):
    return open_files(tmp_path)


def says(files, name, **changes):
    """Puts other words into a claim, as if another process had made it."""
    files.write(name, json.dumps(identity() | changes).encode())


def age(files, name, seconds):
    then = time.time() - seconds
    os.utime(Path(files.location) / name, (then, then))


def test_of_many_who_try_at_once_exactly_one_wins(files):
    wins, barrier, many = [], threading.Barrier(8), [Claims(files) for _ in range(8)]

    def try_all(claims):
        barrier.wait()
        wins.extend(key for key in KEYS if claims.take([key]))

    threads = [threading.Thread(target=try_all, args=(claims,)) for claims in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(wins) == Counter(KEYS)


def test_one_takes_all_or_none(files):
    first, second = Claims(files), Claims(files)
    assert first.take(KEYS[2:3])
    assert not second.take(KEYS[:4])
    assert first.take(KEYS[:4])
    assert first.take(KEYS[:4])  # what one has one may take


def test_what_is_let_go_is_free(files):
    first, second = Claims(files), Claims(files)
    first.take(KEYS[:2])
    first.release(KEYS[:1])
    assert second.take(KEYS[:1])
    assert not second.take(KEYS[1:2])


def test_the_end_lets_go_of_everything(files):
    with Claims(files) as claims:
        claims.take(KEYS)
        assert len(living_claims(files)) == len(KEYS)
    assert list(files.names("claims")) == []


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(folder):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    who = {"pid": child.pid, "began": psutil.Process(child.pid).create_time()}
    child.wait()
    says(folder, f"claims/{KEY}.0", **who)
    assert living_claims(folder) == []
    assert Claims(folder).take([KEY])


def test_a_number_that_is_used_again_is_not_the_dead_owner():
    assert is_alive(identity())
    assert not is_alive(identity() | {"began": identity()["began"] - 100})


def test_an_owner_elsewhere_is_dead_when_its_heart_has_not_beaten(folder):
    says(folder, f"claims/{KEY}.0", host="elsewhere")
    assert not Claims(folder, dead_after=30).take([KEY])
    age(folder, f"claims/{KEY}.0", 20)
    assert not Claims(folder, dead_after=30).take([KEY])
    age(folder, f"claims/{KEY}.0", 40)
    assert Claims(folder, dead_after=30).take([KEY])


def test_a_claim_that_was_cut_off_while_it_was_written_dies_of_age(folder):
    folder.write(f"claims/{KEY}.0", b"")
    assert not Claims(folder, dead_after=30).take([KEY])
    age(folder, f"claims/{KEY}.0", 40)
    assert Claims(folder, dead_after=30).take([KEY])


def test_a_beating_heart_keeps_a_claim(folder):
    with Claims(folder, beat=0.05) as claims:
        claims.take([KEY])
        says(folder, f"claims/{KEY}.0", host="elsewhere")
        age(folder, f"claims/{KEY}.0", 1000)
        deadline = time.monotonic() + 10
        while folder.age(f"claims/{KEY}.0") > 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Claims(folder, dead_after=30).take([KEY])


def test_one_that_was_taken_for_dead_takes_nothing_from_its_successor(folder):
    slow, successor, third = Claims(folder), Claims(folder, dead_after=30), Claims(folder, dead_after=30)
    slow.take([KEY])
    says(folder, f"claims/{KEY}.0", host="elsewhere")
    age(folder, f"claims/{KEY}.0", 40)
    assert successor.take([KEY])
    slow.release([KEY])
    assert not third.take([KEY])
    successor.release([KEY])
    assert third.take([KEY])


def test_of_many_who_find_a_dead_claim_exactly_one_has_it(folder):
    says(folder, f"claims/{KEY}.0", host="elsewhere")
    age(folder, f"claims/{KEY}.0", 40)
    wins, barrier = [], threading.Barrier(8)

    def try_it():
        claims = Claims(folder, dead_after=30)
        barrier.wait()
        if claims.take([KEY]):
            wins.append(claims)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1


def test_a_store_that_cannot_be_written_is_told_and_nothing_is_held(folder, monkeypatch):
    claims, real = Claims(folder), type(folder).create

    def create(self, name, data):
        if KEYS[1] in name:
            raise OSError(30, "Read-only file system")
        return real(self, name, data)

    monkeypatch.setattr(type(folder), "create", create)
    with pytest.raises(OSError, match="Read-only"):
        claims.take(KEYS[:2])
    assert Claims(folder).take(KEYS[:1])


def test_setting_the_clock_makes_no_living_owner_dead(folder, monkeypatch):
    first = Claims(folder)
    first.take([KEY])
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: real(psutil.Process()) + 3600, raising=False)
    assert living_claims(folder) == [f"claims/{KEY}.0"]
    assert not Claims(folder).take([KEY])


def test_an_owner_of_the_version_before_is_known_by_its_time_since_1970(folder):
    says(folder, f"claims/{KEY}.0", began=psutil.Process().create_time())
    assert living_claims(folder) == [f"claims/{KEY}.0"]


@pytest.mark.parametrize("odd", [{"pid": "x"}, {"pid": -1}, {"pid": 1 << 80}, {"began": None}, {"pid": [1]}])
def test_an_owner_that_is_no_process_is_dead(folder, odd):
    says(folder, f"claims/{KEY}.0", **odd)
    assert living_claims(folder) == []
    folder.write(f"claims/{KEY}.0", b"[" * 100_000)
    folder.write(f"claims/{KEY}.x", b"")
    assert not Claims(folder, dead_after=30).take([KEY])


def test_what_killed_sweeps_left_is_removed_by_the_next(folder):
    says(folder, "claims/sweep-1.0", began=-1.0)
    with sweeping(folder):
        assert len(living_claims(folder)) == len(list(folder.names("claims"))) == 1
    assert list(folder.names("claims")) == []


def test_a_sweep_waits_while_a_store_is_cleaned_and_cleaning_does_not_begin_in_a_sweep(files):
    with cleaning(files):
        sweep = sweeping(files)
        waiting = threading.Thread(target=sweep.__enter__, daemon=True)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    with pytest.raises(PruneBenchError, match="at work"), cleaning(files):
        pass
