"""The GPUs that the driver lists, and those of them that CUDA would see. The driver is a script that says so."""

import pytest

from prune_bench.gpus import visible_gpus


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["A", "B", "B"]),
        ("", []),
        ("2,0", ["B", "A"]),
        ("GPU-b2, 0", ["B", "A"]),
        ("0,7,1", ["A"]),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_cuda_would_see(machine, monkeypatch, visible, names):
    machine("GPU 0: A (UUID: GPU-a1)", "GPU 1: B (UUID: GPU-b1)", "GPU 2: B (UUID: GPU-b2)")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in visible_gpus()] == names


@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["A", "B"]), ("0", ["A", "B"]), ("GPU-b1", ["B"]), ("GPU-b1,0", ["A", "B"]), ("7", [])],
)
def test_where_kinds_differ_a_number_tells_no_kind_because_cuda_numbers_the_fastest_first(
    machine, monkeypatch, visible, names
):
    machine("GPU 0: A (UUID: GPU-a1)", "GPU 1: B (UUID: GPU-b1)")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in visible_gpus()] == names


def test_a_slice_of_a_gpu_is_called_as_torch_calls_it_and_is_not_the_whole(machine, monkeypatch):
    machine("GPU 0: NVIDIA A100 (UUID: GPU-a1)", "  MIG 1g.5gb     Device  0: (UUID: MIG-c1)",
            "  MIG 1g.5gb     Device  1: (UUID: MIG-c2)", "GPU 1: NVIDIA A100 (UUID: GPU-a2)")  # fmt: skip
    assert [gpu.name for gpu in visible_gpus()] == ["NVIDIA A100 MIG 1g.5gb"] * 2 + ["NVIDIA A100"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c2")
    assert [gpu.driver for gpu in visible_gpus()] == ["580.65.06"]


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path, machine, monkeypatch):
    monkeypatch.setattr("prune_bench.gpus._PATIENCE", 0.2)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 20\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible_gpus() == ()
