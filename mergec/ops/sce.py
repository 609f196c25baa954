"""SCE: where models differ most, how much of that each one accounts for, and the sum of those that agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.ops import bits
from mergec.ops.basic import rounded
from mergec.ops.elect import total
from mergec.ops.op import Reducer, Tile, op
from mergec.ops.tree import LEAF, TreeSums
from mergec.ops.trim import ranked_before

if TYPE_CHECKING:
    from torch import Tensor


@op("map", "delta* -> delta", scratch_bytes=16)
def variance(*deltas: Tensor) -> Tensor:
    """The population variance of each entry over the models; exactly 0 where all are equal.

    [0, 1] and [2, 1] give [1, 0].
    """
    import torch

    dtype = torch.float32 if deltas[0].dtype.itemsize < 4 else deltas[0].dtype
    first = deltas[0].to(dtype)
    mean = total(delta.to(dtype) - first for delta in deltas) / len(deltas)
    squares = total((delta.to(dtype) - first - mean).square() for delta in deltas)
    return (squares / len(deltas)).to(deltas[0].dtype)


@op("map", "delta delta scalar -> delta", scratch_bytes=16)
def select(delta: Tensor, ranking: Tensor, cut: tuple[float, ...], *, tile: Tile) -> Tensor:
    """Keep the entries of a delta that another tensor ranks before a cut, set the others to zero."""
    return bits.keep(delta, ranked_before(ranking.abs(), cut[0], cut[1], tile))


class MeanSquares(Reducer):
    """The mean square of each delta, in float64."""

    def __init__(self) -> None:
        self._sums = TreeSums()
        self._entries = 0

    def update(self, *deltas: Tensor) -> None:
        self._entries += deltas[0].numel()
        self._sums.add_products(deltas, [(i, i) for i in range(len(deltas))])

    def take(self, sums: Tensor) -> None:
        self._entries += len(sums) * sums.shape[2] * LEAF
        self._sums.add_leaves(sums)

    def finish(self) -> tuple[float, ...]:
        return tuple(total / self._entries for total in self._sums.totals())


mean_squares = op("reduce", "delta* -> scalar", scratch_bytes=0, name="mean_squares")(MeanSquares)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def shares_of(energies: tuple[float, ...], *, floor: float) -> tuple[float, ...]:
    """Each number's share of their sum; equal shares where the sum is 0 or below `floor`."""
    sum_of_all = sum(energies)
    if sum_of_all < floor or not sum_of_all:
        return (1 / len(energies),) * len(energies)
    return tuple(energy / sum_of_all for energy in energies)


@op("map", "weight sign scalar delta* -> weight", scratch_bytes=16)
def fuse_shares(base: Tensor, plus: Tensor, shares: tuple[float, ...], *deltas: Tensor, floor: float) -> Tensor:
    """base + the mean of the deltas that have the elected sign, weighted by `shares`.

    `floor` is the least divisor; where no delta agrees the base stays. Zeros agree with no sign.
    """
    import torch

    dtype = torch.float32 if base.dtype.itemsize < 4 else base.dtype
    merged, mass, minus = torch.zeros_like(base, dtype=dtype), torch.zeros_like(base, dtype=dtype), ~plus
    for delta, share in zip(deltas, shares, strict=True):
        agrees = (plus & bits.above(delta, 0.0)) | (minus & bits.below(delta, 0.0))
        merged += bits.keep(delta.to(dtype) * rounded(share, base), agrees)
        mass += bits.constant(rounded(share, base), agrees, mass)
    return base + (merged / bits.unless_zero(mass.clamp(min=floor))).to(base.dtype)
