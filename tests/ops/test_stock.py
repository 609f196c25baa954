"""Model stock: the closed form for any number of models, at any scale, and where it has none."""

from __future__ import annotations

import itertools
import math

import harness
import pytest
import torch
from torch import Tensor

from mergec.ops.stock import stock_ratio


def ratio(deltas: Tensor, floor: float = 0.0) -> float:
    gram = tuple((deltas @ deltas.T).flatten().tolist())
    return stock_ratio.kernel(gram, floor=floor)[0]


def at_angle(cosine: float, count: int) -> Tensor:
    """`count` unit vectors, each pair at the same cosine."""
    gram = torch.full((count, count), cosine, dtype=torch.float64).fill_diagonal_(1)
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("cosine", [-0.1, 0.0, 0.3, 0.9, 1.0])
def test_ratio_is_the_closed_form_for_any_number_of_models(count: int, cosine: float) -> None:
    """A peer used the formula of two models for all."""
    expected = count * cosine / (1 + (count - 1) * cosine)
    assert ratio(at_angle(cosine, count)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0, 1e3])
@pytest.mark.parametrize("count", [2, 3])
def test_small_deltas_do_not_change_the_ratio(scale: float, count: int) -> None:
    """A divisor clamped at 1e-6 turns t = 0.9 into 0.008 for deltas of ordinary size."""
    deltas = at_angle(0.8, count) * scale
    assert ratio(deltas) == pytest.approx(ratio(at_angle(0.8, count)), abs=1e-9)
    if scale == 1e-4:
        assert ratio(deltas, floor=1e-6) < 0.2


@pytest.mark.parametrize("filter_wise", [False, True])
def test_small_deltas_do_not_change_the_merge(filter_wise: bool) -> None:
    base, *tunes = harness.family((12, 30), torch.float64, noise=1.0)
    small = [base * 0, *((one - base) * 1e-6 for one in tunes)]
    large = [base * 0, *(one - base for one in tunes)]
    values = {"filter_wise": filter_wise}
    found = harness.merged("model_stock", small, values) * 1e6
    torch.testing.assert_close(found, harness.merged("model_stock", large, values), rtol=1e-9, atol=1e-12)


def test_models_at_120_degrees_cancel_out_and_give_the_base() -> None:
    """1 + 2 cos(120 degrees) is 0: a division by it is infinite."""
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    deltas = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert ratio(deltas) == 0
    base = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = harness.merged("model_stock", [base, *(base + delta for delta in deltas)], {})
    torch.testing.assert_close(found, base)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_two_opposite_models_give_the_base(filter_wise: bool) -> None:
    base, delta = torch.ones(3, 4, dtype=torch.float64), harness.family((3, 4), torch.float64)[0]
    found = harness.merged("model_stock", [base, base + delta, base - delta], {"filter_wise": filter_wise})
    assert found.isfinite().all()
    torch.testing.assert_close(found, base, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_one_model_equal_to_the_base_counts_as_orthogonal(filter_wise: bool) -> None:
    base, tune = harness.family((3, 4), models=1)
    found = harness.merged("model_stock", [base, tune, base], {"filter_wise": filter_wise})
    torch.testing.assert_close(found, base)


def test_identical_models_are_the_result() -> None:
    base, tune = harness.family((30, 4), models=1)
    torch.testing.assert_close(harness.merged("model_stock", [base, tune, tune], {}), tune)


def test_row_wise_is_the_same_as_merging_each_row() -> None:
    tensors = harness.family((6, 40))
    found = harness.merged("model_stock", tensors, {"filter_wise": True}, tile=80)
    for row in range(6):
        alone = harness.merged("model_stock", [one[row] for one in tensors], {})
        torch.testing.assert_close(found[row], alone, rtol=1e-6, atol=1e-6)


def test_all_pairs_take_part_in_the_mean_cosine() -> None:
    generator = torch.Generator().manual_seed(2)
    deltas = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    unit = deltas / deltas.norm(dim=1, keepdim=True)
    mean = sum(float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(4), 2)) / 6
    assert ratio(deltas) == pytest.approx(4 * mean / (1 + 3 * mean))
