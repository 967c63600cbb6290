"""Crashes and kills: what was finished stays, nothing is computed twice, and the end is as if nothing was."""

import os
import random
import re
import signal
import time
from collections import Counter

import pytest

from tests.sweep import faults

KILLS = 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    faults.start(tmp_path_factory.mktemp("first") / "run", "seeds=[0]", "methods=[snip]").join()  # the server imports
    folder = tmp_path_factory.mktemp("whole") / "run"
    child = faults.start(folder)
    begun = faults.now()
    child.join()
    assert child.exitcode == 0
    return faults.content(folder), faults.now() - begun


@pytest.mark.timeout(600)
def test_a_crash_before_every_file_operation_changes_no_bit_and_repeats_nothing_finished(tmp_path):
    folder, crashes = tmp_path / "run", tmp_path / "crashes"
    words = ("seeds=[0]", "prune_at=[init]", "variants=[original]", "densities=[0.5]", "methods={snip: {}, ltr: {}}")
    faults.start(tmp_path / "whole", *words).join()
    starts = 0
    while True:
        child, starts = faults.start_and_crash(folder, crashes, *words), starts + 1
        child.join()
        if child.exitcode != faults.CRASHED:
            break
        assert starts < 200, "a sweep that crashes again and again does not come to its end"
    assert child.exitcode == 0
    assert faults.content(folder) == faults.content(tmp_path / "whole")
    assert [key for key, times in Counter(faults.finished(folder)).items() if times > 1] == []
    operations = crashes.read_text()
    for kind in ("state", "ranking", "ticket", "training", "result"):
        assert re.search(rf"open /store/{kind}/.*part", operations)
        assert re.search(rf"os.rename /store/{kind}/", operations)
        assert re.search(rf"open /store/claims/{kind}", operations)
    assert "os.remove /store/claims/" in operations


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_the_driver_change_no_bit_and_repeat_nothing_finished(undisturbed, tmp_path):
    whole, seconds = undisturbed
    chance, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        folder, runs, starts = tmp_path / f"run{runs}", runs + 1, 0
        # Half of the moments lie close together, half reach over the end, where the page is made.
        while not faults.wait_for(child := faults.start(folder), chance.uniform(0, seconds / chance.choice((2, 8)))):
            kills, starts = kills + faults.kill(child), starts + 1
            assert starts < 10 * KILLS, "a sweep that is killed again and again does not come to its end"
        assert child.exitcode == 0
        assert faults.content(folder) == whole
        assert [key for key, times in Counter(faults.finished(folder)).items() if times > 1] == []
    assert runs >= 1


def test_two_sweeps_on_one_store_share_the_work_and_both_have_the_whole_table(undisturbed, tmp_path):
    children = [faults.start(tmp_path / "run") for _ in range(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert faults.content(tmp_path / "run") == undisturbed[0]
    assert set(Counter(faults.finished(tmp_path / "run")).values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_three_sweeps_on_one_store_any_may_be_killed(undisturbed, tmp_path):
    chance, kills = random.Random(1), 0
    for attempt in range(3):
        folder = tmp_path / f"run{attempt}"
        children = [faults.start(folder) for _ in range(3)]
        for child in children[1:]:
            time.sleep(chance.uniform(0, undisturbed[1] / 4))
            kills += faults.kill(child)
        children[0].join()
        assert children[0].exitcode == 0
        assert faults.content(folder) == undisturbed[0]
        assert max(Counter(faults.finished(folder)).values()) == 1
    assert kills >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_workers_and_of_their_driver_change_no_bit(undisturbed, tmp_path):
    chance, folder = random.Random(2), tmp_path / "run"
    words = ("executor=processes", "devices.count=2")
    for victim in ("worker", "driver", "worker", "driver"):
        child = faults.start(folder, *words)
        while len(workers := faults.children_of(child.pid)) < 2:
            time.sleep(0.05)
        time.sleep(chance.uniform(1, 4))  # they import torch first
        if victim == "worker":
            os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(chance.uniform(0, 1))
        assert faults.kill(child)
    child = faults.start(folder, *words)
    while not (workers := faults.children_of(child.pid)):
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)
    child.join()
    assert child.exitcode == 0
    assert faults.content(folder) == undisturbed[0]
