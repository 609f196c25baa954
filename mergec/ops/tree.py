"""Sums that do not depend on how a tensor was cut: float64, one fixed tree of additions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAF = 1024


def wide(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _halve(rows: Tensor) -> Tensor:
    """Add the right half of each row onto the left until one column is left; the width is a power of two.

    Only element-wise additions, so the bits are the same for any device, thread count and vector width.
    """
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows[:, 0]


def row_sums(rows: Tensor) -> Tensor:
    """The sum of each row, rows x 1, by the same tree for any number of rows."""
    import torch

    width = rows.shape[1]
    padding = (1 << max(0, width - 1).bit_length()) - width
    return _halve(torch.nn.functional.pad(rows, (0, padding)))[:, None]


class TreeSum:
    """The sum of a stream of values.

    Leaves are runs of 1024 values counted from the stream's start; what does not fill a leaf waits for the next
    tile. The leaves' sums are then added by the same halving.
    """

    def __init__(self) -> None:
        self._leaves: list[Tensor] = []
        self._waiting: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Take the next values, flat, float64."""
        import torch

        if self._waiting is not None:
            values = torch.cat((self._waiting, values))
        full = values.numel() // LEAF * LEAF
        if full:
            self._leaves.append(_halve(values[:full].view(-1, LEAF)))
        self._waiting = values[full:].clone() if full < values.numel() else None

    def total(self) -> float:
        import torch

        leaves = list(self._leaves)
        if self._waiting is not None:
            leaves.append(_halve(_padded(self._waiting, LEAF).view(1, LEAF)))
        if not leaves:
            return 0.0
        sums = torch.cat(leaves)
        width = 1 << (sums.numel() - 1).bit_length()
        return float(_halve(_padded(sums, width).view(1, width)))


def _padded(values: Tensor, length: int) -> Tensor:
    import torch

    return torch.nn.functional.pad(values, (0, length - values.numel()))
