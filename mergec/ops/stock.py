"""Model stock: how far to go from the base to the mean of fine-tunes, from the angles between their deltas."""

from __future__ import annotations

from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING

from mergec.ops.elect import total
from mergec.ops.op import op
from mergec.ops.tree import row_sums, wide

if TYPE_CHECKING:
    from torch import Tensor


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def stock_ratio(gram: tuple[float, ...], *, floor: float) -> tuple[float, ...]:
    """(t,) with t = N c / (1 + (N - 1) c), c the mean cosine over the pairs of N deltas.

    The cosine with a zero delta is 0. Where 1 + (N - 1) c vanishes - deltas that cancel out - t is 0. A negative
    c gives a negative t, which is not clamped. `floor` is the least divisor of a cosine: 0 makes t independent of
    the deltas' scale; the peer has 1e-6.
    Jang et al., Model Stock, arXiv:2403.19522, eq. 6.
    """
    size = round(sqrt(len(gram)))
    cosines = [_cosine(gram, size, i, j, floor) for i, j in combinations(range(size), 2)]
    mean = sum(cosines) / len(cosines)
    divisor = 1 + (size - 1) * mean
    return (size * mean / divisor if abs(divisor) >= 1e-6 else 0.0,)


def _cosine(gram: tuple[float, ...], size: int, i: int, j: int, floor: float) -> float:
    norms = max(floor, sqrt(gram[i * size + i]) * sqrt(gram[j * size + j]))
    return max(-1.0, min(1.0, gram[i * size + j] / norms)) if norms > 0 else 0.0


@op("map", "weight scalar weight* -> weight", scratch_bytes=12)
def stock(base: Tensor, ratio: tuple[float, ...], *models: Tensor) -> Tensor:
    """t * mean(models) + (1 - t) * base."""
    (t,) = ratio
    return total(models) / len(models) * t + base * (1 - t)


@op("row", "weight weight* -> weight", scratch_bytes=64)
def stock_rows(base: Tensor, *models: Tensor, floor: float) -> Tensor:
    """Model stock with its own t for every row; rows x entries."""
    deltas = [wide(model - base) for model in models]
    size = len(deltas)
    mean = sum(
        (_row_cosine(left, right, floor) for left, right in combinations(deltas, 2)), start=wide(base[:, :1]) * 0
    ) / (size * (size - 1) // 2)
    divisor = 1 + (size - 1) * mean
    singular = divisor.abs() < 1e-6
    t = (size * mean / divisor.masked_fill(singular, 1)).masked_fill(singular, 0).to(base.device, base.dtype)
    return total(models) / size * t + base * (1 - t)


def _row_cosine(left: Tensor, right: Tensor, floor: float) -> Tensor:
    """The cosine of each row, rows x 1, float64."""
    norms = (row_sums(left * left).sqrt() * row_sums(right * right).sqrt()).clamp(min=floor)
    dots = row_sums(left * right)
    return (dots / norms.masked_fill(norms == 0, 1)).clamp(-1, 1)
