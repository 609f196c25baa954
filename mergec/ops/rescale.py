"""Rescale: give back what trimming took - the expected value of each entry, or the L1 norm of the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import rounded
from mergec.ops.op import Reducer, op
from mergec.ops.registry import Arithmetic
from mergec.ops.tree import TreeSums, blocks, wide

if TYPE_CHECKING:
    from torch import Tensor

NormRescale = Annotated[
    bool | Literal["l1", "none"],
    Field(description="after trimming, restore the delta's L1 norm (true) or leave it (false)"),
]
Rescale = Annotated[
    bool | Literal["inverse_prob", "l1", "none"],
    Field(
        description="after dropping, divide by the keep probability (true; l1 under compat: mergekit) or not (false)"
    ),
]
Rule: TypeAlias = Literal["inverse_prob", "l1", "none"]


def norm_rule(value: bool | str) -> Rule:
    """What `rescale` means for a trim that draws nothing."""
    return "l1" if value in (True, "l1") else "none"


def drop_rule(value: bool | str, arithmetic: Arithmetic) -> Rule:
    """What `rescale` means for a random trim: `true` is the paper's rule, or the peer's under compat."""
    if value is True:
        return "l1" if arithmetic.mergekit else "inverse_prob"
    return "l1" if value == "l1" else "inverse_prob" if value == "inverse_prob" else "none"


def rescale(delta: Node, trimmed: Node, rule: Rule, chance: float | Node | None = None) -> Node:
    """Apply a rescale rule to a trimmed delta; `chance` is the keep probability, one number or one per entry."""
    if rule == "none" or trimmed is delta:
        return trimmed
    if rule == "l1":
        return rescale_l1(trimmed, l1(delta), l1(trimmed))
    if isinstance(chance, Node):
        return rescale_ranked(trimmed, chance)
    return rescale_by(trimmed, chance=chance) if chance else trimmed


class L1(Reducer):
    """The sum of magnitudes of a delta, in float64."""

    def __init__(self) -> None:
        self._sums = TreeSums()

    def update(self, delta: Tensor) -> None:
        for part in blocks(delta):
            self._sums.add(wide(part).abs()[None])

    def take(self, sums: Tensor) -> None:
        self._sums.add_leaves(sums)

    def finish(self) -> tuple[float, ...]:
        return self._sums.totals() or (0.0,)


l1 = op("reduce", "delta -> scalar", scratch_bytes=0, name="l1")(L1)


@op("map", "delta scalar scalar -> delta", scratch_bytes=0)
def rescale_l1(trimmed: Tensor, before: tuple[float, ...], after: tuple[float, ...]) -> Tensor:
    """The trimmed delta times (L1 before / L1 after); untouched where either norm is below 1e-7.

    [2, 0] trimmed from [2, 1] becomes [3, 0].
    """
    old, new = rounded(before[0], trimmed), rounded(after[0], trimmed)
    return trimmed if min(old, new) < 1e-7 else trimmed * rounded(old / new, trimmed)


@op("map", "delta -> delta", scratch_bytes=0)
def rescale_by(trimmed: Tensor, *, chance: float) -> Tensor:
    """The trimmed delta divided by the probability with which entries were kept, so that its mean is the delta."""
    return trimmed / chance


@op("map", "delta probability -> delta", scratch_bytes=0)
def rescale_ranked(trimmed: Tensor, chance: Tensor) -> Tensor:
    """Each entry divided by its own keep probability."""
    return trimmed / chance.to(trimmed.dtype)
