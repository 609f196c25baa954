"""Near: a step of bounded size from one model towards another, entry by entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.ops.op import op

if TYPE_CHECKING:
    from torch import Tensor


@op("map", "weight weight -> weight", scratch_bytes=12)
def near(base: Tensor, other: Tensor, *, t: float, floor: float) -> Tensor:
    """w * other + (1 - w) * base with w = min(1, t / max(|other - base|, floor)).

    Base [0, 0, 0] and other [1, -4, 0] at t = 2 give [1, -2, 0]. t is above 0.
    """
    share = (t / (base - other).abs().clamp(min=floor)).clamp(max=1)
    return share * other + (1 - share) * base
