"""Sums that do not depend on how a tensor was cut: float64, one fixed tree of additions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAF = 1024
_BLOCK = 32 * LEAF


def wide(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def blocks(tile: Tensor) -> Sequence[Tensor]:
    """A tile in pieces that are small beside it, and in float64 still fit a processor's cache."""
    import torch

    return torch.split(tile, _BLOCK) if tile.device.type == "cpu" else (tile,)


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


class TreeSum:
    """The sum of a stream of values, in constant memory.

    Leaves are runs of 1024 values counted from the stream's start; what does not fill a leaf waits for the next
    tile. A leaf is added up by halving, and the sums of the leaves are the stream of the tree above.

    The leaf that waits is made once: small blocks that come and go between the tiles would keep the allocator
    from using the memory of a tile again.
    """

    def __init__(self) -> None:
        self._above: TreeSum | None = None
        self._waiting: Tensor | None = None
        self._filled = 0

    def add(self, values: Tensor) -> None:
        """Take the next values, flat, float64."""
        if self._waiting is None:
            self._waiting = values.new_empty(LEAF)
        if self._filled:
            taken = min(LEAF - self._filled, values.numel())
            self._wait(self._waiting, values[:taken])
            values = values[taken:]
        if self._filled == LEAF:
            self._pass_on(self._waiting)
            self._filled = 0
        full = values.numel() // LEAF * LEAF
        if full:
            self._pass_on(values[:full])
        self._wait(self._waiting, values[full:])

    def _wait(self, leaf: Tensor, values: Tensor) -> None:
        leaf[self._filled : self._filled + values.numel()] = values
        self._filled += values.numel()

    def _pass_on(self, leaves: Tensor) -> None:
        self._above = self._above or TreeSum()
        self._above.add(_halve(leaves.reshape(-1, LEAF)))

    def total(self, last: Tensor | None = None) -> float:
        """The sum of all values taken, and of a last one."""
        import torch

        waiting = [] if self._waiting is None else [self._waiting[: self._filled]]
        waiting += [] if last is None else [last]
        rest = torch.cat(waiting) if waiting else torch.zeros(0, dtype=torch.float64)
        leaf = _halve(_padded(rest, LEAF).view(1, LEAF)) if rest.numel() else None
        if self._above is not None:
            return self._above.total(leaf)
        return 0.0 if leaf is None else float(leaf)


def _padded(values: Tensor, length: int) -> Tensor:
    import torch

    return torch.nn.functional.pad(values, (0, length - values.numel()))
