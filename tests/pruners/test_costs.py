"""The cost of a search in dense epochs is what torch's counter of operations says, for every method."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import prune_bench as pb
from prune_bench.data.user import as_training_data
from prune_bench.mask import Mask
from prune_bench.models import build_model
from prune_bench.pruners import pruners
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.randomness import generator
from prune_bench.training import fit
from prune_bench.training.descent import Descent

CPU = torch.device("cpu")
IMAGES = 8
RECIPE = pb.Recipe(epochs=2, batch_size=IMAGES)


def operations(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(params=[("resnet8", {"width": 8}, 8), ("resnet20", {"width": 4}, 16), ("vgg16", {"width": 4}, 32)])
def problem(request):
    name, options, size = request.param
    network = build_model(
        name, options, in_channels=3, image_size=size, num_classes=4, generator=generator(0, "cost")
    )
    batch = torch.randn(IMAGES, 3, size, size, generator=generator(1, "cost")), torch.arange(IMAGES) % 4
    return network, batch


def dense_epoch(network, batch):
    descent = Descent(copy.deepcopy(network), Mask.full(network), RECIPE)
    descent.step(*batch)  # the first also tries memory layouts
    return operations(lambda: descent.step(*batch))


def counted(network, batch, method, options):
    """Operations of a search without those of the layouts that it tries first, and what it says it cost."""
    entry, data = pruners[method], as_training_data([batch], network, CPU)
    pruner = entry.build(network, (0.3,), entry.options(**options), recipe=RECIPE)
    assert data.num_classes == 4  # found by a forward pass, which is no cost of the method
    with FlopCounterMode(display=False) as counter:
        fit(pruner, pruner.work(data), epochs=1, device=CPU)
    return counter.get_total_flops(), pruner.dense_epochs(IMAGES)


def difference(network, batch, method, shorter, longer):
    """The same of what a longer search does beyond a shorter one."""
    (less, said_less), (more, said_more) = (counted(network, batch, method, o) for o in (shorter, longer))
    return more - less, said_more - said_less


@pytest.mark.parametrize(("objective", "draws"), [*((name, 1) for name in OBJECTIVES), ("reverse_kl", 4)])
def test_a_concrete_search(problem, objective, draws):
    said = {"objective": objective, "batch_size": IMAGES, "draws": draws}
    found, cost = difference(*problem, "cts", {**said, "steps": 1}, {**said, "steps": 3})
    assert cost == pytest.approx(found / dense_epoch(*problem), rel=0.05)


@pytest.mark.parametrize(("method", "options"), [("snip", {}), ("grasp", {}), ("snip", {"micro_batch": 4})])
def test_a_scoring(problem, method, options):
    found, cost = counted(*problem, method, {"samples_per_class": IMAGES // 4, **options})
    assert cost == pytest.approx(found / dense_epoch(*problem), rel=0.05)


def test_synflow_is_a_pass_of_a_single_sample_a_round(problem):
    found, cost = difference(*problem, "synflow", {"steps": 1}, {"steps": 4})
    assert cost == pytest.approx(found / dense_epoch(*problem), rel=0.05)


def test_a_level_of_ltr_is_a_training(problem):
    found, cost = difference(*problem, "ltr", {"cut": 0.7, "epochs": 1}, {"cut": 0.7, "epochs": 3})
    assert cost == pytest.approx(found / dense_epoch(*problem), rel=0.05)


@pytest.mark.parametrize("method", ["magnitude", "random", "random_erk"])
def test_what_looks_at_no_data_costs_nothing(problem, method):
    assert counted(*problem, method, {}) == (0, 0.0)
