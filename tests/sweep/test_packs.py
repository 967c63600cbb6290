"""Which stages go side by side, and that no one's company costs a result or changes it."""

import io

import numpy as np
import pytest
from rich.console import Console

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep import compute, sweep
from prune_bench.sweep.pack_sizes import pack_sizes
from prune_bench.sweep.packs import OpenPack, make_packs, open_packs
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store

TINY = {
    "name": "tiny",
    "model": {"name": "resnet8", "width": 4},
    "data": {"name": "synthetic", "samples": 128, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1]},
    "methods": {"snip": {}, "cts": {"steps": 3, "batch_size": 32}},
    "densities": [0.5, 0.3],
    "seeds": [0, 1, 2],
    "executor": "inline",
    "wandb": {"mode": "disabled"},
}
TIMES = ["search/seconds", "train/seconds", "memory/peak_bytes", "run"]  # and what the folder is called


def run(folder, *overrides, **how):
    experiment = make_experiment(TINY, [f"output={folder}", *overrides])
    return sweep.run_sweep(experiment, Console(file=io.StringIO(), width=140), **how)


def results(folder):
    return pb.load_results(folder).drop(columns=TIMES).sort_values(["method", "density", "seed"], ignore_index=True)


def packs(*overrides):
    experiment = make_experiment(TINY, overrides)
    plan = sweep.prepare(experiment)
    return plan, make_packs(plan, pack_sizes(experiment, sweep.sample_data(experiment), "cpu"))


def test_every_stage_is_in_one_pack_of_its_kind_and_no_pack_is_too_large():
    plan, found = packs("train.pack=4")
    assert sorted(key for pack in found for key in pack) == sorted(plan.stages)
    sizes = {}
    for pack in found:
        stages = [plan.stages[key] for key in pack]
        assert len({(s.kind, s.alike) for s in stages}) == 1
        sizes.setdefault(f"{stages[0].kind} {stages[0].alike}".strip(), []).append(len(pack))
    # Six cells a method, so that a pack of at most four means two of three.
    assert sizes["training snip at init"] == [3, 3]
    assert sizes["ranking cts at init"] == [3, 3]
    assert set(sizes["ranking"] + sizes["ticket"] + sizes["result"] + sizes["state"]) == {1}


def test_auto_packs_small_steps_on_the_cpu_and_nothing_elsewhere():
    experiment = make_experiment(TINY)
    data, (stage, *_) = sweep.sample_data(experiment), [s for s in packs()[0].stages.values() if s.kind == "training"]
    assert pack_sizes(experiment, data, "cpu")(stage) == 8
    assert pack_sizes(experiment, data, "cuda")(stage) == 1
    large = make_experiment(TINY, ["train.batch_size=512", "data.image_size=32", "data.samples=600"])
    (stage, *_) = [s for s in sweep.prepare(large).stages.values() if s.kind == "training"]
    assert pack_sizes(large, sweep.sample_data(large), "cpu")(stage) == 1


def test_a_network_that_cannot_be_packed_is_not_and_says_so_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("prune_bench.sweep.pack_sizes.can_pack", lambda *_: False)
    assert {len(pack) for pack in packs()[1]} == {1}
    with pytest.raises(ConfigError, match=r"train\.pack"):
        packs("train.pack=2")


def test_a_pack_that_was_begun_is_opened_as_it_was_and_strangers_are_left_out(tmp_path):
    store = Store(tmp_path)
    todo = {key: Stage("training", "", {"seed": 7}) for key in ("training-b", "training-d", "training-f")}
    record = {"packed": ["training-a", "training-b", "training-x"], "packed_seeds": [4, 4, 5]}
    store.write("training-a", Artifact(record))
    store.write("training-c", Artifact({"packed": ["training-c", "training-y"], "packed_seeds": [6, 7]}))
    planned = [("training-a", "training-b"), ("training-c", "training-d"), ("training-e", "training-f")]
    assert open_packs(planned, todo, store) == [
        OpenPack(("training-a", "training-b", "training-x"), (4, 4, 5), ("training-b",)),
        OpenPack(("training-d",), (7,), ("training-d",)),
        OpenPack(("training-f",), (7,), ("training-f",)),
    ]


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_search_that_shared_a_dense_network_is_found_again_with_the_same_bits(tmp_path, lost):
    words = ["methods={cts_kl: {steps: 12, batch_size: 32}}", "seeds=[0,1]", "train.pack=4"]
    assert run(tmp_path, *words) == 0
    store = Store(tmp_path / "store")
    paths = sorted((tmp_path / "store" / "ranking").rglob("*.safetensors"))
    found = {path: store.read(f"ranking-{path.stem}") for path in paths}
    assert [len(artifact.record["packed"]) for artifact in found.values()] == [4] * 4
    assert found[paths[0]].record["packed_seeds"] == [0, 0, 1, 1]
    paths[lost].unlink()
    for kind in ("ticket", "training", "result"):
        for path in (tmp_path / "store" / kind).rglob("*.safetensors"):
            path.unlink()
    assert run(tmp_path, *words) == 0
    for path, before in found.items():
        again = store.read(f"ranking-{path.stem}")
        assert all(np.array_equal(values, before.tensors[name]) for name, values in again.tensors.items())
        assert again.record["curves"] == before.record["curves"]


def test_packed_and_unpacked_cells_agree_up_to_the_order_of_sums(tmp_path):
    # With three steps and no decay of accuracy in them, float32 order does not grow to a changed prediction.
    assert run(tmp_path / "packed") == run(tmp_path / "alone", "train.pack=1") == 0
    packed, alone = (results(tmp_path / name) for name in ("packed", "alone"))
    assert set(packed.lanes) == {6}
    assert set(alone.lanes) == {1}
    np.testing.assert_allclose(packed["test/loss"], alone["test/loss"], rtol=1e-3)
    assert (packed.kept == alone.kept).all()


@pytest.mark.parametrize("saved", [1, 2, 5])
def test_a_sweep_cut_off_while_a_pack_is_saved_gives_the_undisturbed_bits(tmp_path, monkeypatch, saved):
    assert run(tmp_path / "whole") == 0
    write, written = Store.write, []

    def cut_off(self, key, artifact):
        if key.startswith("training"):
            written.append(key)
            if len(written) > saved:
                raise KeyboardInterrupt
        write(self, key, artifact)

    monkeypatch.setattr(Store, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(Store, "write", write)
    assert run(tmp_path / "cut") == 0
    assert results(tmp_path / "cut").equals(results(tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["ticket", "training"])
def test_one_lanes_fault_costs_its_neighbours_neither_result_nor_bits(tmp_path, monkeypatch, kind):
    assert run(tmp_path / "whole") == 0
    real = compute._HOW[kind]

    def failing(stages, inputs, *where):
        if any(s.label == "cts 0.3 seed 1" for s in stages):
            raise RuntimeError("no such luck")
        return real(stages, inputs, *where)

    monkeypatch.setitem(compute._HOW, kind, failing)
    assert run(tmp_path / "hurt") == 1
    hurt, whole = results(tmp_path / "hurt"), results(tmp_path / "whole")
    failed = hurt.status == "failed"
    assert list(hurt[failed][["method", "density", "seed"]].itertuples(index=False, name=None)) == [("cts", 0.3, 1)]
    assert (hurt[~failed][["test/loss", "kept"]] == whole[~failed][["test/loss", "kept"]]).all(axis=None)
    monkeypatch.setitem(compute._HOW, kind, real)
    assert run(tmp_path / "hurt", retry_failed=True) == 0
    assert results(tmp_path / "hurt").equals(whole)


def test_more_seeds_compute_only_their_own_cells(tmp_path, monkeypatch):
    assert run(tmp_path, "seeds=[0,1]") == 0
    seen, real = [], compute._HOW["training"]
    monkeypatch.setitem(
        compute._HOW,
        "training",
        lambda stages, *rest: seen.extend(s.spec["seed"] for s in stages) or real(stages, *rest),
    )
    assert run(tmp_path) == 0
    assert seen == [2] * 4
