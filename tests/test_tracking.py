"""The W&B mirror: whole runs, read back from W&B's own files, and no trouble of its own for a sweep."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from prune_bench.config import Wandb, make_experiment
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.tracking import CellRun, Mirror, find_mode, has_key, sync


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def cell(key):
    return CellRun(
        key=key,
        name=f"snip 0.05 {key}",
        group="smoke",
        tags=("snip", "resnet8"),
        config={"method": "snip", "density": 0.05},
        curves=[{"epoch": 0, "train/loss": 2.0}, {"epoch": 1, "train/loss": 1.5}],
        summary={"test/accuracy": 0.75, "test/loss": float("nan"), "collapsed": False, "missing": None},
        layers=[{"layer": "fc.weight", "density": 0.5, "kept": 2, "total": 4}],
    )


def read_back(folder):
    """Each offline run's records by kind, as W&B's own reader gives them."""
    runs = {}
    for run_dir in (folder / "wandb" / "wandb").glob("offline-run-*"):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_dir)]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        runs[run_dir.name.rsplit("-", 1)[1]] = [json.loads(line) for line in lines if line.startswith("{")]
    return runs


def test_offline_runs_hold_what_the_cells_hold(tmp_path):
    with Mirror(Wandb(), tmp_path) as mirror:
        assert mirror.mode == "offline"
        mirror.send(cell("a" * 32))
        mirror.send(cell("b" * 32))
        assert mirror.close() == 0
    runs = read_back(tmp_path)
    assert set(runs) == {"a" * 32, "b" * 32}
    told = json.dumps(runs["a" * 32])
    for words in ("smoke", "snip 0.05", "resnet8", "test/accuracy", "0.75", "train/loss", "1.5", "layers"):
        assert words in told
    assert "missing" not in told


def test_what_was_sent_is_not_sent_again(tmp_path):
    for _ in range(2):
        with Mirror(Wandb(), tmp_path) as mirror:
            mirror.send(cell("a" * 32))
    assert len(list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))) == 1


def test_disabled_makes_no_file_and_imports_no_wandb(tmp_path):
    code = (
        "import sys, pathlib; from prune_bench.config import Wandb; from prune_bench.tracking import Mirror\n"
        f"m = Mirror(Wandb(mode='disabled'), pathlib.Path({str(tmp_path)!r})); m.close()\n"
        "print('wandb' in sys.modules)"
    )
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert words.strip() == "False"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_holds_up_nothing(tmp_path, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        mirror = Mirror(Wandb(mode="online", patience=2.0), tmp_path)
        mirror.send(cell("a" * 32))
        begun = time.monotonic()
        assert mirror.close() == 1
        assert time.monotonic() - begun < 20


def test_a_stopped_mirror_ends_at_once_and_the_next_sweep_sends_what_was_left(tmp_path):
    mirror = Mirror(Wandb(), tmp_path)
    mirror.send(cell("a" * 32))
    begun = time.monotonic()
    mirror.stop()
    assert time.monotonic() - begun < 2
    assert len(list((tmp_path / "wandb" / "outbox").glob("*.json*"))) == 1
    assert Mirror(Wandb(), tmp_path).close() == 0


def test_a_killed_mirror_costs_nothing_and_the_next_sends_what_is_left(tmp_path):
    mirror = Mirror(Wandb(), tmp_path)
    mirror.send(cell("a" * 32))
    (process,) = mirror._processes
    os.killpg(process.pid, 9)
    mirror.send(cell("b" * 32))
    assert mirror.close() == 2
    with Mirror(Wandb(), tmp_path) as again:
        again.send(cell("a" * 32))
        assert again.close() == 0


def test_the_mode_is_the_users_then_the_environments_then_by_the_key(monkeypatch):
    assert find_mode(Wandb()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert find_mode(Wandb()) == "online"
    monkeypatch.setenv("WANDB_MODE", "")
    assert find_mode(Wandb()) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert find_mode(Wandb()) == "disabled"
    assert find_mode(Wandb(mode="offline")) == "offline"


def test_sync_without_a_key_says_how_to_log_in(tmp_path):
    with pytest.raises(PruneBenchError, match="wandb login"):
        sync([cell("a" * 32)], Wandb(), tmp_path)


def test_tags_are_no_longer_than_wandb_takes_and_still_tell_apart():
    long, other, fits = "m" * 100, "m" * 99 + "n", "k" * 64
    made = [replace(cell("a" * 32), tags=(tag, "", fits)) for tag in (long, other, long)]
    assert all(1 <= len(tag) <= 64 for each in made for tag in each.tags)
    assert made[0].tags == made[2].tags != made[1].tags
    assert made[0].tags[1] == fits
    assert made[0].tags[0].startswith("m" * 50)
    assert replace(made[0], name="again").tags == made[0].tags
    assert cell("a" * 32).tags == ("snip", "resnet8")


def test_a_run_with_a_long_tag_arrives(tmp_path):
    with Mirror(Wandb(), tmp_path) as mirror:
        mirror.send(replace(cell("a" * 32), tags=("t" * 100,)))
        assert mirror.close() == 0
    assert "t" * 50 in json.dumps(read_back(tmp_path)["a" * 32])


def test_what_kept_a_cell_away_is_told(tmp_path):
    mirror = Mirror(Wandb(mode="offline", project="no/such"), tmp_path)
    mirror.send(cell("a" * 32))
    assert mirror.close() == 1
    assert "Invalid project name" in mirror.last_trouble()
    assert Mirror(Wandb(mode="offline"), tmp_path / "other").last_trouble() == ""


@pytest.mark.parametrize(
    ("machine", "server", "known"),
    [
        ("api.wandb.ai", None, True),
        ("api.forge.coreweave.com", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("localhost", "http://localhost:8080", True),
        ("api.wandb.ai", "http://localhost:8080", False),
    ],
)
def test_a_key_is_seen_where_any_wandb_login_has_written_it(tmp_path, monkeypatch, machine, server, known):
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {'k' * 40}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    assert has_key() is known


@pytest.mark.slow
def test_wandbs_own_login_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    code = "from wandb.sdk.lib.wbauth import wbnetrc; import wandb; " + (
        f"wbnetrc.write_netrc_auth(host=wandb.Settings().base_url, api_key={'k' * 40!r})"
    )
    assert not has_key()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert has_key()


def test_what_wandb_refuses_for_good_is_said_at_once():
    with pytest.raises(ConfigError, match=r"wandb\.project"):
        make_experiment({"name": "x"}, ["methods=[snip]", "wandb.project=a/b"])
    make_experiment({"name": "x"}, ["methods=[snip]", "wandb.project=a/b", "wandb.mode=disabled"])
