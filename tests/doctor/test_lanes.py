"""Steps of the experiment's own network: what is measured, and what follows for memory."""

import pytest
import torch

from prune_bench.device_profile import StepTime
from prune_bench.doctor import lanes
from tests.doctor.planted import subject, verdicts

KNOWN = {"input_shape": [1, 8, 8], "classes": 4, "slots": ["cpu"], "memory_free": 10**12}
GB = 10**9


def step(count, gigabytes, **others):
    values = {"network": "n", "batch": 32, "precision": "float32", "layout": "contiguous", "own": True,
              "plain_ms": 1.0, "replayed_ms": None}  # fmt: skip
    return StepTime(**(values | others), lanes=count, peak_bytes=int(gigabytes * GB))


def test_every_batch_size_of_the_experiment_is_measured_once():
    lines = list(
        lanes.look(subject("methods={snip: {}, ltr: {}, cts: {batch_size: 16, precision: bfloat16}}", known=KNOWN))
    )
    assert verdicts(lines) == [("steps", "figure"), ("steps", "figure"), ("fits", "figure")]
    steps = lines[1].values["steps"]
    assert [(s["batch"], s["precision"], s["lanes"]) for s in steps] == [(32, "float32", 1), (16, "bfloat16", 1)]
    assert all(s["plain_ms"] > 0 and s["own"] for s in steps)


def test_nothing_is_measured_of_images_that_nobody_knows():
    assert verdicts(lanes.look(subject())) == [("steps", "skipped")]


def test_more_lanes_and_the_other_layout_are_the_same_training_at_their_own_time():
    bench = lanes.Bench(subject().experiment, (3, 8, 8), 4, torch.device("cpu"))
    found = [bench.step_time(32, "float32", count, other_layout=other) for count in (1, 2) for other in (False, True)]
    assert [s.lanes for s in found] == [1, 1, 2, 2]
    for own, other in (found[:2], found[2:]):
        assert {own.layout, other.layout} == {"contiguous", "channels_last"}
        assert (own.own, other.own) == (True, False)


@pytest.mark.parametrize(
    "words",
    ["CUDA out of memory. Tried to", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "std::bad_alloc"],
)
def test_lanes_that_do_not_fit_end_the_measurement_of_more(monkeypatch, words):
    class Full:
        def step_time(self, batch, precision, count, *, other_layout):
            if count > 2:
                raise RuntimeError(words)
            return step(count, 1, own=not other_layout)

    found = lanes._measured(Full(), 32, "float32", (1, 2, 4, 8), both_layouts=True)
    assert [(s.lanes, s.own) for s in found] == [(1, True), (2, True), (1, False), (2, False)]


def test_other_errors_are_not_taken_for_full_memory():
    class Broken:
        def step_time(self, *_, **__):
            raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        lanes._measured(Broken(), 32, "float32", (1,), both_layouts=False)


def test_lanes_that_fit_follow_from_what_a_lane_more_takes():
    line = lanes.fits_gpu([step(1, 1), step(8, 4.5)], 10 * GB)  # half a gigabyte a lane more
    assert line.verdict == "figure"
    assert "15 lanes fit in 80%" in line.words  # 1 + (8 - 1) / 0.5
    assert lanes.fits_gpu([step(1, 9)], 10 * GB).verdict == "mend"
    assert lanes.fits_gpu([], 10 * GB).verdict == "mend"


def test_workers_that_do_not_fit_in_memory_are_a_mend():
    assert lanes.fits_machine(GB, 4, 4 * GB).verdict == "figure"
    assert lanes.fits_machine(GB, 4, None).verdict == "figure"
    line = lanes.fits_machine(GB, 4, 3 * GB)
    assert (line.verdict, "devices.count=3" in line.words) == ("mend", True)
