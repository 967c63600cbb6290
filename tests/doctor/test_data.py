"""The data set: there, to be had, or told what to put where; nothing is downloaded."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch
import torchvision

from prune_bench.data import downloads
from prune_bench.data.cache import load_or_build
from prune_bench.data.protocol import Samples
from prune_bench.doctor import data
from tests.doctor.planted import subject


def look(*overrides):
    (line,) = data.look(subject(*overrides))
    return line


@pytest.fixture
def source(monkeypatch):
    """CIFAR-10's server, which tells a size and has nothing to give."""
    asked = []

    class Heads(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append("HEAD")
            self.send_response(200)
            self.send_header("Content-Length", "170498071")
            self.end_headers()

        def do_GET(self):
            asked.append("GET")
            self.send_error(500)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Heads) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"http://127.0.0.1:{made.server_port}/cifar.tar.gz")
        yield asked
        made.shutdown()


def test_data_that_are_there_are_described():
    line = look()
    assert line.verdict == "pass"
    assert "of 1 x 8 x 8, 4 classes" in line.words
    assert line.values == {"data_there": True, "input_shape": [1, 8, 8], "classes": 4}


def test_data_that_can_be_downloaded_are_not_yet(tmp_path, source):
    line = look("data=cifar10", f"data.root={tmp_path}")
    assert (line.verdict, "170 MB" in line.words) == ("pass", True)
    assert line.values == {"data_there": False, "input_shape": [3, 32, 32], "classes": 10}
    assert source == ["HEAD"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_data_that_are_missing_and_not_to_be_had_are_a_mend(tmp_path, monkeypatch, name):
    monkeypatch.setattr(data, "_address", lambda download: "http://127.0.0.1:9/nothing")
    line = look(f"data={name}", f"data.root={tmp_path}")
    assert line.verdict == "mend"
    assert str(tmp_path / name) in line.words
    assert "train.safetensors" in line.words
    assert not line.values["data_there"]


def test_every_download_has_an_address():
    assert all(data._address(download).startswith("http") for download in downloads.DOWNLOADS)


@pytest.mark.parametrize("name", ["imagenet", "tiny_imagenet"])
def test_data_that_only_the_user_has_are_a_mend_that_says_what_to_put_where(tmp_path, name):
    line = look(f"data={name}", f"data.root={tmp_path}")
    assert (line.verdict, str(tmp_path) in line.words) == ("mend", True)


def test_a_damaged_file_is_a_mend(tmp_path, monkeypatch):
    (cifar,) = [download for download in downloads.DOWNLOADS if download.name == "cifar10"]
    small = downloads.Expected(shape=(3, 32, 32), classes=10, counts=(20, 10))
    samples = [Samples(torch.zeros(n, 3, 32, 32, dtype=torch.uint8), torch.arange(n) % 10) for n in (20, 10)]
    load_or_build(tmp_path, cifar.name, small, lambda: tuple(samples))
    # The files hold fewer pictures than the data set has.
    line = look("data=cifar10", f"data.root={tmp_path}")
    assert (line.verdict, "train.safetensors" in line.words) == ("mend", True)
