"""One sign per entry, by sum or by count; a zero vote elects plus."""

from __future__ import annotations

import pytest
import torch

from mergec.ops.elect import elect, total


def elected(deltas: list[list[float]], by: str, dtype: torch.dtype = torch.float32) -> list[bool]:
    return elect.kernel(*(torch.tensor(delta, dtype=dtype) for delta in deltas), by=by).tolist()


def test_documented_examples_hold() -> None:
    assert elected([[2, -1, 0], [-3, 1, 0]], "sum") == [False, True, True]
    assert elected([[5, -1, 0], [-1, -1, 0]], "count") == [True, False, True]


def test_count_ignores_magnitude_and_sum_does_not() -> None:
    assert elected([[9.0], [-1.0], [-1.0]], "sum") == [True]
    assert elected([[9.0], [-1.0], [-1.0]], "count") == [False]


def test_zeros_have_no_vote_in_a_count() -> None:
    assert elected([[0.0], [-0.0], [-1e-30]], "count") == [False]


def test_negative_zero_sum_elects_plus() -> None:
    assert elected([[-0.0], [-0.0]], "sum") == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_add_in_float32(dtype: torch.dtype) -> None:
    """Rounding to the half type between additions would lose the small third delta, and with it the sign."""
    deltas = [torch.tensor([value], dtype=dtype) for value in (1024.0, 0.25, -1024.125)]
    big = [torch.tensor([256.0], dtype=dtype), torch.tensor([0.5], dtype=dtype), torch.tensor([-256.0], dtype=dtype)]
    assert total(big).item() == 0.5
    assert total(deltas).dtype == dtype
