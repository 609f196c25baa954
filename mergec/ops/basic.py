"""Load, cast, diff, weigh, scale: the ops every method starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergec.graph import Graph, Node, TensorType
from mergec.ops.op import op

if TYPE_CHECKING:
    from torch import Tensor


def load(graph: Graph, slot: int, type: TensorType) -> Node:
    """The tensor of input number `slot`, as stored; where its bytes lie is bound per output."""
    return graph.node("load", (), {"slot": slot}, type, "load")


@op("map", "weight -> weight", scratch_bytes=0)
def cast(values: Tensor, *, dtype: str) -> Tensor:
    """The same values in another dtype, rounded to nearest even; keeps the space."""
    import torch

    return values.to(getattr(torch, dtype))


@op("map", "weight weight -> delta", scratch_bytes=0)
def diff(model: Tensor, base: Tensor) -> Tensor:
    """What a model changed: model - base."""
    return model - base


@op("map", "delta -> delta", scratch_bytes=0)
def weigh(delta: Tensor, *, weight: float) -> Tensor:
    """A delta times its model's weight; the weight is rounded to the delta's dtype first, as a tensor's would be."""
    return delta * rounded(weight, delta)


def weighed(deltas: Sequence[Node], weight: Sequence[float]) -> list[Node]:
    """Each delta times its model's weight."""
    return [weigh(delta, weight=value) for delta, value in zip(deltas, weight, strict=True)]


@op("map", "weight -> weight", scratch_bytes=0)
def scale(values: Tensor, *, factor: float) -> Tensor:
    """A weight times a number: 0 removes a projection, 1 leaves it."""
    return values * factor


def rounded(number: float, like: Tensor) -> float:
    """A number rounded to the dtype of a tensor.

    In bfloat16, 0.3 is 0.30078125.
    """
    return float(like.new_tensor(number)) if like.dtype.itemsize < 4 else number


def scaled(values: Tensor, factor: float | Tensor) -> Tensor:
    """The values times a factor; themselves where it is the number 1, the same bits with less work."""
    return values if isinstance(factor, (int, float)) and factor == 1 else values * factor
