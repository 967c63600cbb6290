"""A GPU's profile: whose it is, that damage is no profile, and what follows from it."""

import json
from dataclasses import replace

import pytest
import torch

from prune_bench.device_profile import local_profiles, local_versions, profile_path, read_profile, write_profile
from prune_bench.training import replay
from tests.nvidia import GIB, H100, profile, step


def test_a_profile_comes_back_as_it_was_and_lies_under_all_that_it_depends_on(machine):
    machine(H100)
    written = profile(step(1, 2.0), step(2, 2.5, replayed_ms=1.0), replay={"training float32": 0.0, "cts tf32": 1e-9})
    path = write_profile(written)
    assert read_profile(written.versions) == written
    versions = written.versions
    assert path.name == f"NVIDIA_H100_80GB_HBM3-{versions.torch}-{versions.cudnn}-580.65.06.json"


def test_a_profile_of_other_versions_is_not_used_even_under_this_ones_name(machine):
    machine(H100)
    path = write_profile(profile(step(1, 2.0)))
    machine(H100, driver="590.01")
    assert local_profiles() == []
    path.rename(profile_path(*local_versions()))
    assert local_profiles() == []


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"format": 1}', "cut", "negative", "later", "\0\xff"])
def test_a_damaged_profile_is_none(machine, damage):
    machine(H100)
    path = write_profile(profile(step(1, 2.0)))
    values = json.loads(path.read_text())
    if damage == "negative":
        values["steps"][0]["plain_ms"] = -1.0
    if damage == "later":
        values["format"] = 2
    texts = {"cut": path.read_text()[:-20], "negative": json.dumps(values), "later": json.dumps(values)}
    path.write_text(texts.get(damage, damage))
    assert local_profiles() == []
    path.unlink()
    assert local_profiles() == []


def test_a_new_profile_keeps_what_was_measured_of_other_networks(machine):
    machine(H100)
    write_profile(profile(step(1, 2.0, network="other"), step(1, 3.0), step(2, 3.0)))
    write_profile(profile(step(1, 4.0)))
    (now,) = local_profiles()
    assert [(s.network == "other", s.plain_ms) for s in now.steps] == [(True, 2.0), (False, 4.0)]


def test_best_lanes_are_the_fewest_that_are_about_as_quick_a_lane_and_fit(machine):
    machine(H100)
    one = step(1, 1.0)

    def best(*steps, **how):
        return profile(*steps, **how).best_lanes(one.network, 32, "float32")

    assert best(one, step(2, 1.1), step(4, 1.2), step(8, 2.39)) == 4  # 0.300 ms a lane; of 8 lanes 0.299
    assert best(one, step(2, 2.1), step(4, 5.0)) == 1
    assert best(one, step(2, 1.1), step(4, 1.2, peak_bytes=9 * GIB)) == 2
    assert best(replace(one, peak_bytes=9 * GIB)) == 1
    # What is replayed counts where replay is right, and there alone.
    replayed = (replace(one, replayed_ms=0.2), step(2, 1.1, replayed_ms=0.6))
    assert best(*replayed, replay={"training float32": 0.0}) == 1
    assert best(*replayed, replay={"training float32": 1e-9}) == 2
    assert best(*replayed) == 2
    # Steps in a layout that trainings do not use decide nothing.
    assert best(one, step(2, 1.1, own=False)) == 1
    assert profile(one).best_lanes(one.network, 64, "float32") is None
    assert profile(one).best_lanes(one.network, 32, "bfloat16") is None
    assert profile(one).best_lanes("another", 32, "float32") is None


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "not tried yet (prune-bench doctor)"),
        ({}, "tried, and not every step can be recorded"),
        ({"training float32": 0.0, "cts tf32": 1e-9}, "tried, and it changes bits (cts tf32)"),
        ({"training float32": 0.0, "cts tf32": 0.0}, ""),
    ],
)
def test_replay_is_on_by_itself_only_where_it_was_seen_to_change_no_bit(machine, found, why):
    machine(H100)
    if found is not None:
        write_profile(profile(step(1, 2.0), replay=found))
    replay._why_off.cache_clear()
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert replay.replay_is_off() == why
    assert replay.replay_here("auto", gpu) == (why == "")
    assert replay.replay_here("on", gpu)
    assert not replay.replay_here("off", gpu)
    assert not any(replay.replay_here(setting, cpu) for setting in ("auto", "on", "off"))
    replay._why_off.cache_clear()
