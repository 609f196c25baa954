"""SVD: merges of matrices by singular values and vectors. What lies below the rounding error of a matrix is zero.

Singular vectors have a free sign and, where values repeat, a free rotation; every result here is a product in which
both cancel. LAPACK's last bits depend on the number of threads, so workers have one each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from mergec.graph import Node
from mergec.ops.matrix import full
from mergec.ops.op import Remark, op

if TYPE_CHECKING:
    from torch import Tensor

RankRatio = Annotated[
    Annotated[float, Field(gt=0, le=1)] | Literal["equal"],
    Field(description="share of a delta's singular values that is kept; equal: 1 / number of models"),
]
CommonShare = Annotated[
    float,
    Field(ge=0, le=1, description="share of the singular values that is common to the models; the rest is theirs"),
]


class Factors(NamedTuple):
    """u (H x r), s (r, falling), v (r x W): singular vectors are the columns of u and the rows of v."""

    u: Tensor
    s: Tensor
    v: Tensor

    def first(self, rank: int) -> Factors:
        return Factors(self.u[:, :rank], self.s[:rank], self.v[:rank])


def factorise(matrix: Tensor, scale: float | None = None) -> Factors:
    """The reduced SVD of a matrix without the singular values that are rounding errors of `scale`.

    That is eps * max(H, W) * scale, the largest singular value if not given, as in the usual numerical rank.
    """
    import torch

    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    largest = float(s[0]) if scale is None and s.numel() else scale or 0.0
    rank = int((s > torch.finfo(s.dtype).eps * max(matrix.shape) * largest).sum())
    return Factors(u, s, v).first(rank)


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns or rows, on the range of the matrix; zero outside of it."""
    u, _, v = factorise(matrix)
    return u @ v


def rank_of(node: Node, ratio: float | str, models: int) -> int:
    """How many singular values of a matrix are kept: int(min(H, W) * ratio), 0 possible."""
    return int(min(node.type.shape) * (1 / models if ratio == "equal" else float(ratio)))


def _keeps_nothing(node: Node) -> Remark | None:
    height, width = node.type.shape
    if node.attr("rank") > 0 or 0 in (height, width):
        return None
    what = f"no singular value of a {height} x {width} matrix is kept, so it stays as in the base"
    return Remark("rank_ratio", "W651", what, "set rank_ratio to a larger share")


def _svd_entries(height: int, width: int) -> int:
    """What an SVD allocates, counted in entries: a copy, the vectors, and LAPACK's workspace."""
    return 3 * height * width + 4 * min(height, width) ** 2


def _sum_scratch(node: Node) -> int:
    """Bytes per entry of a sum, its SVD and a product of the vectors; of as much again where deltas are cut first."""
    numel = max(1, node.type.numel)
    return math.ceil(max(4, node.type.item_bytes) * (3 * numel + _svd_entries(*node.type.shape)) / numel)


def _stack_scratch(node: Node) -> int:
    """Bytes per entry of the factors of all models, apart and side by side, and of one SVD, the largest."""
    (height, width), models = node.type.shape, len(node.inputs)
    least, numel = min(height, width), max(1, node.type.numel)
    columns = models * min(node.attr("rank"), least) if node.op == "merge_singular" else least
    factors = columns * (height + width)
    largest = max(_svd_entries(height, width), factors + _svd_entries(max(height, width), columns))
    return math.ceil(max(4, node.type.item_bytes) * (2 * factors + largest + 2 * numel) / numel)


@op("whole", "delta* -> delta", scratch_bytes=_stack_scratch, remark=_keeps_nothing)
def merge_singular(*deltas: Tensor, rank: int) -> Tensor:
    """Keep `rank` singular values of each delta, make the vectors of all models orthogonal, put them together.

    With U = [U_1 .. U_T], S = diag(S_1 .. S_T), V = [V_1; ..; V_T] the result is polar(U) S polar(V). Where the
    vectors of two models coincide, polar(U) is the nearest partial isometry: equal deltas give that delta again, and
    a delta of zero counts for nothing. Rank 0 gives zero. TSV-Merge, arXiv:2412.00081.
    """
    import torch

    parts = [factorise(full(delta)).first(rank) for delta in deltas]
    u, s, v = torch.cat([p.u for p in parts], 1), torch.cat([p.s for p in parts]), torch.cat([p.v for p in parts])
    merged = (polar(u) * s) @ polar(v) if s.numel() else torch.zeros_like(full(deltas[0]))
    return merged.to(deltas[0].dtype)


@op("whole", "delta* -> delta", scratch_bytes=_sum_scratch, remark=_keeps_nothing)
def merge_isotropic(*deltas: Tensor, rank: int) -> Tensor:
    """The sum of the deltas with every singular value replaced by their mean.

    Each delta is first cut to `rank` singular values, if those are not all. Values that are zero up to rounding stay
    zero and are not counted, so a sum of low rank keeps its directions and its nuclear norm. Iso-C, arXiv:2502.04959.
    """
    import torch

    total = torch.zeros_like(full(deltas[0]))
    for delta in deltas:
        total += full(delta) if rank >= min(delta.shape) else _cut(full(delta), rank)
    u, s, v = factorise(total)
    return (u @ v * _mean(s)).to(deltas[0].dtype)


@op("whole", "delta -> delta", scratch_bytes=_sum_scratch, remark=_keeps_nothing)
def project_singular(delta: Tensor, *, rank: int) -> Tensor:
    """The nearest matrix of a rank: `rank` singular values are kept, the others are 0. Eckart and Young, 1936."""
    return delta if rank >= min(delta.shape) else _cut(full(delta), rank).to(delta.dtype)


def _cut(delta: Tensor, rank: int) -> Tensor:
    u, s, v = factorise(delta).first(rank)
    return (u * s) @ v


def _mean(s: Tensor) -> Tensor:
    """The mean of singular values; 0 of none."""
    return s.sum() / max(1, s.numel())


@op("whole", "delta* -> delta", scratch_bytes=_stack_scratch)
def merge_isotropic_spaces(*deltas: Tensor, common_share: float) -> Tensor:
    """The common directions of all deltas and those of each, made orthogonal, all with the same singular value.

    Of q = min(H, W) directions each model gets d = round((q - int(q * common_share)) / T), at most q // T, and the
    sum of the deltas the other k: its first singular vectors U_c. The model's are the first of (I - U_c U_c^T) delta.
    Stacked as [models, common], the result is mean(S) polar(U) polar(V). Iso-CTS, arXiv:2502.04959.
    """
    import torch

    least, models = min(deltas[0].shape), len(deltas)
    own = min(round((least - int(least * common_share)) / models), least // models)
    total = torch.zeros_like(full(deltas[0]))
    for delta in deltas:
        total += full(delta)
    common = factorise(total).first(least - models * own)
    parts = [_beyond(full(delta), common.u).first(own) for delta in deltas] + [common]
    u, s, v = torch.cat([p.u for p in parts], 1), torch.cat([p.s for p in parts]), torch.cat([p.v for p in parts])
    merged = polar(u) @ polar(v) * _mean(s) if s.numel() else total * 0
    return merged.to(deltas[0].dtype)


def _beyond(delta: Tensor, common: Tensor) -> Factors:
    """The SVD of what a delta has outside the common space; measured against the whole of it, so noise is zero."""
    return factorise(delta - common @ (common.T @ delta), float(delta.norm()))
