"""Elect: one sign per entry, by the sum of the weighted deltas, by their number, or by their shares of a norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops import bits
from mergec.ops.op import Reducer, op
from mergec.ops.pool import over_model
from mergec.ops.tree import TreeSums

if TYPE_CHECKING:
    from torch import Tensor

Election = Annotated[
    Literal["sum", "count", "normmass", "normfrac"],
    Field(
        description="how signs are elected: by the sum of the weighted deltas, by their number, or by the entries'"
        " shares of their delta's norm, the sum of them (normmass) or the largest (normfrac)"
    ),
]
ZeroSign = Annotated[
    Literal["plus", "minus", "majority"],
    Field(description="the sign where the vote is 0; majority: that of most other entries, of the tensor or the model"),
]


def elected(deltas: Sequence[Node], by: str, zero_sign: str = "plus", scope: str = "tensor") -> Node:
    """The sign that weighted deltas elect, per entry; norms and majorities are those of the tensor or of the model."""
    if by in ("sum", "count") and zero_sign == "plus":
        return elect(*deltas, by=by)
    if by in ("sum", "count"):
        votes = vote(*deltas, by=by)
    else:
        votes = vote_normed(_over(squares(*deltas), scope, "norms of the deltas"), *deltas, by=by)
    if zero_sign == "majority":
        return sign_by_majority(votes, _over(balance(votes), scope, "majority of the signs"))
    return sign_of(votes, zero=zero_sign)


def _over(reduction: Node, scope: str, name: str) -> Node:
    return over_model(reduction, name=name) if scope == "model" else reduction


@op("map", "delta* -> delta", scratch_bytes=8)
def vote(*deltas: Tensor, by: str) -> Tensor:
    """What is summed up where signs are elected: the deltas, or their signs."""
    return total((delta.sign() for delta in deltas) if by == "count" else deltas)


@op("map", "scalar delta* -> delta", scratch_bytes=16)
def vote_normed(squares: tuple[float, ...], *deltas: Tensor, by: str) -> Tensor:
    """sign(d_i) d_i^2 / |d_i|^2: their sum (normmass), or the one of the largest magnitude, the first of equal ones.

    A delta of norm 0 has no vote. The code of TIES-Merging, arXiv:2306.01708.
    """
    import torch

    shares = [
        torch.zeros_like(delta) if not square else delta * delta.abs() / square
        for delta, square in zip(deltas, squares, strict=True)
    ]
    if by == "normmass":
        return total(shares)
    largest = shares[0]
    for share in shares[1:]:
        largest = torch.where(share.abs() > largest.abs(), share, largest)
    return largest


class Squares(Reducer):
    """The sum of squares of each delta, in float64."""

    def __init__(self) -> None:
        self._sums = TreeSums()

    def update(self, *deltas: Tensor) -> None:
        self._sums.add_products(deltas, [(i, i) for i in range(len(deltas))])

    def take(self, sums: Tensor) -> None:
        self._sums.add_leaves(sums)

    def finish(self) -> tuple[float, ...]:
        return self._sums.totals()


class Balance(Reducer):
    """How many more entries are above 0 than below."""

    def __init__(self) -> None:
        self._balance = 0

    def update(self, votes: Tensor) -> None:
        self._balance += int((votes > 0).sum()) - int((votes < 0).sum())

    def finish(self) -> tuple[float, ...]:
        return (float(self._balance),)


squares = op("reduce", "delta* -> scalar", scratch_bytes=8, name="squares")(Squares)
balance = op("reduce", "delta -> scalar", scratch_bytes=2, name="balance")(Balance)


@op("map", "delta -> sign", scratch_bytes=0)
def sign_of(votes: Tensor, *, zero: str) -> Tensor:
    """True where plus is elected; a vote of 0 elects `zero`."""
    return votes >= 0 if zero == "plus" else votes > 0


@op("map", "delta scalar -> sign", scratch_bytes=0)
def sign_by_majority(votes: Tensor, balance: tuple[float, ...]) -> Tensor:
    """True where plus is elected; a vote of 0 elects what most entries do, plus if as many do either."""
    return votes >= 0 if balance[0] >= 0 else votes > 0


@op("map", "delta* -> sign", scratch_bytes=8)
def elect(*deltas: Tensor, by: str) -> Tensor:
    """True where plus is elected, per entry, among weighted deltas. A zero vote elects plus.

    Sum: [2, -1, 0] and [-3, 1, 0] elect [minus, plus, plus]. Count: [5, -1, 0] and [-1, -1, 0] elect
    [plus, minus, plus]. TIES-Merging, arXiv:2306.01708, section 3.
    """
    return bits.from_on(total((delta.sign() for delta in deltas) if by == "count" else deltas), 0.0)


def total(deltas: Iterable[Tensor]) -> Tensor:
    """The sum over models from first to last; half types add in float32 and round once."""
    import torch

    summands = iter(deltas)
    first = next(summands)
    result = first.to(torch.float32 if first.dtype.itemsize < 4 else first.dtype)
    for delta in summands:
        result = result + delta
    return result.to(first.dtype)
