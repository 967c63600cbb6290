"""The command line: exit codes, and words a person can act on."""

import subprocess
import sys

import pytest

import prune_bench as pb
from prune_bench.cli import main

CELL = ["run", "method=snip", "density=0.1", "seed=1", "train.epochs=1", "train.batch_size=256", "model.width=4",
        "executor=inline", "wandb.mode=disabled"]  # fmt: skip


def test_run_runs_one_cell(tmp_path, capsys):
    assert main([*CELL, f"output={tmp_path}"]) == 0
    frame = pb.load_results(tmp_path)
    assert frame[["method", "density", "seed", "status"]].to_numpy().tolist() == [["snip", 0.1, 1, "done"]]
    assert "snip" in capsys.readouterr().out


def test_a_wrong_request_is_exit_code_2_and_runs_nothing(tmp_path, capsys):
    assert main([*CELL, f"output={tmp_path / 'run'}", "train.epochz=1"]) == 2
    assert "Did you mean 'epochs'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_would_run_and_computes_nothing(tmp_path, capsys):
    assert main(["sweep", "experiments/smoke.yaml", "--dry-run", f"output={tmp_path / 'run'}"]) == 0
    assert "201 cells" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_cells_on_two_devices_each_names_them_and_how_long_they_take(tmp_path, capsys):
    words = ["devices.accelerator=cpu", "devices.count=4", "devices.per_cell=2", f"output={tmp_path / 'run'}"]
    assert main(["sweep", "experiments/smoke.yaml", "--dry-run", *words]) == 0
    out = capsys.readouterr().out
    assert "2 x cpu+cpu" in out
    assert "time: about" in out


@pytest.mark.parametrize(
    ("command", "names"), [("methods", pb.methods()), ("models", pb.models()), ("datasets", pb.datasets())]
)
def test_lists_name_everything(command, names, capsys):
    assert main([command]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names)


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "not the folder of a sweep" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv", "json", "md"])
def test_reports_in_every_format(tmp_path, capsys, form):
    main([*CELL, f"output={tmp_path}"])
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--format", form]) == 0
    assert "snip" in capsys.readouterr().out


def test_a_reader_that_has_enough_ends_it_without_a_traceback():
    words = f"{sys.executable} -m prune_bench.cli methods | head -n 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
