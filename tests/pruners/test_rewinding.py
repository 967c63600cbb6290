"""LTR against torch.nn.utils.prune and a training loop written out, over several levels."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.files import LocalFiles
from prune_bench.packing import pack_data
from prune_bench.pruners.rewinding import LotteryTicketRewinding, LtrOptions
from prune_bench.training import Checkpoint, fit

RECIPE = pb.Recipe(epochs=6, lr=0.1, milestones=(3,), weight_decay=1e-2, clip_norm=1.0)


def reference(network, batches, levels):
    """Iterative magnitude pruning with torch's own pruning, weights rewound after each level."""
    network = copy.deepcopy(network)
    modules = [(network.conv, "weight"), (network.fc, "weight")]
    for module, name in modules:
        prune.identity(module, name)
    start = copy.deepcopy(network.state_dict())
    for kept in levels:
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        with torch.no_grad():
            for module, _ in modules:
                module.weight_orig *= module.weight_mask
        for epoch in range(RECIPE.epochs):
            for group in optimiser.param_groups:
                group["lr"] = 0.1 if epoch < 3 else 0.01
            for x, y in batches:
                optimiser.zero_grad()
                F.cross_entropy(network(x), y).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
        alive = int(sum(m.weight_mask.sum() for m, _ in modules))
        # module.weight is of the last forward pass, one step behind weight_orig.
        now = {(m, "weight"): m.weight_orig.detach() * m.weight_mask for m, _ in modules}
        prune.global_unstructured(modules, prune.L1Unstructured, importance_scores=now, amount=alive - kept)
        masks = [m.weight_mask.clone() for m, _ in modules]
        network.load_state_dict({**start, "conv.weight_mask": masks[0], "fc.weight_mask": masks[1]})
    return [m.weight_mask.bool() for m, _ in modules]


def test_levels_equal_torchs_global_magnitude_pruning(tiny, batch):
    x, y = batch
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    levels = [round(219 * 0.8**j) for j in (1, 2, 3)] + [round(219 * 0.45)]
    expected = reference(tiny, batches, levels)
    mask = pb.find_mask(tiny, "ltr", density=0.45, data=batches, recipe=RECIPE)
    assert torch.equal(mask["conv.weight"], expected[0])
    assert torch.equal(mask["fc.weight"], expected[1])


@pytest.mark.parametrize(
    ("density", "levels"),
    [
        (1.0, (1.0,)),
        (0.8, (0.8,)),
        (0.64, (0.8, 0.64)),
        (0.5, (0.8, 0.64, 0.512, 0.5)),
        (0.9, (0.9,)),
        (0.4096, (0.8, 0.64, 0.512, 0.4096)),
    ],
)
def test_a_chain_passes_the_grid_and_ends_on_what_was_asked(density, levels):
    assert LotteryTicketRewinding.levels(LtrOptions(), density) == pytest.approx(levels)


def test_tickets_of_a_chain_lie_inside_each_other(tiny, batch):
    masks = [pb.find_mask(tiny, "ltr", density=d, data=[batch], recipe=RECIPE) for d in (0.8, 0.64, 0.512)]
    for larger, smaller in itertools.pairwise(masks):
        assert all(bool((larger[n] | ~smaller[n]).all()) for n in larger)


def two_levels(lanes, checkpoint=None):
    """Chains to 0.8 and 0.64, of several seeds side by side: their rankings, and the passes they cost."""
    options = {"samples": 96, "test_samples": 32, "image_size": 4, "channels": 1, "classes": 4, "validation": 0.0}
    data = pack_data([load_data("synthetic", options, seed) for seed in range(lanes)])
    searches = []
    for seed in range(lanes):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
        recipe = dataclasses.replace(RECIPE, batch_size=32)
        searches.append(LotteryTicketRewinding(network, (0.64,), LtrOptions(), recipe=recipe))
    searches[0].join(searches[1:])
    fit(searches[0], searches[0].work(data), epochs=1, device=torch.device("cpu"), checkpoint=checkpoint)
    found = [
        torch.cat([r.flatten() for ranking in s.found.values() for r in ranking.layers.values()]) for s in searches
    ]
    return torch.stack(found), [(search.forwards, search.backwards) for search in searches]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(("epochs", "kept"), [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (8, 5)])
def test_a_chain_that_was_cut_off_goes_on_within_its_first_level_to_the_same_rankings(
    lanes, epochs, kept, tmp_path, cut_off
):
    rankings, passes = two_levels(lanes)
    checkpoint = Checkpoint(files=LocalFiles(tmp_path), name="level.ckpt", every=0.0)
    cut_off(3 * epochs + 2)
    with pytest.raises(KeyboardInterrupt):
        two_levels(lanes, checkpoint)
    cut_off(None)
    resumed, resumed_passes = two_levels(lanes, checkpoint)
    assert cut_off.steps == 3 * (2 * RECIPE.epochs - kept)
    assert torch.equal(resumed, rankings)
    assert resumed_passes == passes
