"""Masks: which entries of a shared delta a task takes, and what the tasks share (EMR, TALL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.ops.elect import total
from mergec.ops.op import op

if TYPE_CHECKING:
    from torch import Tensor


@op("map", "delta* -> delta", scratch_bytes=4)
def join(*deltas: Tensor) -> Tensor:
    """The sum of deltas, from first to last."""
    return total(deltas)


@op("map", "delta delta -> mask", scratch_bytes=12)
def stands_out(delta: Tensor, joint: Tensor, *, threshold: float) -> Tensor:
    """Whether a task's change is larger than `threshold` times what the other tasks add to it.

    [2, 1] in a sum of [3, 4] at threshold 1 is [true, false]. Wang et al., arXiv:2405.07813, eq. 4.
    """
    return delta.abs() > threshold * (joint - delta).abs()


@op("map", "delta* -> delta", scratch_bytes=16)
def unify(*deltas: Tensor) -> Tensor:
    """Per entry the elected sign with the largest magnitude among the deltas that have it.

    The sign is plus where the sum of the deltas is above 0, else minus. [2, 1], [1, -3] and [-4, 4] give [-4, 4].
    Huang et al., EMR-Merging, arXiv:2405.17461, section 3.2.
    """
    import torch

    plus = total(deltas) > 0
    largest = torch.zeros_like(deltas[0])
    for delta in deltas:
        largest = torch.maximum(largest, torch.where(plus, delta, -delta))
    return torch.where(plus, largest, -largest)


@op("map", "delta delta* -> mask", scratch_bytes=8)
def agrees(delta: Tensor, *deltas: Tensor) -> Tensor:
    """Whether a delta has the sign that is elected among all of them; a zero agrees with none."""
    import torch

    return torch.where(total(deltas) > 0, delta > 0, delta < 0)
