"""Replay and repetition: equal bits pass, and each way of differing is told."""

import itertools

import numpy as np
import pytest
import torch

from prune_bench.doctor import bits, toy
from prune_bench.sweep.store import Artifact
from prune_bench.training import replay as recording
from prune_bench.training.descent import Descent
from tests.doctor.planted import subject


@pytest.fixture(autouse=True)
def only_float32(monkeypatch):
    """Fewer kinds; and nothing that a fault has touched is kept."""
    monkeypatch.setattr(bits, "precisions", lambda *_: ("float32",))
    bits._plain.cache_clear()
    yield
    bits._plain.cache_clear()


@pytest.fixture
def only(monkeypatch):
    return lambda *works: monkeypatch.setattr(bits, "WORKS", works)


def test_all_kinds_of_steps_replay_to_the_same_bits_here():
    (line,) = bits.replay(subject())
    assert line.verdict == "pass"
    assert line.values == {"replay": {"training float32": 0.0, "cts float32": 0.0, "cts_kl float32": 0.0}}


def test_the_same_work_twice_ends_with_the_same_bits_here():
    (line,) = bits.twice(subject())
    assert (line.verdict, "all 3 kinds" in line.words) == ("pass", True)


def test_a_replay_that_differs_is_told_and_stays_off(monkeypatch, only):
    only("training")
    replayed = recording.Replayed.__call__

    def differing(self, *inputs):
        result = replayed(self, *inputs)
        if self._result is not None:
            with torch.no_grad():
                for parameter in self._step.__self__._parameters:
                    parameter.mul_(1.01)
        return result

    monkeypatch.setattr(recording.Replayed, "__call__", differing)
    told, summary = bits.replay(subject())
    assert told.verdict == "mend"
    assert "training float32: replay differs by" in told.words
    assert (summary.verdict, summary.values["replay"]["training float32"] > 0) == ("figure", True)


def test_a_replay_that_differs_by_rounding_is_a_figure_and_stays_off(monkeypatch, only):
    only("training")
    monkeypatch.setattr(bits, "difference", lambda *_: 9e-7)
    told, summary = bits.replay(subject())
    assert (told.verdict, "rounding" in told.words) == ("figure", True)
    assert summary.values == {"replay": {"training float32": 9e-7}}
    monkeypatch.setattr(bits, "difference", lambda *_: 1.1e-6)
    assert next(bits.replay(subject())).verdict == "mend"


def test_a_rate_that_is_not_recorded_anew_is_found(monkeypatch, only):
    """What a replay of numbers that have changed since comes to; in a training and in a search."""
    only("training", "cts_kl")
    monkeypatch.setattr(recording.Replayed, "forget", lambda self: self.__dict__.setdefault("_record", None) or
                        self.__dict__.setdefault("_result", None))  # fmt: skip
    *told, summary = bits.replay(subject())
    assert [line.verdict for line in told] == ["mend", "mend"]
    assert summary.verdict == "figure"


def test_a_step_that_cannot_be_recorded_is_told_and_gives_no_profile(monkeypatch, only):
    only("training")
    step = Descent.step

    def reading(self, x, y):
        losses = step(self, x, y)
        return losses + 0.0 * losses.sum().item()

    monkeypatch.setattr(Descent, "step", reading)
    told, summary = bits.replay(subject())
    assert (told.verdict, "cannot be recorded" in told.words) == ("mend", True)
    assert summary.values == {"replay": {}}


def test_a_graph_that_cannot_be_made_is_told_for_each_kind(monkeypatch, only):
    only("training", "cts_kl")

    def refused(*_):
        raise RuntimeError(
            "CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
        )

    monkeypatch.setattr(recording, "Tape", refused)
    *told, summary = bits.replay(subject())
    assert [line.verdict for line in told] == ["mend", "mend"]
    assert "cts_kl float32: fails: CUDA error: operation not permitted when stream is capturing; " in told[1].words
    assert summary.values == {"replay": {}}


def test_work_that_does_not_repeat_itself_is_a_mend(monkeypatch, only):
    only("training", "cts_kl")
    step, count = Descent.step, itertools.count()

    def drifting(self, x, y):
        losses = step(self, x, y)
        with torch.no_grad():
            self._parameters[0][0, 0, 0, 0] += 1e-6 * next(count)
        return losses

    monkeypatch.setattr(Descent, "step", drifting)
    (line,) = bits.twice(subject())
    assert line.verdict == "mend"
    assert "training float32 by" in line.words


def made(values, **row):
    return Artifact({"curves": [row]}, {"w": np.array(values, dtype=np.float32)})


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (made([3, 4], loss=1.0), made([3, 4], loss=1.0), 0.0),
        (made([3, 4]), made([3, 4.5]), 0.1),
        (made([3, 4], loss=2.0), made([3, 4], loss=2.5), 0.25),
        (made([float("nan")]), made([float("nan")]), 0.0),
        (made([float("nan")]), made([1.0]), float("inf")),
    ],
)
def test_a_difference_is_relative_to_the_norm_and_0_only_of_equal_bits(one, other, apart):
    assert toy.difference(one, other) == pytest.approx(apart)


def test_zeros_of_other_sign_are_other_bits():
    assert toy.difference(made([0.0, 1.0]), made([-0.0, 1.0])) > 0
