"""W&B: what the mode needs is there, or the line says what to do."""

import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from prune_bench.doctor import wandb
from tests.doctor.planted import subject


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """No key, no mode, no proxy, and no server but the one that a test names."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def server(monkeypatch):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{made.server_port}")
        yield
        made.shutdown()


def look(mode):
    (line,) = wandb.look(subject(f"wandb.mode={mode}"))
    return line.verdict, line.words


def test_offline_and_disabled_ask_no_network(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", None)
    assert look("disabled")[0] == "skipped"
    assert look("offline")[0] == "pass"
    verdict, words = look("auto")
    assert (verdict, "no API key" in words, "sync" in words) == ("pass", True, True)


def test_online_without_a_key_is_a_mend():
    verdict, words = look("online")
    assert (verdict, "wandb login" in words) == ("mend", True)


def test_a_server_that_answers_anything_is_reached(server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    verdict, words = look("auto")
    assert (verdict, "answers" in words) == ("pass", True)
    assert "0000" not in words


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no address", "http://host.invalid"])
def test_a_server_that_is_not_there_is_a_mend(monkeypatch, url):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    verdict, words = look("online")
    assert (verdict, "wandb.mode=offline" in words) == ("mend", True)


def test_a_server_that_is_silent_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(wandb, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert wandb.reached(f"http://127.0.0.1:{silent.getsockname()[1]}", "W&B").verdict == "mend"
        assert time.monotonic() - begun < 3
