"""Calibrate: singular values of a merged delta, made to fit what each model contributes along their directions."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.ops.op import op
from mergec.ops.svd import factorise
from mergec.ops.tree import wide

if TYPE_CHECKING:
    from torch import Tensor


CalibrationAlpha = Annotated[
    float,
    Field(ge=0, le=1, description="least contribution that counts; a model that has less is not made up for further"),
]


@op(
    "whole",
    "delta delta* -> delta",
    scratch_bytes=lambda node: ceil(8 * (8 + 5 * min(node.type.shape) / max(1, max(node.type.shape)))),
)
def calibrate_singular(merged: Tensor, *deltas: Tensor, alpha: float) -> Tensor:
    """sigma_r * T / sum_t max(alpha, s_rt), s_rt = <u_r^T merged, u_r^T d_t> / |u_r^T d_t|^2, for merged = U S V.

    The deltas d_t are those of the models, without weights: a merge that weighs them less has smaller s. Where u_r^T
    d_t is 0, s_rt is 0. Computed in float64. A sum of 0, with alpha 0, leaves sigma_r. SVC, arXiv:2602.05536.
    """
    u, s, v = factorise(wide(merged))
    total = s.new_zeros(s.shape)
    for delta in deltas:
        rows = u.T @ wide(delta)
        norms = rows.square().sum(1)
        products = (rows * v).sum(1) * s
        total += (products / norms.masked_fill(norms == 0, 1)).clamp(min=alpha)
    factors = len(deltas) / total.masked_fill(total == 0, len(deltas))
    return ((u * (s * factors)) @ v).to(merged.device, merged.dtype)
