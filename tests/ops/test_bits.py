"""Choosing entries by their bits: what is kept is kept exactly, what is not becomes +0, whatever it was."""

from __future__ import annotations

import pytest
import torch

from mergec.ops import bits
from mergec.ops.trim import descending

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_entries_keep_their_bits_and_others_become_plus_zero(dtype: torch.dtype) -> None:
    values = torch.tensor([1.5, -0.0, float("inf"), float("nan"), -2.0, float("-inf")], dtype=dtype)
    kept = torch.tensor([True, True, False, False, False, True])
    result = bits.keep(values, kept)
    expected = torch.where(kept, values, torch.zeros((), dtype=dtype))
    assert torch.equal(bits.integers(result), bits.integers(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_stands_where_entries_are_kept(dtype: torch.dtype) -> None:
    kept = torch.tensor([True, False, True])
    result = bits.constant(-0.3, kept, torch.zeros(3, dtype=dtype))
    assert torch.equal(result, torch.tensor([-0.3, 0.0, -0.3], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_ranked_by_magnitude_and_equal_entries_by_index(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    values = (torch.randint(-9, 10, (40, 33), generator=generator) / 4).to(dtype)  # many equal magnitudes, and zeros
    assert torch.equal(descending(values), values.abs().argsort(dim=-1, descending=True, stable=True))
    assert descending(torch.tensor([[-1.0, 1.0, 0.0, -0.0, 3.0]], dtype=dtype)).tolist() == [[4, 0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int32])
def test_comparisons_are_those_of_torch_whatever_the_values(dtype: torch.dtype) -> None:
    special = [1.5, -0.0, 0.0, -2.0, 1.5]
    special += [float("inf"), float("nan"), float("-inf")] if dtype.is_floating_point else []
    values = torch.tensor(special, dtype=torch.float64).to(dtype)
    for other in (0, values.flip(0), 1.5 if dtype.is_floating_point else 1):
        assert torch.equal(bits.above(values, other), values > other)
        assert torch.equal(bits.below(values, other), values < other)
        assert torch.equal(bits.from_on(values, other), values >= other)
        assert torch.equal(bits.equal(values, other), values == other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_divisor_of_zero_becomes_one(dtype: torch.dtype) -> None:
    assert bits.unless_zero(torch.tensor([0.0, -0.0, 2.0, -0.5], dtype=dtype)).tolist() == [1, 1, 2, -0.5]
