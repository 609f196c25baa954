"""Competition: weigh each entry of each delta by its size among its own and its accord with the others (PCB)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import cast
from mergec.ops.elect import total
from mergec.ops.op import op
from mergec.ops.pool import over_model
from mergec.ops.threshold import Extent, Rule, threshold

if TYPE_CHECKING:
    from torch import Tensor

PcbRatio = Annotated[
    float, Field(gt=0, le=1, description="share of a delta's entries that take part, those that win the competition")
]
_CLIPPED = 1e-4


def fuse_competing(base: Node, deltas: Sequence[Node], ratio: float, scope: Extent, factor: float) -> Node:
    """base + factor * the mean of the clipped deltas, weighed by how each entry stands in the competition."""
    clips, shares = [], []
    wide = [cast(delta, dtype="float32") if delta.type.item_bytes < 4 else delta for delta in deltas]
    for slot, delta in enumerate(wide):
        low = _ranked(delta, _CLIPPED, "from", f"low clip of models[{slot}]", scope)
        high = _ranked(delta, 1 - _CLIPPED, "before", f"high clip of models[{slot}]", scope)
        won = compete(low, high, delta, *wide)
        least = _ranked(won, 1 - ratio, "from", f"competition of models[{slot}]", scope)
        most = _ranked(won, 1.0, "before", f"winner of models[{slot}]", scope)
        shares.append(stand(won, least, most))
        clips.append(clip(delta, low, high))
    return fuse_winners(cast(base, dtype=wide[0].type.dtype), *clips, *shares, factor=factor)


def _ranked(values: Node, share: float, rule: Rule, name: str, scope: Extent) -> Node:
    """The magnitude above a share of all, of a tensor or of the model."""
    found = threshold(values, density=share, rule=rule)
    return over_model(found, name=name) if scope == "model" else found


def _magnitude(cuts: tuple[float, ...]) -> float:
    """What a threshold found; 0 of no entries."""
    return cuts[2] if cuts[2] != float("inf") else 0.0


@op("map", "delta scalar scalar -> delta", scratch_bytes=8)
def clip(delta: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> Tensor:
    """The delta with magnitudes brought into [low, high]; zeros stay."""
    return delta.sign() * delta.abs().clamp(_magnitude(low), _magnitude(high))


@op("map", "scalar scalar delta delta* -> delta", scratch_bytes=24)
def compete(low: tuple[float, ...], high: tuple[float, ...], delta: Tensor, *deltas: Tensor) -> Tensor:
    """exp(T s^2) tanh(d * sum of all deltas), s the magnitude of d from low (0) to high (1); 0 where that is negative.

    The first factor is the balance inside a model, the second the one between the T models.
    """
    smallest, largest = _magnitude(low), _magnitude(high)
    size = (delta.abs().clamp(smallest, largest) - smallest) / ((largest - smallest) or 1.0)
    return (size.square() * len(deltas)).exp() * (delta * total(deltas)).tanh().clamp(min=0)


@op("map", "delta scalar scalar -> delta", scratch_bytes=4)
def stand(won: Tensor, least: tuple[float, ...], most: tuple[float, ...]) -> Tensor:
    """How far each entry is from the least one that takes part (0, as all below) to the winner (1)."""
    start, end = _magnitude(least), _magnitude(most)
    return (won - start).clamp(min=0) / ((end - start) or 1.0)


@op("map", "weight delta* -> weight", scratch_bytes=16)
def fuse_winners(base: Tensor, *clips_and_shares: Tensor, factor: float) -> Tensor:
    """base + factor * sum(clip_i * share_i) / sum(share_i), the quotient 0 where no entry has a share."""
    half = len(clips_and_shares) // 2
    clips, shares = clips_and_shares[:half], clips_and_shares[half:]
    merged = total(one * share for one, share in zip(clips, shares, strict=True))
    mass = total(shares)
    return base + merged / (mass + (mass == 0)) * factor
