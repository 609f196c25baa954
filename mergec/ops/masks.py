"""Masks: which entries of a shared delta a task takes, and what the tasks share (EMR, TALL)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.elect import total
from mergec.ops.op import Tile, op
from mergec.ops.ranking import cut
from mergec.ops.trim import ranked_before

if TYPE_CHECKING:
    from torch import Tensor


MaskLambda = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False, description="an entry counts if its change is above this times what others add"),
]
Agreement = Annotated[int, Field(ge=1, description="how many models must take an entry for it to be kept")]


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


@op("map", "delta delta* -> mask", scratch_bytes=24)
def wanted(joint: Tensor, *deltas: Tensor, thresholds: tuple[float, ...], least: int) -> Tensor:
    """Whether at least `least` tasks take a joint delta at an entry, each by its TALL mask.

    Wang et al., arXiv:2405.07813, section 4.
    """
    import torch

    count = torch.zeros_like(joint, dtype=torch.int16)
    for delta, threshold in zip(deltas, thresholds, strict=True):
        count += stands_out.kernel(delta, joint, threshold=threshold)
    return count >= least


@op("map", "weight weight mask -> weight", scratch_bytes=0)
def revert(merged: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """The merged tensor where the mask holds, the base elsewhere."""
    import torch

    return torch.where(mask, merged, base)


@op("map", "delta* -> delta", scratch_bytes=64)  # measured: six temporaries, and what the allocator keeps of them
def entanglement(*deltas: Tensor) -> Tensor:
    """By how much a change of each task disturbs the others, to first order: the sum over pairs of |d_i| |d_j|.

    [1, 2], [3, 0] and [1, 1] give [14, 4]. Task Arithmetic in Trust Region, arXiv:2501.15065, its zero-shot form.
    """
    joint = total(delta.abs() for delta in deltas)
    return total(delta.abs() * (joint - delta.abs()) for delta in deltas)


@op("map", "delta scalar -> mask", scratch_bytes=0)
def below(values: Tensor, threshold: tuple[float, ...]) -> Tensor:
    """The entries below the second cut of a threshold, the magnitude it found."""
    return values < threshold[2]


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
