"""Elect: one sign per entry, by the sum of the weighted deltas or by their number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mergec.ops.op import op

if TYPE_CHECKING:
    from torch import Tensor

Election = Annotated[
    Literal["sum", "count"],
    Field(description="how signs are elected: by the sum of the weighted deltas, or by how many have each sign"),
]


@op("map", "delta* -> sign", scratch_bytes=8)
def elect(*deltas: Tensor, by: str) -> Tensor:
    """True where plus is elected, per entry, among weighted deltas. A zero vote elects plus.

    Sum: [2, -1, 0] and [-3, 1, 0] elect [minus, plus, plus]. Count: [5, -1, 0] and [-1, -1, 0] elect
    [plus, minus, plus]. TIES-Merging, arXiv:2306.01708, section 3.
    """
    return total((delta.sign() for delta in deltas) if by == "count" else deltas) >= 0


def total(deltas: Iterable[Tensor]) -> Tensor:
    """The sum over models from first to last; half types add in float32 and round once."""
    import torch

    summands = iter(deltas)
    first = next(summands)
    result = first.to(torch.float32 if first.dtype.itemsize < 4 else first.dtype)
    for delta in summands:
        result = result + delta
    return result.to(first.dtype)
