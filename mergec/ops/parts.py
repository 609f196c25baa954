"""Parts: what an artifact stores of a task - packed masks, kept entries, factors, numbers - and their undoing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergec.errors import InputError
from mergec.graph import Attr, Node, TensorType
from mergec.ops import bits, random
from mergec.ops.matrix import full
from mergec.ops.op import SpaceError, Tile, op
from mergec.ops.registry import Draw

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
    return bits.keep(delta, mask)


@op("map", "delta part -> delta", scratch_bytes=4)
def scaled(delta: Tensor, scale: Tensor) -> Tensor:
    """A delta times a number that is stored beside it."""
    return delta * scale.to(delta.dtype)


@op("map", "weight delta -> weight", scratch_bytes=0)
def add(base: Tensor, delta: Tensor) -> Tensor:
    """The point a delta leads to: base + delta."""
    return base + delta


@op("map", "scalar scalar -> part", scratch_bytes=0, gives=lambda nodes, attrs: ((2,), "float64"))
def ratio(over: tuple[float, ...], under: tuple[float, ...], *, factors: tuple[float, float]) -> Tensor:
    """Two numbers of a tensor, times a factor each: their sums over all tensors of a task, divided, are its scale."""
    import torch

    return torch.tensor([over[0] * factors[0], under[0] * factors[1]], dtype=torch.float64)


def _factors(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    dtype = nodes[0].type.dtype
    return (sum(nodes[0].type.shape) * attrs["rank"],), dtype if dtype == "float64" else "float32"


@op("whole", "delta -> part", scratch_bytes=lambda node: 12 * node.type.item_bytes, gives=_factors)
def factorise(delta: Tensor, *, rank: int, transposed: bool = False) -> Tensor:
    """U S, m x rank, and V, rank x n, of a matrix' SVD, one after the other: their product comes closest to it.

    With `transposed` the matrix is the transpose of an n x m delta.
    """
    import torch

    matrix = full(delta).T if transposed else full(delta)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return torch.cat([(left * values)[:, :rank].reshape(-1), right[:rank].reshape(-1)])


def _gate(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    dtype = nodes[0].type.dtype
    return (attrs["rank"], nodes[0].type.shape[1]), dtype if dtype == "float64" else "float32"


@op("whole", "delta -> part", scratch_bytes=72, gives=_gate)
def gate(delta: Tensor, *, rank: int) -> Tensor:
    """The first right singular vectors of an m x n matrix, rank x n: the inputs it answers to most, for a router.

    They are eigenvectors of the smaller of D D^T and D^T D, in float64; rows beyond the rank of the matrix are 0.
    SMILE, arXiv:2408.10174, section 4.
    """
    import torch

    wide = delta.double()
    is_tall = wide.shape[0] > wide.shape[1]
    squares, vectors = torch.linalg.eigh(wide.T @ wide if is_tall else wide @ wide.T)
    first = vectors[:, -rank:].T.flip(0)
    rows = first if is_tall else torch.nn.functional.normalize(first @ wide, dim=1)
    found = squares[-rank:].flip(0) > 1e-12 * squares[-1:]
    return torch.where(found[:, None], rows, 0).to(torch.float64 if delta.dtype == torch.float64 else torch.float32)


def _product(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    rows, columns = attrs["shape"]
    rank = nodes[0].type.shape[-1] if nodes[0].type.shape else 0
    expect(nodes[0], (rows, rank))
    expect(nodes[1], (rank, columns))
    return (rows, columns), nodes[0].type.dtype


@op("whole", "part part -> delta", scratch_bytes=4, gives=_product)
def product(left: Tensor, right: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """The m x n matrix that factors m x r and r x n stand for."""
    return left @ right


def _kept(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (attrs["count"],), nodes[0].type.dtype


@op("map", "delta mask -> part", scratch_bytes=4, gives=_kept)
def entries_at(delta: Tensor, mask: Tensor, *, count: int) -> Tensor:
    """The entries a mask lets through, in order; `count` is how many there are in the whole tensor."""
    return delta[mask]


@op("map", "mask -> part", scratch_bytes=24, gives=lambda nodes, attrs: ((attrs["count"],), "int64"))
def places(mask: Tensor, *, count: int, tile: Tile) -> Tensor:
    """The flat indices of the entries a mask lets through, in order, int64."""
    return tile.index()[mask]


def _scattered(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    expect(nodes[1], nodes[0].type.shape)
    return tuple(attrs["shape"]), nodes[0].type.dtype


@op("whole", "part part -> delta", scratch_bytes=16, gives=_scattered)
def scatter(values: Tensor, indices: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """A delta with values at flat indices and zeros elsewhere.

    Raises InputError (E642) where a stored index lies outside of the tensor: it was not written by a merge.
    """
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(shape):
        what = f"a sparse delta has the indices {int(indices.min()):,} to {int(indices.max()):,}"
        raise InputError("E642", f"{what}, expected 0 to {math.prod(shape) - 1:,}", "make the artifact again")
    return values.new_zeros(math.prod(shape)).scatter_(0, indices.long(), values)


@op("map", "delta delta -> delta", scratch_bytes=0)
def less(delta: Tensor, other: Tensor) -> Tensor:
    """One delta without another."""
    return delta - other


def column_signs(like: Node, slot: int, draw: Draw) -> Node:
    """Packed signs for the columns of a tensor, one bit each, plus for 1: a function of seed, tensor name and slot."""
    attrs: dict[str, Attr] = {"width": like.type.row, "seed": draw.seed, "stream": draw.stream, "slot": draw.slot(slot)}
    kind = TensorType((math.ceil(like.type.row / 8),), "uint8", "part")
    return like.graph.node("sign_bits", (), attrs, kind, "whole")


@op("whole", "-> part", scratch_bytes=32)
def sign_bits(*, width: int, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """The signs of the columns of a tensor, packed like a mask."""
    packed: Tensor = pack.kernel(_plus(width, seed, stream, slot, tile))
    return packed


@op("map", "delta -> delta", scratch_bytes=16)
def flip_random(delta: Tensor, *, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """A delta times the signs of its columns."""
    return _flipped(delta, _plus(tile.row, seed, stream, slot, tile), tile)


@op("map", "delta part -> delta", scratch_bytes=16)
def flip(delta: Tensor, signs: Tensor, *, tile: Tile) -> Tensor:
    """A delta times the signs of its columns, which are stored beside it."""
    return _flipped(delta, unpacked(signs, tile.row), tile)


def _plus(width: int, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    return random.uniform(0, width, random.key(seed, stream, tile.name, slot), tile.device) < random.LEVELS // 2


def _flipped(delta: Tensor, plus: Tensor, tile: Tile) -> Tensor:
    import torch

    return torch.where(plus[tile.index() % tile.row], delta, -delta)
