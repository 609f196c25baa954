"""Magnify: coded weights times the scales of their blocks, which is what dequantising them means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergec.ops.op import Tile, op

if TYPE_CHECKING:
    from torch import Tensor


@op("row", "weight part -> weight", scratch_bytes=lambda node: 2 * node.type.item_bytes)
def magnify(coded: Tensor, scales: Tensor, *, block: tuple[int, int], tile: Tile) -> Tensor:
    """Each entry times the scale of its block: of `block` rows and columns, in a grid from the first entry on.

    A weight of several axes is seen as rows of its last one. DeepSeek-V3, arXiv:2412.19437, section 3.3.2.
    """
    import torch

    begin = tile.start // tile.row
    rows = torch.arange(begin, begin + len(coded), device=coded.device) // block[0]
    columns = torch.arange(tile.row, device=coded.device) // block[1]
    return coded * scales[rows][:, columns]
