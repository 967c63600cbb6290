"""Which GPU a fit runs on, and that the caller's current one stays the current one. No GPU is needed."""

import pytest
import torch

from prune_bench.training import trainer
from prune_bench.training.trainer import fit, with_index


@pytest.fixture
def gpus(monkeypatch):
    """Two pretended GPUs, the second of them current; Lightning makes its own the current one and leaves it so."""

    class Gpus:
        current, used = 1, []

        def __init__(self, device):
            self.device = device

        def __enter__(self):
            self.before, Gpus.current = Gpus.current, self.device.index

        def __exit__(self, *_):
            Gpus.current = self.before

    class Lightning:
        interrupted = False

        def __init__(self, epochs, device, checkpoint):
            self.device = device

        def fit(self, module, **_):
            Gpus.current = self.device.index or 0
            Gpus.used.append(self.device)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: Gpus.current)
    monkeypatch.setattr(torch.cuda, "device", Gpus)
    monkeypatch.setattr(trainer, "_trainer", Lightning)
    return Gpus


@pytest.mark.parametrize(("asked", "used"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_without_an_index_is_the_current_one_which_stays_current(gpus, asked, used):
    gpus.used.clear()
    fit(torch.nn.Identity(), [], epochs=1, device=torch.device(asked))
    assert gpus.used == [torch.device("cuda", used)]
    assert gpus.current == 1


def test_other_devices_have_no_index(gpus):
    assert with_index(torch.device("cuda")) == torch.device("cuda:1")
    assert with_index(torch.device("cuda:0")) == torch.device("cuda:0")
    assert with_index(torch.device("cpu")) == torch.device("cpu")
    assert with_index(torch.device("mps")) == torch.device("mps")
