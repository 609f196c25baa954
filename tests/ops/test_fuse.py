"""Fuse: sums, means of what agrees, averages - and the divisors that must not vanish."""

from __future__ import annotations

import harness
import pytest
import torch
from torch import Tensor

from mergec.graph import Graph
from mergec.ops.basic import diff, weigh
from mergec.ops.fuse import average, check_weights, fuse_agreeing, fuse_deltas, fuse_elected, fuse_sum
from mergec.ops.op import SpaceError
from mergec.ops.registry import ParameterError


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_documented_examples_hold() -> None:
    merged = fuse_sum.kernel(
        numbers(1, 1), numbers(1, 0), numbers(2, -1), weights=(1.0, 1.0), normalize=False, factor=1.0
    )
    assert merged.tolist() == [4, 0]
    assert average.kernel(numbers(1, 2), numbers(3, 6), weights=(1.0, 3.0), normalize=True).tolist() == [2.5, 5]


def test_two_deltas_of_weight_1_add_up_when_nothing_is_normalised() -> None:
    merged = fuse_sum.kernel(
        numbers(0, 0), numbers(1, 2), numbers(3, -1), weights=(1.0, 1.0), normalize=False, factor=1.0
    )
    assert merged.tolist() == [4, 1]


def test_lambda_scales_the_delta_and_not_the_base() -> None:
    merged = fuse_sum.kernel(numbers(10), numbers(4), weights=(1.0,), normalize=False, factor=0.5)
    assert merged.tolist() == [12]


def test_only_deltas_of_the_elected_sign_are_averaged() -> None:
    plus = torch.tensor([True, False, True, True])
    deltas = numbers(2, 3, -1, 0), numbers(-4, -6, -3, 0), numbers(6, -2, 5, 0)
    merged = fuse_agreeing.kernel(torch.zeros(4), plus, *deltas, weights=(1.0, 2.0, 1.0), normalize=True, factor=1.0)
    torch.testing.assert_close(merged, numbers(8 / 2, -8 / 3, 5, 0))


def test_where_nothing_agrees_the_base_is_kept_and_not_divided_by_zero() -> None:
    merged = fuse_agreeing.kernel(
        numbers(7), torch.tensor([True]), numbers(-1), numbers(0), weights=(1.0, 1.0), normalize=True, factor=1.0
    )
    assert merged.tolist() == [7]


def test_zeros_do_not_dilute_the_mean() -> None:
    """A trimmed entry takes no part: the mean is over the deltas that are there."""
    merged = fuse_agreeing.kernel(
        numbers(0), torch.tensor([True]), numbers(3), numbers(0), weights=(1.0, 1.0), normalize=True, factor=1.0
    )
    assert merged.tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_divisor_has_the_precision_of_the_arithmetic(dtype: torch.dtype) -> None:
    """A mask of booleans times a number is float32: weights of a float64 merge were rounded on the way."""
    base, delta = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype) * 0.3
    merged = fuse_agreeing.kernel(
        base, torch.ones(3, dtype=torch.bool), delta, weights=(0.3,), normalize=True, factor=1.0
    )
    assert merged.tolist() == [1, 1, 1]


@pytest.mark.parametrize("weight", [(1.0, -1.0), (0.1, 0.2, -0.3), (1.0, -0.9999999)])
def test_weights_that_cancel_are_refused_where_they_divide(weight: tuple[float, ...]) -> None:
    with pytest.raises(ParameterError, match="sum to zero") as caught:
        check_weights(weight, normalize=True)
    assert caught.value.parameter == "weight"
    check_weights(weight, normalize=False)


@pytest.mark.parametrize("weight", [(1.0, -0.99), (0.0, 0.0), (1e-30, 1e-30)])
def test_small_weights_are_not_mistaken_for_weights_that_cancel(weight: tuple[float, ...]) -> None:
    check_weights(weight, normalize=True)


def test_a_weight_where_a_delta_belongs_is_refused() -> None:
    base, model = harness.loads(Graph(), [torch.ones(3)] * 2)
    with pytest.raises(SpaceError, match="fuse_sum takes weight delta, got weight weight"):
        fuse_sum(base, model, weights=(1.0,), normalize=False, factor=1.0)
    with pytest.raises(SpaceError, match="weigh takes delta, got weight"):
        fuse_deltas(base, [model], [1.0], normalize=False, factor=1.0)
    with pytest.raises(SpaceError, match="weigh takes delta"):
        fuse_elected(base, [model], [1.0], normalize=False, factor=1.0, by="sum")


def test_a_delta_where_a_weight_belongs_is_refused() -> None:
    base, model = harness.loads(Graph(), [torch.ones(3)] * 2)
    delta = diff(model, base)
    with pytest.raises(SpaceError, match="average takes weight weight, got weight delta"):
        average(base, delta, weights=(1.0, 1.0), normalize=True)
    with pytest.raises(SpaceError, match="diff takes weight weight, got delta weight"):
        diff(delta, base)
    with pytest.raises(SpaceError, match="fuse_agreeing takes weight sign delta"):
        fuse_agreeing(base, weigh(delta, weight=2.0), delta, weights=(1.0,), normalize=True, factor=1.0)


def test_a_half_average_is_rounded_once() -> None:
    """Weights and sums in bfloat16 leave half of the entries wrong; a sum in float32 leaves none."""
    models = harness.family((2000,), torch.bfloat16, models=4)
    weights = (0.3013, 0.0987, 0.2071, 0.2439, 0.149)
    found = average.kernel(*models, weights=weights, normalize=True)
    exact = sum(model.double() * weight for model, weight in zip(models, weights, strict=True))
    assert (found == exact.to(torch.bfloat16)).all()
