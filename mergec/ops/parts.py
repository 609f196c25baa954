"""Parts: what an artifact stores of a task - packed masks, kept entries, factors, numbers - and their undoing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergec.graph import Node
from mergec.ops.op import SpaceError, Tile, op

if TYPE_CHECKING:
    from torch import Tensor


def _bits(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (math.ceil(nodes[0].type.numel / 8),), "uint8"


@op("map", "mask -> bits", scratch_bytes=16, gives=_bits)
def pack(mask: Tensor) -> Tensor:
    """Eight entries a byte, the first in the lowest bit; the last byte is filled up with zeros.

    [true, false, true] is 5.
    """
    import torch

    padded = torch.nn.functional.pad(mask, (0, -mask.numel() % 8)).view(-1, 8)
    return (padded.to(torch.uint8) << _places(mask)).sum(dim=1, dtype=torch.uint8)


def _unpacked(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    shape = tuple(attrs["shape"])
    expect(nodes[0], (math.ceil(math.prod(shape) / 8),), "uint8")
    return shape, "bool"


def expect(node: Node, shape: tuple[int, ...], dtype: str = "") -> None:
    """Refuse a part of another shape or dtype; raises SpaceError."""
    if node.type.shape != shape or (dtype and node.type.dtype != dtype):
        raise SpaceError(f"expected a part {dtype}{list(shape)}, got {node.type.dtype}{list(node.type.shape)}")


@op("map", "bits -> mask", scratch_bytes=16, gives=_unpacked)
def unpack(bits: Tensor, *, shape: tuple[int, ...], tile: Tile) -> Tensor:
    """The mask of `shape` that was packed."""
    return unpacked(bits, tile.stop - tile.start)


def unpacked(bits: Tensor, entries: int) -> Tensor:
    """The first entries of packed bits, bool."""
    return ((bits[:, None] >> _places(bits)) & 1).view(-1)[:entries].bool()


def _places(like: Tensor) -> Tensor:
    import torch

    return torch.arange(8, dtype=torch.uint8, device=like.device)


@op("map", "delta mask -> delta", scratch_bytes=1)
def masked(delta: Tensor, mask: Tensor) -> Tensor:
    """The entries of a delta that a mask lets through, zero elsewhere."""
    return delta.masked_fill(~mask, 0)


@op("map", "delta part -> delta", scratch_bytes=4)
def scaled(delta: Tensor, scale: Tensor) -> Tensor:
    """A delta times a number that is stored beside it."""
    return delta * scale.to(delta.dtype)


@op("map", "weight delta -> weight", scratch_bytes=0)
def add(base: Tensor, delta: Tensor) -> Tensor:
    """The point a delta leads to: base + delta."""
    return base + delta
