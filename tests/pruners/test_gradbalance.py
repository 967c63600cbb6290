"""GradBalance step by step against a replay in float64, number by number."""

import math

import pytest
import torch

from prune_bench.pruners.gradbalance import GradBalance, Lagrange


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_gradbalance_follows_the_recurrence():
    generator = torch.Generator().manual_seed(0)
    n, kept = 40, 8
    control, weight = GradBalance(kept=kept), None
    for step in range(30):
        alpha = torch.randn(n, generator=generator, dtype=torch.float64) * 2 - (3 if step < 5 else 0)
        gradient = torch.randn(n, generator=generator, dtype=torch.float64) * 10.0 ** (step % 7 - 3)
        p = [sigmoid(a) for a in alpha.tolist()]
        target = 1.1 * kept
        e = sum(p) / target - 1
        pull = [q * (1 - q) / target for q in p]
        wanted = math.hypot(*gradient.tolist()) / math.hypot(*pull) if e > 0 else 0.0
        weight = wanted if weight is None else 0.99 * weight + 0.01 * wanted
        expected = [g + weight * s for g, s in zip(gradient.tolist(), pull)]
        assert control.combine(alpha, gradient).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-300)
        assert float(control.weight) == pytest.approx(weight, rel=1e-10)


def test_a_length_of_its_own_takes_the_place_of_the_gradients_norm():
    g = torch.Generator().manual_seed(0)
    alpha, gradients = torch.randn(6, generator=g).double(), torch.randn(4, 6, generator=g).double()
    mean = gradients.mean(0)
    length = torch.stack([gradient.norm() for gradient in gradients]).mean()
    p = torch.sigmoid(alpha)
    pull = p * (1 - p) / 2.2
    expected = mean + length / pull.norm() * pull
    torch.testing.assert_close(GradBalance(kept=2).combine(alpha, mean, length), expected, rtol=1e-12, atol=1e-12)


def test_a_free_multiplier_falls_below_zero_and_slows_down_with_the_search():
    free, clamped, weight, lr = Lagrange(kept=2, free=True), Lagrange(kept=2), 0.0, 1e-3
    for step in range(40):
        alpha = torch.full((4,), -3.0 if step < 30 else 3.0, dtype=torch.float64)
        if step == 20:
            free.slow_down(0.1), clamped.slow_down(0.1)
            lr *= 0.1
        p = sigmoid(float(alpha[0]))
        expected = [0.3 + weight * 100 * p * (1 - p) / 2] * 4
        gradient = torch.full((4,), 0.3, dtype=torch.float64)
        assert free.combine(alpha, gradient).tolist() == pytest.approx(expected, rel=1e-12)
        clamped.combine(alpha, gradient)
        weight += lr * 100 * (4 * p / 2 - 1)
        assert float(free.weight) == pytest.approx(weight, rel=1e-12)
        assert weight < 0 or step > 30
        assert float(clamped.weight) == 0.0 or step >= 30
    assert clamped.lr == 1e-3


def test_the_first_excess_is_below_zero_so_the_first_weight_is_zero():
    control = GradBalance(kept=50)
    logits = torch.full((1000,), math.log(0.05 / 0.95))
    control.combine(logits, torch.ones(1000))
    assert float(control.weight) == 0.0


def test_norms_neither_underflow_nor_overflow_in_float32():
    logits = torch.zeros(100)
    for size in (1e-30, 1e30):
        control = GradBalance(kept=10)
        combined = control.combine(logits, torch.full((100,), size))
        # The pull is balanced to the gradient's own length, so the sum of two equal vectors is twice one.
        torch.testing.assert_close(combined, torch.full((100,), 2 * size))


def test_saturated_logits_do_not_give_nan():
    control = GradBalance(kept=10)
    assert bool(torch.isfinite(control.combine(torch.full((100,), 200.0), torch.zeros(100))).all())


def test_lagrange_ascends_by_the_excess_and_never_falls_below_zero():
    control, weight = Lagrange(kept=2), 0.0
    alpha = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    for _ in range(5):
        p = [sigmoid(a) for a in alpha.tolist()]
        expected = [0.3 + weight * 100 * q * (1 - q) / 2 for q in p]
        assert control.combine(alpha, torch.full((4,), 0.3, dtype=torch.float64)).tolist() == pytest.approx(expected)
        weight += 1e-3 * 100 * (sum(p) / 2 - 1)
        assert float(control.weight) == pytest.approx(weight)
    control.combine(torch.full((4,), -50.0, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    for _ in range(50):
        control.combine(torch.full((4,), -50.0, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert float(control.weight) == 0.0
