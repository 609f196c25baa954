"""Threshold: an order statistic of magnitudes, of one tensor or of the whole model, exact and without sorting.

The bits of a float without its sign are ordered like its magnitude, so a digit of the wanted value (16 bits) is found
per sweep by counting. Counts add up exactly, in any order.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import cast
from mergec.ops.op import Reducer, op
from mergec.ops.pool import Pool, Values, over_model
from mergec.ops.ranking import Digits, magnitudes_of
from mergec.ops.trim import keep_count, trim, trim_magnitude

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rule: TypeAlias = Literal["exact", "reference", "quantile", "from", "before"]
Extent = Annotated[
    Literal["tensor", "model"],
    Field(description="what a threshold is taken over: each tensor for itself, or the whole model"),
]
KeepCount = Annotated[
    Literal["exact", "reference"],
    Field(
        description="int(density * n) entries, ties by lowest index (exact); or one more, and all that equal it, as"
        " the paper's code does (reference)"
    ),
]


Quantile = Annotated[
    float, Field(gt=0, le=1, description="share of the entries that is kept, those that disturb other models least")
]


class Threshold(Pool):
    """The search for the magnitude that a share of all entries reaches, over tensors in the order of their numbers.

    The result is (magnitude, tensor, index): an entry is kept if it is larger, or if it is equal and does not come
    after entry `index` of tensor number `tensor`. Only the rule `exact` cuts through equal magnitudes.
    """

    def __init__(self, density: float, rule: Rule) -> None:
        self._density, self._rule = density, rule
        self._digits = Digits()
        self._dtype: torch.dtype | None = None
        self._counts: Tensor | None = None
        self._left: int | None = None  # entries still to be kept among those that share the known digits
        self._ties: dict[int, int] = {}  # by tensor, once the magnitude is known
        self._cut: int | None = None  # the tensor in which equal magnitudes are cut
        self._last = -1

    def _kept(self, entries: int) -> int:
        """How many of n magnitudes are kept, where no two are equal."""
        if self._rule == "exact":
            return keep_count(self._density, entries)
        if self._rule == "quantile":  # what the density is the share below of: from the order statistic rounded up on
            return entries - ceil(self._density * (entries - 1))
        if self._rule in ("from", "before"):  # the order statistic int(density * n), 0 the smallest; or the one before
            return min(entries, entries - int(self._density * entries) + (self._rule == "before"))
        return min(entries, int(entries * self._density) + 1)

    def wants(self, number: int) -> bool:
        return self._cut is None or number == self._cut

    def part(self, number: int) -> _Part:
        return _Part(self._digits, self._left or 0, self._cut is not None)

    def take(self, number: int, part: Any) -> None:
        if part.counts is not None:
            self._dtype = part.dtype
            counts = part.counts.cpu()  # parts may be counted on several devices
            self._counts = counts if self._counts is None else self._counts + counts
        self._ties[number] = part.tied
        self._last = part.last

    def finish(self) -> Values | None:
        if self._cut is not None:
            return self._digits.magnitude or 0.0, float(self._cut), float(self._last)
        if self._digits.magnitude is not None:
            self._find_tensor()
            return None
        if self._counts is None or self._dtype is None:
            return inf, -1.0, -1.0
        if self._left is None:
            self._left = self._kept(int(self._counts.sum()))
            if self._left == 0:
                return inf, -1.0, -1.0
        self._left, tied = self._digits.narrow(self._counts, self._left, self._dtype)
        self._counts, self._ties = None, {}
        if self._digits.magnitude is None or (self._rule == "exact" and self._left < tied):
            return None
        return self._digits.magnitude, inf, inf

    def _find_tensor(self) -> None:
        """The tensor in which the equal magnitudes that are kept end; the next sweep looks only there."""
        left = self._left or 0
        for number in sorted(self._ties):
            if left <= self._ties[number]:
                self._left, self._cut = left, number
                return
            left -= self._ties[number]

    @staticmethod
    def at(values: Values, number: int) -> Values:
        """The cuts of tensor `number`, as `trim` takes them."""
        magnitude, tensor, last = values
        return inf, -1.0, magnitude, inf if number < tensor else last if number == tensor else -1.0


class _Part:
    """One tensor in one sweep: counts of the next digit, or of ties, or the index of the last tie that is kept."""

    def __init__(self, digits: Digits, left: int, searching: bool) -> None:
        self._digits, self._left, self._searching = digits, left, searching
        self._seen = 0
        self.counts: Tensor | None = None
        self.dtype: torch.dtype | None = None
        self.tied = 0
        self.last = -1

    def update(self, delta: Tensor) -> None:
        if self._digits.magnitude is None:
            counts = self._digits.count(magnitudes_of(delta))
            self.counts, self.dtype = counts if self.counts is None else self.counts + counts, delta.dtype
        elif not self._searching:
            self.tied += int(delta.abs().eq(self._digits.magnitude).sum())
        elif self._left:
            tied = delta.abs().eq(self._digits.magnitude).nonzero().flatten()
            taken = min(self._left, tied.numel())
            self.last = self._seen + int(tied[taken - 1]) if taken else self.last
            self._left -= taken
        self._seen += delta.numel()


class _OfTensor(Reducer):
    """The threshold of one tensor: a model of one."""

    pool = Threshold

    def __init__(self, **attrs: Any) -> None:
        self._threshold = self.pool(**attrs)
        self._part = self._threshold.part(0)

    def update(self, delta: Tensor) -> None:
        self._part.update(delta)

    def finish(self) -> Values | None:
        self._threshold.take(0, self._part)
        values = self._threshold.finish()
        self._part = self._threshold.part(0)
        return None if values is None else Threshold.at(values, 0)


threshold = op("reduce", "delta -> scalar", scratch_bytes=24, name="threshold")(_OfTensor)


def trim_share(delta: Node, density: float, slot: int, scope: Extent = "tensor", rule: KeepCount = "exact") -> Node:
    """Keep the largest entries of a delta, by a threshold of the tensor or of model `slot`'s deltas in all tensors.

    Over the whole model equal magnitudes go by the natural order of tensor names, then by lowest index. Half types
    are compared as float32, which holds them exactly.
    """
    if density <= 0 or (scope == "tensor" and rule == "exact"):
        return trim_magnitude(delta, density)
    if density >= 1:
        return delta
    wide = cast(delta, dtype="float32") if delta.type.item_bytes < 4 else delta
    cuts = threshold(wide, density=density, rule=rule)
    if scope == "model":
        cuts = over_model(cuts, name=f"threshold of models[{slot}]")
    kept = trim(wide, cuts)
    return kept if wide is delta else cast(kept, dtype=delta.type.dtype)
