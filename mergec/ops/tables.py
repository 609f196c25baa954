"""Tables: rows of computed weights, made when they are asked for, so that `embed` looks them up as it does stored ones.

A row has the bits that it has in the weight as a whole, whichever others are asked for with it: it lies at its own
place of a block of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mergec.graph import Node
from mergec.ops.adapt import ROWS, adapt, stretch
from mergec.ops.magnify import magnify
from mergec.ops.op import Tile, op

if TYPE_CHECKING:
    from torch import Tensor

    from mergec.ops.embed import Table


def _in_dtype(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return nodes[0].type.shape, attrs["dtype"]


@op("row", "table part part -> table", scratch_bytes=0, gives=_in_dtype, rows=ROWS)
def adapt_rows(
    table: Table, left: Tensor, right: Tensor, *, scale: float, transposed: bool, dtype: str, tile: Tile
) -> Table:
    """The rows of W + scale B A, as `adapt` makes them, from those of W."""
    return _computed(
        table, partial(adapt.kernel, left=left, right=right, scale=scale, transposed=transposed), dtype, tile
    )


@op("row", "table part -> table", scratch_bytes=0, gives=_in_dtype, rows=ROWS)
def stretch_rows(table: Table, lengths: Tensor, *, dtype: str, tile: Tile) -> Table:
    """Rows with other Euclidean lengths, as `stretch` makes them."""
    return _computed(table, partial(stretch.kernel, lengths=lengths), dtype, tile)


@op("row", "table part -> table", scratch_bytes=0, gives=_in_dtype, rows=ROWS)
def magnify_rows(table: Table, scales: Tensor, *, block: tuple[int, int], dtype: str, tile: Tile) -> Table:
    """Coded rows times the scales of their blocks, as `magnify` makes them."""
    return _computed(table, partial(magnify.kernel, scales=scales, block=block), dtype, tile)


@op("row", "table -> table", scratch_bytes=0, gives=_in_dtype)
def round_rows(table: Table, *, dtype: str) -> Table:
    """The rows in another dtype."""
    import torch

    return lambda start, stop: table(start, stop).to(getattr(torch, dtype))


def _computed(table: Table, kernel: Callable[..., Tensor], dtype: str, tile: Tile) -> Table:
    """The table of what a kernel makes of another's rows, with rows of zeros above them up to where a block begins."""
    import torch

    def rows(start: int, stop: int) -> Tensor:
        found = table(start, stop).to(getattr(torch, dtype)).view(-1, tile.row)
        above = start // tile.row % ROWS
        filled = torch.cat([found.new_zeros((above, tile.row)), found]) if above else found
        place = Tile(tile.name, start - above * tile.row, stop, tile.row, tile.device)
        return kernel(filled, tile=place)[above:].reshape(-1)

    return rows
