from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_bench.mask import Mask
from prune_bench.ranking import Ranking, check_agreement

# Few distinct values, so that ties are the rule.
LAYER = st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 1e-30, 3e8]), min_size=1, max_size=12)
LAYERS = st.lists(LAYER, min_size=1, max_size=4)


def scores_of(layers: list[list[float]]) -> dict[str, torch.Tensor]:
    return {f"{i}.weight": torch.tensor(layer) for i, layer in enumerate(layers)}


def flat(ranking: Ranking) -> list[int]:
    return [int(rank) for ranks in ranking.layers.values() for rank in ranks.flatten()]


def ranks_of(order: list[int]) -> list[int]:
    """Ranks by place, from the places listed worst first."""
    return [order.index(place) for place in range(len(order))]


def worst_first(scores: list[float], places: list[int]) -> list[int]:
    """Of equal scores the later place is the worse."""
    return sorted(places, key=lambda place: (scores[place], -place))


def kept(mask: Mask) -> set[int]:
    return set(torch.cat([keep.flatten() for keep in mask.values()]).nonzero().flatten().tolist())


@given(LAYERS)
@settings(deadline=None, max_examples=100)
def test_a_ranking_is_a_permutation_sorted_by_score_then_index(layers: list[list[float]]) -> None:
    ranking = Ranking.from_scores(scores_of(layers))
    scores = [score for layer in layers for score in layer]
    assert sorted(flat(ranking)) == list(range(len(scores))) == list(range(ranking.total))
    assert flat(ranking) == ranks_of(worst_first(scores, list(range(len(scores)))))


def test_ranks_have_the_weights_shapes() -> None:
    ranking = Ranking.from_scores({"a": torch.tensor([[3.0, 1.0], [2.0, 3.0]]), "b": torch.tensor([9.0])})
    assert ranking.layers["a"].tolist() == [[3, 0], [1, 2]]
    assert ranking.layers["b"].tolist() == [4]


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_refining_reorders_the_alive_and_leaves_the_pruned_below_in_their_order(data: st.DataObject) -> None:
    layers = data.draw(LAYERS)
    places = list(range(sum(map(len, layers))))
    ranking = Ranking.from_scores(scores_of(layers))
    order = worst_first([score for layer in layers for score in layer], places)
    alive = len(places)
    for _ in range(3):
        alive = data.draw(st.integers(0, alive))
        again = [data.draw(st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x))) for x in layers]
        again_scores = [float(score) for layer in again for score in layer]
        ranking = ranking.refine(scores_of([[float(s) for s in layer] for layer in again]), alive)
        pruned = len(places) - alive
        order = order[:pruned] + worst_first(again_scores, order[pruned:])
        assert flat(ranking) == ranks_of(order)


@given(LAYERS, st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=100)
def test_the_worst_are_as_many_as_the_best_and_overlap_only_as_they_must(
    layers: list[list[float]], density: float
) -> None:
    ranking = Ranking.from_scores(scores_of(layers))
    best, worst = kept(ranking.mask(density)), kept(ranking.worst(density))
    assert len(best) == len(worst) == round(density * ranking.total)
    assert len(best & worst) == max(0, 2 * len(best) - ranking.total)


def test_masks_of_one_ranking_are_nested() -> None:
    ranking = Ranking.from_scores({"a": torch.randn(7, 9, generator=torch.Generator().manual_seed(0))})
    masks = [kept(ranking.mask(density)) for density in (0.01, 0.1, 0.4, 0.9, 1.0)]
    assert all(small < large for small, large in pairwise(masks))
    assert kept(ranking.top(5)) == kept(ranking.mask(5 / 63))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_layer_name(broken: float) -> None:
    scores = {"fine.weight": torch.ones(2), "broken.weight": torch.tensor([1.0, broken])}
    with pytest.raises(FloatingPointError, match=r"not finite in broken\.weight"):
        Ranking.from_scores(scores)
    with pytest.raises(FloatingPointError):
        Ranking.from_scores({name: torch.ones(2) for name in scores}).refine(scores, 2)


def test_float64_scores_are_ranked_in_float64() -> None:
    """SynFlow's scores reach 1e200, which float32 has not."""
    scores = {"a": torch.tensor([1e200, 3e200, 2e200], dtype=torch.float64)}
    assert flat(Ranking.from_scores(scores)) == [0, 2, 1]


@pytest.mark.parametrize("agree", [True, False])
def test_processes_that_share_a_cell_must_have_found_one_ranking(monkeypatch, agree):
    def of_all(own, device):
        return [own, own if agree else own.flip(0)]

    found = [{0.5: Ranking.from_scores({"w": torch.tensor([1.0, 3.0, 2.0])})}]
    check_agreement(found, "mine", torch.device("cpu"))  # alone there is nobody to differ from
    monkeypatch.setattr("prune_bench.ranking.ranks", lambda: 2)
    monkeypatch.setattr("prune_bench.ranking.of_all", of_all)
    if agree:
        check_agreement(found, "mine", torch.device("cpu"))
    else:
        with pytest.raises(RuntimeError, match=r"mine has found another ranking in each of the 2 .*parallel\.sum_"):
            check_agreement(found, "mine", torch.device("cpu"))
