"""Fuse: join weights by an average, or deltas by a sum or by the mean of those that agree with the elected sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops import bits
from mergec.ops.basic import rounded, scaled, weighed
from mergec.ops.elect import elect, total
from mergec.ops.op import op
from mergec.ops.registry import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

Weight = Annotated[float, Field(allow_inf_nan=False, description="how much of the model goes into the merge")]
Normalize = Annotated[bool, Field(description="divide by the sum of the weights that took part")]
Lambda = Annotated[
    float, Field(allow_inf_nan=False, description="factor on the merged delta before it is added to the base")
]
Consensus = Annotated[
    Literal["sum", "none"],
    Field(description="add up the deltas that have the sign of the sum of all, entry by entry (sum), or all (none)"),
]
Aggregate = Annotated[
    Literal["mean", "sum", "max"] | None,
    Field(description="what becomes of deltas that agree; left out: mean if normalize, else sum"),
]
Int8Mask = Annotated[
    bool,
    Field(
        description="accepted for mergekit's recipes: sign masks take one byte here anyway, no number changes",
        json_schema_extra={"deprecated": True},
    ),
]


def check_weights(weight: Sequence[float], normalize: bool) -> None:
    """Refuse weights whose sum vanishes where it is a divisor."""
    magnitude = sum(map(abs, weight))
    if normalize and magnitude > 0 and abs(sum(weight)) <= 1e-6 * magnitude:
        listed = ", ".join(f"{value:g}" for value in weight)
        raise ParameterError(
            "weight", f"weights {listed} sum to zero, and normalize divides by their sum", "set normalize: false"
        )


def fuse_deltas(base: Node, deltas: Sequence[Node], weight: Sequence[float], normalize: bool, factor: float) -> Node:
    """base + factor * sum of weighted deltas, divided by the sum of the weights if `normalize`."""
    check_weights(weight, normalize)
    used = tuple(weight) if normalize else ()
    return fuse_sum(base, *weighed(deltas, weight), weights=used, normalize=normalize, factor=factor)


def fuse_elected(
    base: Node, deltas: Sequence[Node], weight: Sequence[float], normalize: bool, factor: float, by: str
) -> Node:
    """`fuse_signed` with the sign that the weighted deltas elect."""
    return fuse_signed(base, elect(*weighed(deltas, weight), by=by), deltas, weight, normalize, factor)


def fuse_signed(
    base: Node, sign: Node, deltas: Sequence[Node], weight: Sequence[float], normalize: bool, factor: float
) -> Node:
    """base + factor * sum (or weighted mean if `normalize`) of the weighted deltas that have the elected sign."""
    check_weights(weight, normalize)
    parts, used = weighed(deltas, weight), tuple(weight) if normalize else ()
    return fuse_agreeing(base, sign, *parts, weights=used, normalize=normalize, factor=factor)


def fuse_agreed(
    base: Node,
    sign: Node,
    deltas: Sequence[Node],
    weight: Sequence[float],
    normalize: bool,
    factor: float,
    aggregate: str | None,
) -> Node:
    """`fuse_signed`, or base + factor * the largest of the weighted deltas that have the elected sign."""
    if aggregate == "max":
        return fuse_largest_agreeing(base, sign, *weighed(deltas, weight), factor=factor)
    return fuse_signed(base, sign, deltas, weight, normalize if aggregate is None else aggregate == "mean", factor)


def fuse_models(models: Sequence[Node], weight: Sequence[float], normalize: bool) -> Node:
    """The weighted sum of models, or their weighted mean if `normalize`."""
    check_weights(weight, normalize)
    if normalize and not any(weight):
        raise ParameterError(
            "weight", "every weight is 0, and normalize divides by their sum", "give one model a weight"
        )
    return average(*models, weights=tuple(weight), normalize=normalize)


def fuse_consensus(base: Node, deltas: Sequence[Node], weight: Sequence[float], factor: float, consensus: str) -> Node:
    """base + factor * sum of the weighted deltas, of those with the elected sign if there is to be a consensus."""
    if consensus == "none":
        return fuse_deltas(base, deltas, weight, False, factor)
    return fuse_elected(base, deltas, weight, False, factor, by=consensus)


@op("map", "weight delta* -> weight", scratch_bytes=8)
def fuse_sum(base: Tensor, *deltas: Tensor, weights: tuple[float, ...], normalize: bool, factor: float) -> Tensor:
    """base + factor * (sum of weighted deltas), divided by the sum of the weights if `normalize`.

    A weight sum below 1e-8 counts as 1; without `normalize` no weights are given.
    Base [1, 1] and weighted deltas [1, 0], [2, -1] give [4, 0].
    """
    merged = total(deltas)
    if normalize:
        divisor = rounded(sum(rounded(weight, base) for weight in weights), base)
        merged = merged / (divisor if abs(divisor) >= 1e-8 else 1.0)
    return base + scaled(merged, factor)


@op("map", "weight sign delta* -> weight", scratch_bytes=16)
def fuse_agreeing(
    base: Tensor, plus: Tensor, *deltas: Tensor, weights: tuple[float, ...], normalize: bool, factor: float
) -> Tensor:
    """base + factor * the sum of the weighted deltas that have the elected sign.

    With `normalize` the sum is divided, per entry, by the weights of those deltas; a divisor of exactly 0 counts
    as 1; without, no weights are given. Zeros agree with no sign. TIES-Merging, arXiv:2306.01708, section 3.
    """
    import torch

    wide = torch.float32 if base.dtype.itemsize < 4 else base.dtype
    merged, mass, minus = torch.zeros_like(base, dtype=wide), torch.zeros_like(base, dtype=wide), ~plus
    for delta, weight in zip(deltas, weights if normalize else [0.0] * len(deltas), strict=True):
        agrees = (plus & bits.above(delta, 0.0)) | (minus & bits.below(delta, 0.0))
        merged += bits.keep(delta, agrees)
        if normalize:
            mass += bits.constant(rounded(weight, base), agrees, mass)
    merged, mass = merged.to(base.dtype), mass.to(base.dtype)
    if normalize:
        merged = merged / bits.unless_zero(mass)
    return base + scaled(merged, factor)


@op("map", "weight sign delta* -> weight", scratch_bytes=16)
def fuse_largest_agreeing(base: Tensor, plus: Tensor, *deltas: Tensor, factor: float) -> Tensor:
    """base + factor * per entry the largest of the weighted deltas that have the elected sign, 0 where none has."""
    import torch

    largest = torch.zeros_like(base)
    for delta in deltas:
        largest = torch.maximum(largest, torch.where(plus, delta, -delta))
    merged = torch.where(plus, largest, -largest)
    return base + scaled(merged, factor)


@op("map", "weight delta* -> weight", scratch_bytes=16)
def fuse_largest(base: Tensor, *deltas: Tensor, factor: float) -> Tensor:
    """base + factor * per entry the delta of the largest magnitude; of equal ones the last.

    Base [1, 1] and deltas [1, -2], [-1, 1] give [0, -1].
    """
    import torch

    merged = deltas[0]
    for delta in deltas[1:]:
        merged = torch.where(delta.abs() >= merged.abs(), delta, merged)
    return base + scaled(merged, factor)


@op("map", "weight* -> weight", scratch_bytes=8)
def average(*models: Tensor, weights: tuple[float, ...], normalize: bool) -> Tensor:
    """The sum of weights times models, divided by the sum of the weights if `normalize`; half types add in float32.

    [1, 2] and [3, 6] with weights 1 and 3 give [2.5, 5].
    """
    import torch

    dtype = models[0].dtype
    wide = torch.float32 if dtype.itemsize < 4 else dtype
    result = torch.zeros_like(models[0], dtype=wide)
    for model, weight in zip(models, weights, strict=True):
        result.add_(model.to(wide), alpha=weight)
    if normalize:
        result /= sum(weights)
    return result.to(dtype)
