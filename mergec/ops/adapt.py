"""Adapt: a weight with what an adapter adds to it, found from small factors for some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergec.graph import Node
from mergec.ops.op import Tile, op
from mergec.ops.parts import expect

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16  # a product's last bits depend on how many rows it has, so all are of this many


def _adapted(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    weight, left, right = nodes
    rank = right.type.shape[0]
    rows, columns = weight.type.shape[::-1] if attrs["transposed"] else weight.type.shape
    expect(left, (rows, rank), weight.type.dtype)
    expect(right, (rank, columns), weight.type.dtype)
    return weight.type.shape, weight.type.dtype


@op("row", "weight part part -> weight", scratch_bytes=lambda node: 4 * node.type.item_bytes, gives=_adapted, rows=ROWS)
def adapt(weight: Tensor, left: Tensor, right: Tensor, *, scale: float, transposed: bool, tile: Tile) -> Tensor:
    """W + scale B A, of an m x n weight and factors B, m x r, and A, r x n.

    A transposed weight is n x m, and gets the transpose of the product. LoRA, arXiv:2106.09685, section 4.1.
    """
    if transposed:
        left, right = right.T, left.T.contiguous()
    result = weight.clone()
    begin = tile.start // tile.row
    for rows, held in _blocks(result):
        factor = _filled(left[begin + rows.start : begin + rows.stop])
        held += (factor @ right)[: len(held)] * scale
    return result


@op("row", "weight part -> weight", scratch_bytes=lambda node: 4 * node.type.item_bytes, rows=ROWS)
def stretch(weight: Tensor, lengths: Tensor, *, tile: Tile) -> Tensor:
    """Each row of a weight with another Euclidean length. DoRA, arXiv:2402.09353, equation 5."""
    result = weight.clone()
    begin = tile.start // tile.row
    for rows, held in _blocks(result):
        wide = _filled(held).double()
        found = (wide * wide).sum(dim=1).sqrt()[: len(held)]
        factor = lengths[begin + rows.start : begin + rows.stop].double() / found
        held *= factor.to(held.dtype)[:, None]
    return result


@op("map", "weight weight -> weight", scratch_bytes=lambda node: node.type.item_bytes)
def shift(bias: Tensor, change: Tensor, *, scale: float) -> Tensor:
    """A bias with what an adapter adds to it: bias + scale change."""
    return bias + scale * change


def _blocks(values: Tensor) -> Iterator[tuple[range, Tensor]]:
    """Views of `ROWS` rows each, the last perhaps of fewer, with the numbers of their rows in the tile."""
    for begin in range(0, len(values), ROWS):
        held = values[begin : begin + ROWS]
        yield range(begin, begin + len(held)), held


def _filled(rows: Tensor) -> Tensor:
    """A copy with rows of zeros below, up to `ROWS`: the same shape and layout for every block."""
    filled = rows.new_zeros((ROWS, rows.shape[1]))
    filled[: len(rows)] = rows
    return filled
