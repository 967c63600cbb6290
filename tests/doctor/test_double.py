"""float64: packed and alone agree, and a fault of either is found."""

import torch

from prune_bench.doctor import double
from prune_bench.training.descent import Descent
from tests.doctor.planted import subject, verdicts

CPU = torch.device("cpu")


def test_packed_networks_are_their_single_selves():
    (line,) = double.look(subject())
    assert (line.name, line.verdict) == ("packed", "pass")
    assert line.values["packed in float64"] < 1e-12


def test_training_moves_the_weights_so_that_equal_ones_mean_something():
    fresh = [double._network(lane) for lane in range(2)]
    assert double.apart(fresh, double.trained(range(2), CPU)) > 1e-3
    assert double.apart(*([double.trained([lane], CPU)[0]] for lane in range(2))) > 1e-3


def test_a_pack_that_is_a_little_off_is_a_mend(monkeypatch):
    step = Descent.step

    def leaking(self, x, y):
        losses = step(self, x, y)
        if self.lanes > 1:
            with torch.no_grad():
                self._parameters[0].mul_(1 + 1e-8)
        return losses

    monkeypatch.setattr(Descent, "step", leaking)
    assert verdicts(double.look(subject())) == [("packed", "mend")]


def test_another_device_is_held_against_the_cpu(monkeypatch):
    """The device is a stand-in: ``cpu:0`` is not ``cpu``, and its weights are tampered with."""
    trained = double.trained

    def off(lanes, device):
        networks = trained(lanes, CPU)
        if device != CPU and len(lanes) > 1:
            networks[0].double().requires_grad_(False)
            next(networks[0].parameters()).mul_(1 + noise)
        return networks

    monkeypatch.setattr(double, "trained", off)
    noise = 0.0
    assert verdicts(double.look(subject(device="cpu:0"))) == [("packed", "pass"), ("GPU and CPU", "pass")]
    noise = 1e-6
    assert ("GPU and CPU", "mend") in verdicts(double.look(subject(device="cpu:0")))
