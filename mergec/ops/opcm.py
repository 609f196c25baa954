"""OPCM: one delta after the other, each without what lies along the directions of those before it."""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.op import op
from mergec.ops.svd import factorise
from mergec.ops.tree import wide

if TYPE_CHECKING:
    from torch import Tensor

ProjectionAlpha = Annotated[
    float,
    Field(ge=0, le=1, description="share of the singular values whose directions are closed to the models that follow"),
]
_ROUNDING = 2.0**-23


def _scratch(node: Node) -> int:
    """Bytes per entry in float64: the sum, a delta, an SVD of the sum, and the delta in its basis."""
    return ceil(8 * (7 + 6 * min(node.type.shape) / max(1, *node.type.shape)))


@op("whole", "delta* -> delta", scratch_bytes=_scratch)
def merge_orthogonal(*deltas: Tensor, alpha: float) -> Tensor:
    """D_1 = d_1, D_t = D_(t-1) + P(d_t); P removes from d_t what lies on the axes of D_(t-1) = U S V.

    In the basis of U and V that is the diagonal, and the block of the first singular values whose sum reaches the
    share alpha of all. Values that are zero up to rounding have no axes. Computed in float64; the scale of the
    result is of no meaning. Orthogonal Projection-based Continual Merging, arXiv:2501.09522.
    """
    merged = wide(deltas[0]).clone()
    for delta in deltas[1:]:
        u, s, v = factorise(merged)
        inside = u.T @ wide(delta) @ v.T
        closed = split_rank(s, alpha)
        block = inside[:closed, :closed].clone()
        removed = inside.diagonal().diag()
        removed[:closed, :closed] = block
        merged += wide(delta) - u @ removed @ v
    return merged.to(deltas[0].device, deltas[0].dtype)


def split_rank(s: Tensor, alpha: float) -> int:
    """The index of the first singular value at which the sum of all so far is above the share alpha; 0 of none."""
    above = (s.cumsum(0) > alpha * s.sum()).nonzero()
    return int(above[0]) if above.numel() else 0


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def mean_norm_ratio(squares: tuple[float, ...]) -> tuple[float, ...]:
    """(mean of |d_t|) / |D| from (|D|^2, |d_1|^2, ...); 0 where D is 0 but for the rounding of float32.

    (4, 1, 9) gives 1.0: the mean of 1 and 3, over 2.
    """
    merged, *own = map(sqrt, squares)
    is_left = own and merged > _ROUNDING * max(own)
    return (sum(own) / len(own) / merged if is_left else 0.0,)


@op("map", "delta scalar -> delta", scratch_bytes=0)
def rescale_by_ratio(delta: Tensor, ratio: tuple[float, ...]) -> Tensor:
    """A delta times a number."""
    return delta * ratio[0]
