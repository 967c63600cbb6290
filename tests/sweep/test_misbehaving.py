"""Methods that misbehave: each is its own cells' failure with a reason, and a sound method beside it is done."""

import os
import threading
import time

import pytest
import torch

import prune_bench as pb
from prune_bench.pruners import pruners
from prune_bench.pruners.base import ScoringOptions, ScoringPruner
from prune_bench.registry import Entry
from prune_bench.sweep import sweep
from tests.sweep.test_sweep import results, run


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def recurse(self):
    return recurse(self)


def grab(self):
    return torch.empty(2**62)


def raises(error):
    def score(self):
        raise error

    return score


def changed(how):
    return lambda self: how({name: weight.detach().abs() for name, weight in self._weights().items()})


def without_one(scores):
    return dict(list(scores.items())[1:])


def mark_up(self):
    os.environ["PRUNE_BENCH_ODD"] = "\udcff"
    raise ValueError("[red]markup[/blue] \ud800 " + "x" * 100_000)


MISBEHAVIOURS = {
    "raises": raises(ValueError("no")),
    "exits": raises(SystemExit(0)),
    "is_mute": raises(MuteError()),
    "is_no_exception": raises(BaseException("odd")),
    "generator_exit": raises(GeneratorExit()),
    "device_words": raises(RuntimeError("CUDA error: an illegal memory access was encountered")),
    "memory": raises(MemoryError()),
    "grabs": grab,
    "recurses": recurse,
    "marks_up": mark_up,
    "none": lambda self: None,
    "nan": changed(lambda scores: {name: score * float("nan") for name, score in scores.items()}),
    "infinite": changed(lambda scores: {name: score / 0 for name, score in scores.items()}),
    "lacks_a_layer": changed(without_one),
    "other_names": changed(lambda scores: {f"{name}x": score for name, score in scores.items()}),
    "other_shapes": changed(lambda scores: {name: score.flatten() for name, score in scores.items()}),
    "complex": changed(lambda scores: {name: score.to(torch.complex64) for name, score in scores.items()}),
    "lists": changed(lambda scores: {name: score.tolist() for name, score in scores.items()}),
    "hangs": lambda self: time.sleep(600),
    "leaves_threads": lambda self: threading.Thread(target=time.sleep, args=(600,), daemon=True).start() or {},
}


@pytest.fixture
def all_of_them(monkeypatch):
    monkeypatch.setattr(sweep, "show_page", lambda *_: None)  # seconds, of no interest here
    monkeypatch.delenv("PRUNE_BENCH_ODD", raising=False)
    for name, do in MISBEHAVIOURS.items():
        build = type(name, (ScoringPruner,), {"score": lambda self, batches, do=do: do(self)})
        entry = Entry(name=name, build=build, options=ScoringOptions, source="here", summary="For a test.")
        monkeypatch.setitem(pruners._entries, name, entry)


WORDS = ("prune_at=[init]", "variants=[original]", "densities=[0.5]", "train.pack=1")


def test_each_fails_with_a_reason_and_a_sound_method_beside_them_is_done(all_of_them, tmp_path):
    methods = ", ".join(f"{name}: {{}}" for name in [*MISBEHAVIOURS, "snip"])
    code, _ = run(tmp_path / "all", *WORDS, f"methods={{{methods}}}", "limits.stage_seconds=5")
    assert code == 1
    frame = pb.load_results(tmp_path / "all").set_index("method")
    assert frame.status.to_dict() == {**dict.fromkeys(MISBEHAVIOURS, "failed"), "snip": "done"}
    assert frame.reason[list(MISBEHAVIOURS)].str.len().gt(0).all()
    assert "limits.stage_seconds" in frame.reason["hangs"]
    run(tmp_path / "alone", *WORDS, "methods=[snip]")
    alone = results(tmp_path / "alone").set_index("method").loc["snip"]
    assert results(tmp_path / "all").set_index("method").loc["snip"]["test/accuracy"] == alone["test/accuracy"]
