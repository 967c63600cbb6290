"""Baselines, whose answers can be seen."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prune_bench as pb
from prune_bench.pruners.baselines import erk_counts

DATA = [(torch.ones(2, 4), torch.tensor([0, 1]))]


def test_magnitude_keeps_the_largest():
    network = nn.Linear(4, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.1, -5.0, 2.0, 0.0], [3.0, -0.2, 0.3, -4.0]]))
    mask = pb.find_mask(network, "magnitude", density=0.5, data=DATA)
    assert mask["weight"].tolist() == [[False, True, True, False], [True, False, False, True]]


def test_random_is_uniform_over_the_network():
    network = nn.Linear(4, 2)
    counts = torch.stack(
        [pb.find_mask(network, "random", density=0.5, data=DATA, seed=s)["weight"] for s in range(200)]
    )
    assert counts.double().mean(0).sub(0.5).abs().max() < 0.15
    assert counts.sum((1, 2)).unique().tolist() == [4]


def test_erk_densities_are_proportional_to_the_kernels_until_capped():
    shapes = {"a": (64, 32, 3, 3), "b": (32, 64), "c": (2, 2)}
    counts = erk_counts(shapes, 0.1)
    total = 64 * 32 * 9 + 32 * 64 + 4
    assert sum(counts.values()) == round(0.1 * total)
    # Counts, not densities, go as the sums of dimensions: 102 to 96; c would get more than it has.
    assert counts["c"] == 4
    assert abs(counts["a"] / counts["b"] - 102 / 96) < 0.01


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5),
    st.floats(0.001, 1.0),
)
def test_erk_totals_are_exact_and_no_layer_overflows(shapes, density):
    named = {str(i): s for i, s in enumerate(shapes)}
    counts = erk_counts(named, density)
    assert sum(counts.values()) == round(density * sum(a * b for a, b in shapes))
    assert all(0 <= counts[n] <= a * b for n, (a, b) in named.items())


def test_random_erk_keeps_exactly_its_counts():
    network = nn.Sequential(nn.Linear(40, 10), nn.ReLU(), nn.Linear(10, 2))
    mask = pb.find_mask(network, "random_erk", density=0.2, data=[(torch.ones(2, 40), torch.tensor([0, 1]))])
    expected = erk_counts({"0.weight": (10, 40), "2.weight": (2, 10)}, 0.2)
    assert {n: int(m.sum()) for n, m in mask.items()} == expected
    assert len(set(itertools.chain([mask.kept], [round(0.2 * 420)]))) == 1


def test_dense_keeps_everything():
    assert pb.find_mask(nn.Linear(4, 2), "dense", density=1.0, data=DATA).density == 1
