"""The cores and the memory that control groups leave a process, with groups written by hand."""

import os

import pytest

from prune_bench import cores as module
from prune_bench.cores import control_groups, core_quota, memory_limit, usable_cores


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cgroup": "0::/a/b\n", "root/a/b/cpu.max": "max 100000", "root/a/cpu.max": "150000 100000",
          "root/a/b/memory.max": "max", "root/memory.max": "4096"}, 1.5, 4096),
        ({"cgroup": "0::/\n", "root/cpu.max": "200000 100000\n", "root/memory.max": "max"}, 2.0, None),
        ({"cgroup": "3:cpu,cpuacct:/x\n5:memory:/y\n", "root/cpu/x/cpu.cfs_quota_us": "50000",
          "root/cpu/x/cpu.cfs_period_us": "100000", "root/cpu/cpu.cfs_quota_us": "-1",
          "root/cpu/cpu.cfs_period_us": "100000", "root/memory/y/memory.limit_in_bytes": "1000"}, 0.5, 1000),
        ({"cgroup": "nothing of the kind\n"}, None, None),
        ({"cgroup": "0::/\n", "root/cpu.max": "1 0", "root/memory.max": "much"}, None, None),
        ({"cgroup": "0::/\n", "root/cpu.max": "0 100000"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_limits_of_control_groups_of_both_versions(tmp_path, files, cores, memory):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = control_groups(tmp_path / "cgroup", tmp_path / "root")
    assert core_quota(groups) == cores
    assert memory_limit(groups) == memory


@pytest.mark.parametrize(("quota", "usable"), [(None, 4.0), (2.5, 2.5), (64.0, 4.0)])
def test_a_quota_leaves_fewer_of_the_cores_that_are_there(monkeypatch, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(module, "core_quota", lambda groups: quota)
    assert usable_cores() == usable
