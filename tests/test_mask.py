from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_bench.mask import Mask, kept_count, prunable_modules, prunable_weights
from prune_bench.ranking import Ranking

SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4)
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(-5, 5, width=32))


def small_network() -> nn.Sequential:
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(*layers)


def random_mask(network: nn.Module, density: float, seed: int = 0) -> Mask:
    random = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(w.shape, generator=random) for name, w in prunable_weights(network).items()}
    return Ranking.from_scores(scores).mask(density)


def bits(mask: Mask) -> list[bool]:
    return [bool(bit) for keep in mask.values() for bit in keep.flatten()]


@given(st.data(), st.floats(1e-3, 1.0))
@settings(deadline=None, max_examples=150)
def test_a_mask_keeps_exactly_the_rounded_count_of_the_best_with_ties_by_index(
    data: st.DataObject, density: float
) -> None:
    scores = {}
    for i, shape in enumerate(data.draw(SHAPES)):
        count = torch.Size(shape).numel()
        scores[f"{i}"] = torch.tensor(data.draw(st.lists(VALUES, min_size=count, max_size=count))).view(shape)
    mask = Ranking.from_scores(scores).mask(density)
    values = [float(v) for s in scores.values() for v in s.flatten()]
    count = round(density * len(values))
    assert mask.kept == count
    best = set(sorted(range(len(values)), key=lambda place: (-values[place], place))[:count])
    assert bits(mask) == [place in best for place in range(len(values))]
    assert {name: keep.shape for name, keep in mask.items()} == {name: s.shape for name, s in scores.items()}


def test_mostly_zero_scores_keep_the_count_not_every_zero() -> None:
    """The ``score >= kthvalue`` of other code keeps all ties at the threshold, here every weight."""
    scores = torch.zeros(20_000)
    scores[torch.arange(0, 200)] = 1.0
    threshold = scores.kthvalue(20_000 - 389 + 1).values
    assert int((scores >= threshold).sum()) == 20_000
    mask = Ranking.from_scores({"w": scores}).mask(389 / 20_000)
    assert mask.kept == 389
    assert bool(mask["w"][:389].all())


@pytest.mark.slow
def test_more_than_16_million_weights_are_ranked() -> None:
    """``torch.quantile`` refuses more than 2**24."""
    count = 2**24 + 3
    scores = torch.zeros(count, dtype=torch.uint8)
    scores[-5:] = 1
    mask = Ranking.from_scores({"w": scores}).mask(0.5)
    assert mask.kept == round(count / 2)
    assert bool(mask["w"][-5:].all())


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        kept_count(density, 10)


def test_counts_and_densities_by_hand() -> None:
    mask = Mask({"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([True])})
    assert (mask.kept, mask.total, mask.density) == (2, 5, 0.4)
    assert mask.layer_densities == {"a": 0.25, "b": 1.0}
    with pytest.raises(TypeError, match=r"must be torch\.bool"):
        Mask({"a": torch.ones(2)})


def test_counting_waits_for_the_device_once_and_not_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, waits = random_mask(nn.Sequential(*(nn.Linear(3, 3) for _ in range(9))), 0.4), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: waits.append("tolist") or tolist(self))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.overloadpacket.__name__ == "_local_scalar_dense":
                waits.append("item")
            return func(*args, **(kwargs or {}))

    with Watch():
        assert mask.kept == round(0.4 * 81)
        assert len(waits) == 1
        assert sum(mask.layer_densities.values()) == pytest.approx(round(0.4 * 81) / 9)
    assert len(waits) == 2
    assert Mask({}).kept == 0


def test_saving_and_loading_gives_the_same_mask_in_the_same_layer_order(tmp_path: Path) -> None:
    layers = {f"{name}.weight": torch.rand(3, 4) > 0.5 for name in ("z", "layer10", "layer2", "a")}
    layers["z.weight"] = layers["z.weight"].t()
    Mask(layers).save(tmp_path / "deep" / "mask.safetensors")
    loaded = Mask.load(tmp_path / "deep" / "mask.safetensors")
    assert list(loaded) == list(layers)
    assert loaded == Mask(layers)
    assert all(keep.dtype == torch.bool for keep in loaded.values())


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_damaged_file_is_a_value_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mask.safetensors"
    Mask.full(small_network()).save(path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "garbage": b"not a mask at all"}[damage])
    with pytest.raises(ValueError, match="mask"):
        Mask.load(path)


def test_a_file_of_other_tensors_is_a_value_error(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="is not a mask"):
        Mask.load(tmp_path / "weights.safetensors")


def test_a_shuffle_keeps_layer_counts_and_moves_positions() -> None:
    mask = random_mask(small_network(), 0.3)
    before = {name: keep.clone() for name, keep in mask.items()}
    shuffled = mask.shuffle_layers(seed=1)
    assert shuffled.layer_densities == mask.layer_densities
    assert all(not torch.equal(shuffled[name], mask[name]) for name in mask)
    assert all(torch.equal(mask[name], before[name]) for name in mask)
    assert list(shuffled) == list(mask)


def test_a_shuffle_depends_on_its_seed_and_not_on_global_state() -> None:
    mask = random_mask(small_network(), 0.3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = mask.shuffle_layers(seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert mask.shuffle_layers(seed=7) == first
    assert mask.shuffle_layers(seed=8) != first


def test_every_position_can_be_reached_by_a_shuffle() -> None:
    mask = Mask({"w": torch.tensor([True, False, False])})
    places = {mask.shuffle_layers(seed)["w"].nonzero().item() for seed in range(20)}
    assert places == {0, 1, 2}


def test_applying_sets_exactly_positive_zero_and_touches_nothing_else() -> None:
    network = small_network()
    with torch.no_grad():
        network[0].weight.fill_(-1.0)
        network[4].weight.fill_(float("nan"))
    others = {n: p.clone() for n, p in network.named_parameters() if n not in prunable_weights(network)}
    mask = random_mask(network, 0.4)
    mask.apply_(network)
    for name, weight in prunable_weights(network).items():
        pruned = weight.detach()[~mask[name]]
        assert torch.equal(pruned, torch.zeros_like(pruned))
        assert not bool(torch.signbit(pruned).any())
    assert bool((network[0].weight[mask["0.weight"]] == -1).all())
    assert all(torch.equal(p, others[n]) for n, p in network.named_parameters() if n in others)


def test_torch_prune_computes_what_applying_does_and_reads_back() -> None:
    network = small_network()
    mask = random_mask(network, 0.4)
    applied, pruned = copy.deepcopy(network), copy.deepcopy(network)
    mask.apply_(applied)
    assert mask.to_torch_prune(pruned) is pruned
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(applied(x), pruned(x))
    assert torch.equal(pruned[0].weight_orig, network[0].weight)
    assert Mask.from_torch_prune(pruned) == mask
    assert Mask.from_torch_prune(network) == Mask.full(network)


def test_torch_prune_masks_every_layer_that_shares_a_weight() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    mask = Mask({"0.weight": torch.eye(3, dtype=torch.bool)})
    pruned = mask.to_torch_prune(copy.deepcopy(network))
    mask.apply_(network)
    assert torch.equal(network(torch.eye(3)), pruned(torch.eye(3)))
    assert Mask.from_torch_prune(pruned) == mask


def test_a_mask_of_another_network_is_refused() -> None:
    network, other = small_network(), nn.Linear(2, 2)
    before = copy.deepcopy(network.state_dict())
    wrong_shape = Mask({**Mask.full(network), "4.weight": torch.zeros(4, 11, dtype=torch.bool)})
    for mask in (Mask.full(other), wrong_shape):
        with pytest.raises(ValueError, match="another network"):
            mask.apply_(network)
        with pytest.raises(ValueError, match="another network"):
            mask.to_torch_prune(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_mask_fits_a_deepcopy_of_its_network_and_only_the_copy_changes() -> None:
    network = small_network()
    before = network[0].weight.detach().clone()
    twin = copy.deepcopy(network)
    random_mask(network, 0.1).apply_(twin)
    assert torch.equal(network[0].weight, before)
    assert not torch.equal(twin[0].weight, before)


def test_masks_are_equal_by_content_and_order() -> None:
    a, b = torch.tensor([True]), torch.tensor([False])
    assert Mask({"a": a, "b": b}) == Mask({"a": a.clone(), "b": b.clone()})
    assert Mask({"a": a, "b": b}) != Mask({"b": b, "a": a})
    assert Mask({"a": a}) != Mask({"a": b})


def test_weights_of_convolutions_and_linear_layers_are_prunable_in_module_order() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv1d(1, 2, 3)
            self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.LayerNorm(2), nn.PReLU(), nn.Embedding(2, 2)])
            self.body = nn.Sequential(nn.ConvTranspose2d(2, 2, 3), nn.Conv3d(2, 2, 1))
            self.again = nn.Linear(2, 2)
            self.a_head = nn.Linear(2, 2)
            self.again.weight = self.a_head.weight

    network = Network()
    assert list(prunable_weights(network)) == ["stem.weight", "body.0.weight", "body.1.weight", "again.weight"]
    assert prunable_modules(network)["again.weight"] is network.again
    assert prunable_weights(network)["stem.weight"] is network.stem.weight


def test_a_bare_layer_is_called_weight() -> None:
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]


def test_a_network_without_anything_prunable_or_not_initialised_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing in it is prunable"):
        prunable_weights(nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="run one batch through"):
        prunable_weights(nn.LazyLinear(2))
