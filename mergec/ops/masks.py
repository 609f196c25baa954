"""Masks: which entries of a shared delta a task takes, and what the tasks share (EMR, TALL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.graph import Node
from mergec.ops.elect import total
from mergec.ops.op import Tile, op
from mergec.ops.trim import cut, ranked_before

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


@op("row", "delta -> mask", scratch_bytes=28)
def keep_rows(delta: Tensor, *, count: int) -> Tensor:
    """The `count` largest entries of each row by magnitude, equal ones by lowest index.

    [[3, -4, 1], [2, 2, 0]] at 1 is [[false, true, false], [true, false, false]].
    """
    import torch

    order = delta.abs().argsort(dim=-1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(delta, dtype=torch.bool).scatter_(-1, order, True)


def keep_largest(delta: Node, count: int) -> Node:
    """The `count` largest entries of a tensor by magnitude, equal ones by lowest index."""
    return ranked_first(delta, cut(delta, counts=(0, count)))


@op("map", "delta scalar -> mask", scratch_bytes=16)
def ranked_first(delta: Tensor, cuts: tuple[float, ...], *, tile: Tile) -> Tensor:
    """The entries that rank before the second cut."""
    return ranked_before(delta.abs(), cuts[2], cuts[3], tile)
