"""SLERP from inner products: the circle, its ends, and the directions for which there is none."""

from __future__ import annotations

import math

import harness
import pytest
import torch
from torch import Tensor

from mergec.ops.gram import Gram, slerp_coefficients


def slerp(base: Tensor, other: Tensor, t: float, tile: int = harness.EVERYTHING, **options: bool) -> Tensor:
    return harness.merged("slerp", [base, other], {"t": t}, tile=tile, **options)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_a_quarter_circle_is_walked_at_even_speed(t: float) -> None:
    found = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), t)
    torch.testing.assert_close(found, torch.tensor([math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)]))


def test_ends_are_the_models_bit_for_bit() -> None:
    base, other = harness.family((40, 50), models=1)
    assert torch.equal(slerp(base, other, 0.0), base)
    assert torch.equal(slerp(base, other, 1.0), other)


def test_t_beyond_the_ends_is_not_clamped() -> None:
    found = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 2.0)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0]), atol=1e-6, rtol=0)


def test_norms_are_not_normalised_away() -> None:
    found = slerp(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(found, torch.tensor([3.0, 1.0]) * math.sqrt(0.5))


@pytest.mark.parametrize("tilt", [0.0, 1e-8, 1e-7, 1e-4])
def test_opposite_directions_are_finite_and_defined(tilt: float) -> None:
    """sin(theta) vanishes there: the result must neither overflow nor depend on rounding."""
    base = torch.tensor([1.0, 0.0], dtype=torch.float64)
    other = torch.tensor([-2.0, 2 * tilt], dtype=torch.float64)
    found = slerp(base, other, 0.25)
    assert found.isfinite().all()
    if tilt < 1e-6:
        torch.testing.assert_close(found, torch.tensor([0.25, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_exactly_opposite_directions_are_a_straight_line_at_every_scale() -> None:
    for scale in (1e-4, 1.0, 1e4):
        base = harness.family((64, 33))[0] * scale
        torch.testing.assert_close(slerp(base, -base, 0.25), base * 0.5)


def test_compat_takes_the_line_for_nearly_opposite_directions_too() -> None:
    base, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.01])
    assert slerp(base, other, 0.5).abs().max() > 0.9
    torch.testing.assert_close(slerp(base, other, 0.5, mergekit=True), (base + other) / 2)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_a_zero_tensor_at_either_end_is_a_straight_line(t: float) -> None:
    model = harness.family((6, 7))[0]
    zero = torch.zeros_like(model)
    torch.testing.assert_close(slerp(zero, model, t), model * t)
    torch.testing.assert_close(slerp(model, zero, t), model * (1 - t))
    assert not slerp(zero, zero, t).any()


def test_the_line_takes_over_at_a_cosine_of_0_9995_without_a_jump() -> None:
    t = 0.3
    for cosine in (0.9995 - 1e-9, 0.9995 + 1e-9):
        a, b = slerp_coefficients.kernel((1.0, cosine, cosine, 1.0), t=t, lerp_opposite=False)
        assert (a == 1 - t) == (cosine > 0.9995)
        assert a == pytest.approx(1 - t, abs=1e-4)
        assert b == pytest.approx(t, abs=1e-4)


def test_a_cosine_rounded_beyond_1_is_no_domain_error() -> None:
    for dot in (1.0000001, -1.0000001):
        assert all(map(math.isfinite, slerp_coefficients.kernel((1.0, dot, dot, 1.0), t=0.5, lerp_opposite=False)))


def test_norms_of_large_tensors_are_accurate() -> None:
    """A float32 norm of millions of entries is off by 1e-4 and more: reductions are in float64."""
    entries = 3_000_000
    gram = Gram()
    tile = torch.full((100_000,), 1e-3)
    for _ in range(entries // 100_000):
        gram.update(tile, -tile)
    exact = entries * float(torch.tensor(1e-3).double()) ** 2
    assert gram.finish() == pytest.approx((exact, -exact, -exact, exact), rel=1e-13)


def test_gram_is_symmetric_and_in_order() -> None:
    gram = Gram()
    gram.update(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0]))
    assert gram.finish() == (5, 11, 17, 11, 25, 39, 17, 39, 61)


def test_float16_products_do_not_overflow() -> None:
    base, other = torch.full((4096,), 3e4, dtype=torch.float16), torch.zeros(4096, dtype=torch.float16)
    other[:2048] = 3e4
    assert slerp(base, other, 0.5).isfinite().all()
