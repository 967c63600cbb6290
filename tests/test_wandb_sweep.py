"""W&B grid sweeps: the grid is the experiment's cells, and an agent's command computes one into the same store."""

import io
import itertools
import json
import os
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

import prune_bench as pb
from prune_bench import cli
from prune_bench.config import load_experiment, make_experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep import sweep
from prune_bench.sweep.cells import cell_name, choose, expand
from prune_bench.sweep.graph import missing_stages
from prune_bench.sweep.store import Store
from prune_bench.wandb_sweep import sweep_config
from tests.sweep.test_sweep import TINY
from tests.test_tracking import read_back
from tests.wandb_server import WandbServer

PRODUCT = {"methods": {"snip": {}, "magnitude": {}}, "prune_at": ["init"], "wandb": {"mode": "auto"}}


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(TINY | PRODUCT | {"output": str(tmp_path / "run")}))
    return path


def printed(capsys, *words):
    assert cli.main(["wandb-sweep", *map(str, words), "--print"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def commands(config):
    """Every command that agents of a grid would run, as W&B puts it together."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    names = list(config["parameters"])
    for values in itertools.product(*(config["parameters"][name]["values"] for name in names)):
        args = {"args": {name: {"value": value} for name, value in zip(names, values)}}
        filled = {"env": ["/usr/bin/env"], **create_sweep_command_args(args)}
        words = create_sweep_command(config["command"])
        yield [w for word in words for w in (filled[word[2:-1]] if word.startswith("${") else [word])]


def chosen(command):
    """The experiment and the cells that a command of an agent names."""
    assert command[:3] == ["/usr/bin/env", "prune-bench", "run"]
    experiment, choices, _ = cli._choices(command[3], command[4:])
    return experiment, choose(experiment, choices)


def test_a_grid_that_is_a_product_has_a_parameter_for_each_dimension(file, capsys):
    config = printed(capsys, file, "seeds=[0,1]")
    assert {name: said["values"] for name, said in config["parameters"].items()} == {
        "method": ["snip", "magnitude"],
        "density": [0.5, 0.3],
        "variant": ["original", "invert"],
        "seed": [0, 1],
        "prune_at": ["init"],
    }


@pytest.mark.parametrize("name", ["smoke", "resnet20_cifar10", "vgg16_cifar10"])
def test_every_command_names_one_cell_and_all_together_name_them_all(name, capsys):
    config = printed(capsys, f"experiments/{name}.yaml", "seeds=[0,1]")
    assert list(config["parameters"]) == ["cell"]  # a dense network has one density
    experiment = load_experiment(f"experiments/{name}.yaml", ["seeds=[0,1]"])
    cells = {cell_name(cell): cell for cell in expand(experiment)}
    assert len(cells) == len(list(expand(experiment)))
    assert config["parameters"]["cell"]["values"] == list(cells)
    for name, cell in list(cells.items())[::100]:
        assert choose(experiment, [f"cell={name}"]) == [cell]


def test_an_agents_cell_has_the_key_and_the_store_that_the_sweep_has(file, capsys):
    words = ["train.epochs=3", "seeds=[1]"]
    whole = load_experiment(file, words)
    keys = sweep.prepare(whole).cells
    found = {}
    for command in commands(printed(capsys, file, *words)):
        experiment, (cell,) = chosen(command)
        assert experiment.store_location == whole.store_location
        found[cell] = sweep.prepare(experiment).cells[cell]
    assert found == keys


def test_words_choose_cells_and_a_cell_that_is_not_there_is_told(file):
    experiment = make_experiment(TINY)
    assert len(choose(experiment, ["method=snip", "density=0.50000000001", "variant=invert"])) == 2
    assert len(choose(experiment, ["method=dense"])) == 2
    with pytest.raises(ConfigError, match=r"no cell of tiny: method=dense density=0\.5; allowed: 1"):
        choose(experiment, ["method=dense", "density=0.5"])
    assert cli.main(["run", str(file), "method=snip", "seed=7"]) == 2
    assert cli.main(["run", str(file), "another.yaml", "seed=0"]) == 2


def test_a_part_of_an_experiment_leaves_the_rest_of_its_folder_as_it_was(file, tmp_path, capsys):
    assert cli.main(["run", str(file), "method=snip", "density=0.5", "wandb.mode=disabled"]) == 0
    results = pb.load_results(tmp_path / "run")
    assert len(results) == 8
    assert set(results[results.status == "done"].method) == {"snip"}
    assert (results.status == "done").sum() == 2
    experiment = load_experiment(file)
    plan = sweep.prepare(experiment)
    part = missing_stages(plan, Store(experiment.store_location))
    assert sweep.run_sweep(experiment, Console(file=io.StringIO())) == 0
    assert set(pb.load_results(tmp_path / "run").status) == {"done"}
    assert 0 < len(part) < len(plan.stages)


def agent(command, tmp_path, number, **environment):
    """Runs a command as an agent would; ``prune-bench`` is on its path."""
    script = tmp_path / "bin" / "prune-bench"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m prune_bench.cli "$@"\n')
    script.chmod(0o755)
    grid = tmp_path / "config.yaml"  # an agent writes what W&B must hold the run's config to
    choices = [word.partition("=") for word in command if word.startswith(("method=", "variant=", "prune_at="))]
    grid.write_text(yaml.safe_dump({"wandb_version": 1, **{key: {"value": value} for key, _, value in choices}}))
    marks = {
        "WANDB_SWEEP_ID": "grid",
        "WANDB_SWEEP_PARAM_PATH": str(grid),
        "WANDB_RUN_ID": f"agents{number}",
        "WANDB_PROJECT": "p",
        **environment,
    }
    env = os.environ | marks | {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_an_agents_command_computes_its_cell_and_tells_it_in_the_agents_run(file, tmp_path, capsys):
    command = next(commands(printed(capsys, file)))
    for number in range(2):  # the second finds the cell done, and tells it all the same
        done = agent(command, tmp_path, number, WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
    _, (cell,) = chosen(command)
    results = pb.load_results(tmp_path / "run")
    (row,) = results[results.status == "done"].to_dict("records")
    assert cell_name(cell) == f"{row['method']} {row['density']} {row['variant']} seed {row['seed']} at init"
    runs = read_back(tmp_path / "run")
    assert set(runs) == {"agents0", "agents1"}
    for records in runs.values():
        told = json.dumps(records)
        assert "test/accuracy" in told and str(row["test/accuracy"]) in told
        assert "train/loss" in told and row["method"] in told


@pytest.mark.slow
def test_online_the_agents_run_has_the_cells_config_curves_and_summary(file, tmp_path, capsys):
    command = next(commands(printed(capsys, file)))
    with WandbServer() as server:
        done = agent(command, tmp_path, 0, WANDB_BASE_URL=server.url, WANDB_API_KEY="k" * 40)
        assert done.returncode == 0, done.stderr
        assert set(server.runs) == {"agents0"}
        run = server.run("agents0")
    results = pb.load_results(tmp_path / "run")
    (row,) = results[results.status == "done"].to_dict("records")
    assert run["summary"]["test/accuracy"] == row["test/accuracy"]
    assert [line["epoch"] for line in run["history"] if "epoch" in line] == [0, 1]
    assert json.loads(run["config"])["method"]["value"] == row["method"]
    assert run["exit"] == 0


@pytest.mark.slow
def test_without_a_network_an_agents_cell_is_computed_all_the_same(file, tmp_path, capsys):
    command = [*next(commands(printed(capsys, file))), "wandb.patience=2"]
    done = agent(command, tmp_path, 0, WANDB_BASE_URL="http://127.0.0.1:1", WANDB_API_KEY="k" * 40)
    assert done.returncode == 0, done.stderr
    assert "no W&B run" in done.stdout
    assert (pb.load_results(tmp_path / "run").status == "done").sum() == 1


def test_registering_hands_wandb_the_grid_and_says_how_to_start_an_agent(file, capsys, monkeypatch):
    handed = []
    monkeypatch.setattr("wandb.sweep", lambda *said, **how: handed.append((*said, how)) or "abc123")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert cli.main(["wandb-sweep", str(file), "wandb.entity=team", "wandb.project=pruning"]) == 0
    assert "wandb agent team/pruning/abc123" in capsys.readouterr().out
    ((config, how),) = handed
    assert how == {"entity": "team", "project": "pruning"}
    words = ["wandb.entity=team", "wandb.project=pruning"]
    experiment = load_experiment(file, words)
    assert config == sweep_config(experiment, list(expand(experiment)), str(file), words)


def test_without_a_key_registering_says_how_to_log_in_and_print(file, capsys):
    assert cli.main(["wandb-sweep", str(file)]) == 2
    assert "wandb login" in capsys.readouterr().err
