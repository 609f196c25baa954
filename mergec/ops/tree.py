"""Sums that do not depend on how a tensor was cut: float64, one fixed tree of additions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAF = 1024
_BLOCK = 128 * LEAF


def wide(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def blocks(tile: Tensor, streams: int = 4) -> Sequence[Tensor]:
    """A tile in pieces of which so many streams, in float64, still fit a processor's cache."""
    import torch

    size = max(1, _BLOCK // LEAF // streams) * LEAF
    return torch.split(tile, size) if tile.device.type == "cpu" else (tile,)


def _halve(rows: Tensor) -> Tensor:
    """Add the right half of each row onto the left until one column is left; the width is a power of two.

    Only element-wise additions, so the bits are the same for any device, thread count and vector width.
    """
    if rows.shape[1] > 1:
        rows = rows[:, : rows.shape[1] // 2] + rows[:, rows.shape[1] // 2 :]  # a new tensor, overwritten from here on
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = rows[:, :half].add_(rows[:, half:])
    return rows[:, 0]


def row_sums(rows: Tensor) -> Tensor:
    """The sum of each row, rows x 1, by the same tree for any number of rows."""
    import torch

    width = rows.shape[1]
    padding = (1 << max(0, width - 1).bit_length()) - width
    return _halve(torch.nn.functional.pad(rows, (0, padding)))[:, None]


class TreeSums:
    """The sums of several streams of values that come side by side, in constant memory.

    Leaves are runs of 1024 values counted from the streams' start; what does not fill a leaf waits for the next
    tile. A leaf is added up by halving, and the sums of the leaves are the streams of the tree above.

    The leaves that wait are made once: small blocks that come and go between the tiles would keep the allocator
    from using the memory of a tile again.
    """

    def __init__(self) -> None:
        self._above: TreeSums | None = None
        self._waiting: Tensor | None = None
        self._filled = 0

    def add(self, values: Tensor) -> None:
        """Take the next values, streams x values, float64."""
        if self._waiting is None:
            self._waiting = values.new_empty(len(values), LEAF)
        if self._filled:
            taken = min(LEAF - self._filled, values.shape[1])
            self._wait(self._waiting, values[:, :taken])
            values = values[:, taken:]
        if self._filled == LEAF:
            self._pass_on(self._waiting)
            self._filled = 0
        full = values.shape[1] // LEAF * LEAF
        if full:
            self._pass_on(values[:, :full])
        self._wait(self._waiting, values[:, full:])

    def add_leaves(self, sums: Tensor) -> None:
        """Take the sums of whole leaves, runs x streams x leaves of a run, where no value waits for its leaf."""
        if self._filled:
            raise ValueError("the leaves do not follow on what was taken")
        self._above = self._above or TreeSums()
        self._above.add(sums.transpose(0, 1).reshape(sums.shape[1], -1))

    def add_products(self, tiles: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> None:
        """Take the products of pairs of tiles, which go by number: one stream for each pair."""
        import torch

        for parts in zip(*(blocks(tile, len(pairs)) for tile in tiles), strict=True):
            wides = [wide(part) for part in parts]
            products = wides[0].new_empty(len(pairs), len(wides[0]))
            for product, (left, right) in zip(products, pairs, strict=True):
                torch.mul(wides[left], wides[right], out=product)
            self.add(products)

    def _wait(self, leaves: Tensor, values: Tensor) -> None:
        leaves[:, self._filled : self._filled + values.shape[1]] = values
        self._filled += values.shape[1]

    def _pass_on(self, leaves: Tensor) -> None:
        self._above = self._above or TreeSums()
        self._above.add(_halve(leaves.reshape(-1, LEAF)).view(len(leaves), -1))

    def totals(self, last: Tensor | None = None) -> tuple[float, ...]:
        """The sums of all values taken, and of a last one each."""
        import torch

        waiting = [] if self._waiting is None else [self._waiting[:, : self._filled]]
        waiting += [] if last is None else [last]
        rest = torch.cat(waiting, 1) if waiting else torch.zeros(0, 0, dtype=torch.float64)
        leaf = _halve(_padded(rest, LEAF))[:, None] if rest.numel() else None
        if self._above is not None:
            return self._above.totals(leaf)
        return (0.0,) * len(rest) if leaf is None else tuple(leaf[:, 0].tolist())


class TreeSum:
    """The sum of one stream of values."""

    def __init__(self) -> None:
        self._sums = TreeSums()

    def add(self, values: Tensor) -> None:
        """Take the next values, flat, float64."""
        self._sums.add(values[None])

    def total(self) -> float:
        """The sum of all values taken."""
        return next(iter(self._sums.totals()), 0.0)


def _padded(values: Tensor, length: int) -> Tensor:
    import torch

    return torch.nn.functional.pad(values, (0, length - values.shape[-1]))
