"""Fourier: let the high frequencies of a delta pass, as FR-Merging does, seen as the pixels of an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops.matrix import full
from mergec.ops.op import Remark, op

if TYPE_CHECKING:
    from torch import Tensor

Filter = Annotated[
    Literal["clean", "reference"],
    Field(description="clean cuts at one radial frequency for any shape; reference cuts as the paper's code does"),
]
Cutoff = Annotated[
    float, Field(ge=0, le=1, description="how much is cut, from the lowest frequency, 0, to the highest, 1")
]

_ROWS = 256  # of the spectrum, for which gains are made at a time


def high_pass(delta: Node, filter: str, cutoff: float) -> Node:
    """A matrix of deltas without its low frequencies; itself where nothing is to be cut."""
    if filter == "clean" and cutoff == 0:
        return delta
    return fourier_filter(delta, filter=filter, cutoff=cutoff)


def _passes_all(node: Node) -> Remark | None:
    """The reference's radius counts bins, so in a square it only cuts beyond 0.71 of the side."""
    height, width = node.type.shape
    if node.attr("filter") == "clean" or math.hypot(height // 2, width // 2) > _radius(height, width, node):
        return None
    what = f"the reference filter cuts nothing of a {height} x {width} matrix at cutoff {node.attr('cutoff'):g}"
    return Remark("cutoff", "W650", what, "a higher cutoff, or filter: clean")


def _radius(height: int, width: int, node: Node) -> float:
    return float((1 - node.attr("cutoff")) * min(height, width))


@op(
    "whole",
    "delta -> delta",
    scratch_bytes=lambda node: 5 * node.type.item_bytes + 8,
    remark=_passes_all,
)
def fourier_filter(delta: Tensor, *, filter: str, cutoff: float) -> Tensor:
    """The inverse transform of a gain times the 2-D Fourier transform of an H x W matrix.

    Clean: the gain is 0 where hypot(f_row, f_column) < cutoff * sqrt(1/2), 1 elsewhere; f are frequencies in cycles
    per entry, 0 to 1/2, so a cutoff of 1 leaves the checkerboard alone, and any cutoff above 0 removes the mean.

    Reference: the gain of the code of FR-Merging, which counts bins of an unshifted spectrum. With the distance
    d = hypot(u - H // 2, v - W // 2) of bin (u, v) from the highest frequency, m = [d <= r] + [r <= d <= R] for
    r = min(H, W) // 10 and R = (1 - cutoff) min(H, W): bins at exactly r count twice, and elongated matrices are
    cut far more than square ones. The transform of real numbers makes it (m(u, v) + m(-u, -v)) / 2.
    FR-Merging, arXiv:2411.16815.
    """
    import torch

    height, width = delta.shape
    spectrum = torch.fft.rfft2(full(delta))
    gains = _clean_gains if filter == "clean" else _reference_gains
    for start in range(0, height, _ROWS):
        rows = torch.arange(start, min(start + _ROWS, height), device=delta.device)
        spectrum[start : start + _ROWS] *= gains(rows, height, width, cutoff)
    result: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return result.to(delta.dtype)


def _clean_gains(rows: Tensor, height: int, width: int, cutoff: float) -> Tensor:
    """The gains of some rows of a half spectrum, rows x (W // 2 + 1)."""
    import torch

    columns = torch.arange(width // 2 + 1, device=rows.device)
    down, across = torch.minimum(rows, height - rows).double() / height, columns.double() / width
    return down[:, None].square() + across.square() >= cutoff * cutoff / 2


def _reference_gains(rows: Tensor, height: int, width: int, cutoff: float) -> Tensor:
    """The same for the reference: mean of the mask at a bin and at its mirror image."""
    import torch

    inner, outer = min(height, width) // 10, (1 - cutoff) * min(height, width)
    columns = torch.arange(width // 2 + 1, device=rows.device)

    def mask(u: Tensor, v: Tensor) -> Tensor:
        squares = (u - height // 2).square()[:, None] + (v - width // 2).square()
        distance = squares.double().sqrt()
        return (squares <= inner * inner).float() + ((squares >= inner * inner) & (distance <= outer)).float()

    return (mask(rows, columns) + mask(-rows % height, -columns % width)) / 2
