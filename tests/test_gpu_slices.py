"""``benchmarks/gpu.py`` cuts its work into slices, and loses nothing between them."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "LEAST", 0.0)
    return gpu


@pytest.fixture
def run_slice(gpu, tmp_path):
    """``run_slice(seconds, *parts)`` works for a time and gives every part's state."""

    def run(seconds, *plan, again=()):
        book = gpu.Book(tmp_path, "cpu", again)
        gpu.work(plan, book, tmp_path, seconds, again)
        return {
            name: entry["state"] for name, entry in json.loads((tmp_path / "gpu.json").read_text())["parts"].items()
        }

    return run


def script(gpu, tmp_path, name, code, *, goes_on=False):
    return gpu.Part(
        name=name, words=(sys.executable, "-c", code), result=None if goes_on else tmp_path / f"{name}.json"
    )


WAIT = "import time\ntime.sleep(60)"


def test_parts_are_done_in_order_and_a_failed_one_stops_none(gpu, run_slice, tmp_path):
    good = script(gpu, tmp_path, "good", f"open({str(tmp_path / 'good.json')!r}, 'w').write('[1, 2]')")
    bad = script(gpu, tmp_path, "bad", "raise SystemExit(3)")
    last = script(gpu, tmp_path, "last", "")
    assert run_slice(30, good, bad, last) == {"good": "done", "bad": "failed", "last": "done"}
    said = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert said["good"]["result"] == [1, 2] and said["bad"]["result"] is None
    mended = script(gpu, tmp_path, "bad", "")
    assert run_slice(30, good, mended, last)["bad"] == "failed"  # what is over is not done again
    assert run_slice(30, good, mended, last, again=["bad"])["bad"] == "done"


def test_what_goes_on_is_cut_off_as_often_as_it_takes(gpu, run_slice, tmp_path):
    mark = tmp_path / "third"
    code = f"import os, time\nif not os.path.exists({str(mark)!r}):\n    time.sleep(60)"
    sweep, after = script(gpu, tmp_path, "sweep", code, goes_on=True), script(gpu, tmp_path, "after", "")
    assert run_slice(0.5, sweep, after) == {"sweep": "cut"}
    assert run_slice(0.5, sweep, after) == {"sweep": "cut"}
    mark.touch()
    assert run_slice(30, sweep, after) == {"sweep": "done", "after": "done"}
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["sweep"]["slices"] == 3


def test_what_is_cut_off_ends_tidily_even_where_ctrl_c_is_ignored(gpu, tmp_path):
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(ended)!r}).touch(), sys.exit(1)))\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(60)"
    )
    assert gpu.run(script(gpu, tmp_path, "sweep", code, goes_on=True), 3.0, tmp_path / "log") is None
    assert begun.exists() and ended.exists()


def test_what_cannot_go_on_has_one_whole_slice_before_it_is_given_up(gpu, run_slice, tmp_path):
    first, long, last = (script(gpu, tmp_path, *of) for of in (("first", ""), ("long", WAIT), ("last", "")))
    assert run_slice(3, first, long, last) == {"first": "done", "long": "cut"}
    assert run_slice(0.5, first, long, last)["long"] == "too long"
    assert run_slice(30, first, long, last)["last"] == "done"


def test_all_sweeps_share_a_store_and_toys_never_take_a_gpu(gpu, tmp_path):
    for toy in (True, False):
        plan = gpu.parts(tmp_path, "cpu" if toy else "cuda", toy, ["seeds=[0,1]"])
        assert [part.name for part in plan][:2] == ["doctor", "ways"] and plan[-1].name == "grid"
        sweeps = [part.words for part in plan if part.goes_on]
        assert len({word for words in sweeps for word in words if word.startswith("store=")}) == 1
        assert len({word for words in sweeps for word in words if word.startswith("output=")}) == len(sweeps) == 4
        assert all(words[-1] == "seeds=[0,1]" and ("devices.accelerator=cpu" in words) == toy for words in sweeps)
