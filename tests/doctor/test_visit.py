"""The round: what runs where, what is printed and written, and what the exit code says."""

import io
import json

import pytest
from rich.console import Console

from prune_bench.cli import main
from prune_bench.doctor import visit
from tests.doctor.planted import check, subject


@pytest.fixture
def plant(monkeypatch):
    """``plant(machine=..., steps=...)`` has a round of these checks only."""

    def made(machine=(), steps=(), plan="well"):
        monkeypatch.setattr(visit, "MACHINE", tuple(check(name) for name in machine))
        monkeypatch.setattr(visit, "STEPS", tuple(check(name) for name in steps))
        for name, planted in (("_GPU", "gpu"), ("_LANES", "process"), ("_PROFILE", "well"), ("_RANKS", "gpu"),
                              ("_PLAN", plan)):  # fmt: skip
            monkeypatch.setattr(visit, name, check(planted))

    return made


def visited(tmp_path, width=80):
    console = Console(file=io.StringIO(), width=width)
    code = visit.run_doctor(subject().experiment, console, tmp_path / "doctor.json")
    return code, console.file.getvalue(), json.loads((tmp_path / "doctor.json").read_text())


def lines(said):
    return [
        (section["title"], line["name"], line["words"]) for section in said["sections"] for line in section["lines"]
    ]


def test_nothing_to_mend_is_0_and_one_mend_is_1(tmp_path, plant):
    plant(machine=["well"], steps=["process"])
    code, text, said = visited(tmp_path)
    assert (code, said["mends"], said["done"]) == (0, 0, True)
    assert "nothing to mend" in text
    plant(machine=["well", "broken"], steps=["crashes"])
    code, text, said = visited(tmp_path)
    assert (code, said["mends"]) == (1, 2)
    assert "2 things to mend" in text
    assert "[again]" in text


def test_checks_know_what_those_before_have_found(tmp_path, plant):
    plant(machine=["well"], steps=["well"])
    sections = visited(tmp_path)[2]["sections"]
    assert [line["values"].get("seen") for section in sections for line in section["lines"][:1]] == [
        [], ["seen", "two"], ["seen", "two"]
    ]  # fmt: skip


def test_every_gpu_has_a_process_that_sees_it_alone_and_a_kind_is_timed_once(tmp_path, plant, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6")
    plant(machine=["two_gpus"], steps=["process"])
    said = lines(visited(tmp_path)[2])
    assert [words for _, name, words in said if name == "GPU"] == [
        "cuda:0 is 4", "cuda:0 is GPU-6", "cuda:0+cuda:1 is 4,GPU-6"
    ]  # fmt: skip
    processes = {title: words for title, name, words in said if name == "process"}
    assert processes["GPU cuda:0"] == processes["GPU cuda:0: steps of the experiment"]
    assert processes["GPU cuda:0"] != processes["GPU cuda:1"]
    assert "GPU cuda:1: steps of the experiment" not in processes


def test_it_fits_into_80_columns_and_is_aligned(tmp_path, plant):
    plant(machine=["broken"], steps=["well"])
    for width, most in ((80, 80), (140, 80)):  # without a terminal
        rows = visited(tmp_path, width)[1].splitlines()
        assert max(map(len, rows)) <= most
        words = [row for row in rows if row.startswith(("pass", "figure", "mend"))]
        assert {row[7] for row in words} == {" "}
        assert {row[8] for row in words} != {" "}
        assert all(row[:20].strip() == "" for row in rows if row.startswith(" "))


def test_a_file_for_the_data_that_cannot_be_written_is_told_before_anything_is_looked_at(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(visit, "_look", None)
    assert main(["doctor", "--json", str(tmp_path / "none" / "doctor.json")]) == 2
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nosuch.yaml"], ["train.epochz=1"], ["a.yaml", "b.yaml"]])
def test_a_wrong_request_is_exit_code_2(words, monkeypatch, capsys):
    monkeypatch.setattr(visit, "_look", None)
    assert main(["doctor", *words]) == 2
    assert "prune-bench:" in capsys.readouterr().err


def test_without_a_file_it_is_the_smoke_experiment_or_else_the_defaults(tmp_path, monkeypatch):
    assert visit.choose_experiment(None, []).name == "smoke"
    monkeypatch.chdir(tmp_path)
    built_in = visit.choose_experiment(None, ["devices.count=1"])
    assert (built_in.name, built_in.devices.count) == ("doctor", 1)
    assert set(built_in.methods) == {"magnitude", "ltr", "cts_kl"}


@pytest.mark.slow
def test_this_machine_is_looked_at_as_a_whole_and_a_missing_key_is_the_one_mend(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    words = [f"output={tmp_path / 'run'}", "devices.accelerator=cpu", "devices.count=1", "wandb.mode=online"]
    assert main(["doctor", *words, "--json", str(tmp_path / "d.json")]) == 1
    said = json.loads((tmp_path / "d.json").read_text())
    found = [line for section in said["sections"] for line in section["lines"]]
    assert [line["name"] for line in found if line["verdict"] == "mend"] == ["W&B"]
    assert {line["name"] for line in found} >= {
        "versions", "devices", "cores", "memory", "disk", "writing", "W&B", "data", "stages", "replay", "twice",
        "packed", "steps", "fits", "smoke", "time",
    }  # fmt: skip
    assert not (tmp_path / "run").exists()
