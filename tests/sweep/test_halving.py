"""Packs that do not fit in memory: halved until they do, and the same bits however often a sweep is cut off."""

import pytest
import torch

from prune_bench.sweep import compute
from prune_bench.sweep.packs import OpenPack, open_packs
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store
from tests.sweep.faults import content
from tests.sweep.test_packs import run as sweep
from tests.sweep.test_runner import FULL, Told, fails, names, run, stage, well

SMALL = (
    "model={name: lenet300_100}", "methods={magnitude: {}}", "densities=[0.5, 0.4, 0.3]", "seeds=[0, 1]",
    "train.epochs=1", "train.milestones=[]", "train.pack=8", "data={name: synthetic, samples: 64, test_samples: 32, "
    "image_size: 4, channels: 1, classes: 3}",
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def holds(lanes):
    """What a device does that has room for so many lanes."""
    return lambda job: fails(job, FULL, *names(job)) if len(job.lanes) > lanes else well(job)


@pytest.mark.parametrize(
    ("room", "tries"),
    [
        (8, ["abcdefgh"]),
        (4, ["abcdefgh", "abcd", "efgh"]),
        (3, ["abcdefgh", "abcd", "efgh", "ab", "cd", "ef", "gh"]),
        (1, ["abcdefgh", "abcd", "efgh", "ab", "cd", "ef", "gh", *"abcdefgh"]),
        (0, ["abcdefgh", "abcd", "efgh", "ab", "cd", "ef", "gh", *"abcdefgh", *"abcdefgh"]),
    ],
)
def test_a_pack_that_does_not_fit_is_halved_and_only_a_lane_by_itself_fails(store, room, tries):
    stages = [stage(name) for name in "abcdefgh"]
    executor = Told(store, holds(room), ["cuda:0"])
    progress = run(stages, executor, packs=[stages])
    assert sorted("".join(lanes) for lanes in executor.jobs) == sorted(tries)
    assert len(progress.failed) == (8 if room == 0 else 0)


def test_a_half_knows_what_it_was_halved_from_and_its_seeds(store):
    seen = []

    def answer(job):
        seen.append(job)
        return holds(2)(job)

    stages = [Stage("training", name, {"name": name, "seed": i // 2}) for i, name in enumerate("abcde")]
    run(stages, Told(store, answer, ["cuda:0"]), packs=[stages])
    whole = tuple(s.key for s in stages)
    found = {"".join(names(job)): (job.seeds, job.halved_from == whole) for job in seen if len(job.lanes) < 5}
    assert found == {"abc": ((0, 0, 1), True), "de": ((1, 2), True), "ab": ((0, 0), True), "c": ((1,), True)}


def test_a_lane_that_fails_in_a_half_costs_its_neighbour_nothing(store):
    stages = [stage(name) for name in "abcd"]

    def answer(job):
        if len(job.lanes) == 4:
            return fails(job, FULL, "b", "c")  # a and d have been done
        return well(job)

    executor = Told(store, answer)
    assert run(stages, executor, packs=[stages]).failed == {}
    assert sorted(executor.jobs) == [("-", "b"), ("a", "b", "c", "d"), ("c", "-")]


@pytest.mark.parametrize(
    ("finished", "left"),
    [
        (["abcd"], ["efgh"]),
        (["ab"], ["cd", "efgh"]),
        (["gh"], ["abcd", "ef"]),
        (["ab", "ef"], ["cd", "gh"]),
        (["c"], ["ab", "d", "efgh"]),
    ],
)
def test_what_is_left_of_a_halved_pack_is_halved_as_it_would_have_been(store, finished, left):
    for part in finished:
        for key in part:
            record = {"packed": list(part), "packed_seeds": [0] * len(part), "halved_from": list("abcdefgh")}
            store.write(f"training-{key}", Artifact(record | _prefixed(record)))
    done = set("".join(finished))
    todo = {f"training-{key}": Stage("training", key, {"seed": 0}) for key in "abcdefgh" if key not in done}
    whole = tuple(f"training-{key}" for key in "abcdefgh")
    parts = [tuple(f"training-{key}" for key in part) for part in left]
    assert open_packs([whole], todo, store) == [OpenPack(part, (0,) * len(part), part, whole) for part in parts]


def _prefixed(record):
    return {name: [f"training-{key}" for key in record[name]] for name in ("packed", "halved_from")}


def test_a_lane_lost_from_a_half_is_run_in_that_half_again(store):
    whole, half = tuple(f"training-{k}" for k in "abcd"), ("training-a", "training-b")
    record = {"packed": list(half), "packed_seeds": [3, 4], "halved_from": list(whole)}
    store.write(half[0], Artifact(record))
    todo = {key: Stage("training", key, {"seed": 7}) for key in whole[1:]}
    assert open_packs([whole], todo, store) == [
        OpenPack(half, (3, 4), half[1:], whole),
        OpenPack(whole[2:], (7, 7), whole[2:], whole),
    ]


@pytest.fixture
def small_memory(monkeypatch):
    """Room for two trainings; ``small_memory(k)`` cuts a sweep off before its k-th training."""
    real, cut = compute._HOW["training"], {"left": -1}

    def training(stages, *rest):
        if len(stages) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if cut["left"] == 0:
            raise KeyboardInterrupt
        cut["left"] -= 1
        return real(stages, *rest)

    monkeypatch.setitem(compute._HOW, "training", training)
    return lambda left: cut.update(left=left)


def test_a_halved_pack_has_the_same_bits_wherever_it_is_cut_off(tmp_path, small_memory):
    assert sweep(tmp_path / "whole", *SMALL) == 0
    whole = content(tmp_path / "whole")
    assert sum('"halved_from"' in record for record, _ in whole.values()) == 6
    for left in (1, 3):
        folder = tmp_path / str(left)
        small_memory(left)
        with pytest.raises(KeyboardInterrupt):
            sweep(folder, *SMALL)
        small_memory(-1)
        assert sweep(folder, *SMALL) == 0
        assert content(folder) == whole


def test_a_lane_that_was_lost_comes_out_as_it_was(tmp_path, small_memory):
    assert sweep(tmp_path, *SMALL) == 0
    whole = content(tmp_path)
    next((tmp_path / "store" / "training").rglob("*.safetensors")).unlink()
    for path in (tmp_path / "store" / "result").rglob("*.safetensors"):
        path.unlink()
    assert sweep(tmp_path, *SMALL) == 0
    assert content(tmp_path) == whole
