"""Fusion: take another model where its importance - change times divergence of its row - stands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.ops.op import op
from mergec.ops.tree import row_sums, wide

if TYPE_CHECKING:
    from torch import Tensor


@op("row", "weight weight -> delta", scratch_bytes=72)
def importance(base: Tensor, other: Tensor) -> Tensor:
    """|other - base| times the divergence KL(p || q) of its row, p and q the softmax of other's and base's row.

    Rows x entries; probabilities get 1e-8 added; a divergence that rounding makes negative is 0.
    """
    p, q = (wide(one).softmax(-1) + 1e-8 for one in (other, base))
    divergence = row_sums(p * (p.log() - q.log())).clamp(min=0)
    return ((wide(other) - wide(base)).abs() * divergence).to(base.device, base.dtype)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def upper_fence(quartiles: tuple[float, ...]) -> tuple[float, ...]:
    """(median + 1.5 * (third quartile - first quartile),) from (first quartile, median, third quartile)."""
    first, median, third = quartiles
    return (median + 1.5 * (third - first),)


@op("map", "weight weight delta scalar -> weight", scratch_bytes=12)
def take_important(base: Tensor, other: Tensor, importance: Tensor, fence: tuple[float, ...]) -> Tensor:
    """`other` where its importance reaches the fence, else `base`."""
    return other.where(wide(importance).to(base.device) >= fence[0], base)
