"""Cores, threads and memory, against what slots ask of them."""

import os
from types import SimpleNamespace

import psutil
import pytest

from prune_bench.doctor import machine
from tests.doctor.planted import subject


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))


@pytest.mark.parametrize(
    ("slots", "threads", "limit", "verdict", "way"),
    [
        (4, 1, None, "pass", ""),
        (2, 2, None, "pass", ""),
        (1, 1, 0.5, "pass", ""),
        (4, 2, None, "mend", "devices.threads=1"),
        (5, 2, None, "mend", "devices.count=4 and devices.threads=1"),
        (4, 1, 2.5, "mend", "devices.count=2"),
        (1, 8, None, "mend", "devices.threads=4"),
        (2, 4, 3.0, "mend", "devices.threads=1"),
    ],
)
def test_more_threads_than_cores_are_told_with_a_way_out(four_cores, slots, threads, limit, verdict, way):
    line = machine.cores(slots, threads, limit)
    assert line.verdict == verdict
    assert way in line.words


def test_gpus_are_not_left_idle_for_want_of_cores(four_cores):
    assert "ask for 8 cores" in machine.cores(8, 1, None, on_gpus=True).words
    assert "devices.threads=1" in machine.cores(4, 2, None, on_gpus=True).words


def test_others_at_work_are_told(four_cores, monkeypatch):
    assert "others are at work" not in machine.cores(4, 1, None).words
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0, 0))
    assert "load 9.0: others are at work" in machine.cores(4, 1, None).words


def test_memory_is_what_is_free_and_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64e9, available=48e9))
    assert machine.memory(None).words == "48.0 GB free of 64.0 GB"
    assert machine.memory(2**63 - 4096).words == "48.0 GB free of 64.0 GB"  # how version 1 writes no limit
    assert machine.memory(8 * 10**9).values == {"memory_free": 8 * 10**9}


def test_this_machine_has_an_answer():
    assert [line.name for line in machine.look(subject(known={"slots": ["cpu"]}))] == ["cores", "memory"]
