"""Gram: all inner products of a few tensors in one sweep; spherical and geometric merges are functions of them.

A merge whose result is a combination of its inputs needs nothing else of a whole tensor: norms, angles and
coefficients all follow from the Gram matrix.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from mergec.ops.op import Reducer, op
from mergec.ops.tree import TreeSums

if TYPE_CHECKING:
    from torch import Tensor


class Gram(Reducer):
    """Inner products of every pair of tensors, in float64, as the rows of a symmetric matrix."""

    def __init__(self) -> None:
        self._sums = TreeSums()

    def update(self, *tiles: Tensor) -> None:
        self._sums.add_products(tiles, list(combinations_with_replacement(range(len(tiles)), 2)))

    def take(self, sums: Tensor) -> None:
        self._sums.add_leaves(sums)

    def finish(self) -> tuple[float, ...]:
        totals = self._sums.totals()
        size = range((math.isqrt(8 * len(totals) + 1) - 1) // 2)
        products = dict(zip(combinations_with_replacement(size, 2), totals, strict=True))
        return tuple(products[min(i, j), max(i, j)] for i in size for j in size)


gram = op("reduce", "weight* -> scalar", scratch_bytes=0, name="gram")(Gram)
gram_deltas = op("reduce", "delta* -> scalar", scratch_bytes=0, name="gram_deltas")(Gram)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def slerp_coefficients(gram: tuple[float, ...], *, t: float, lerp_opposite: bool) -> tuple[float, ...]:
    """(a, b) such that a * base + b * other lies at t on the great circle from base to other.

    sin((1-t) theta) / sin(theta) and sin(t theta) / sin(theta) on the vectors as they are, norms included.
    Where the directions (nearly) coincide, cos > 0.9995, or no great circle is singled out - exactly opposite
    directions, a zero vector - it is the straight line (1 - t, t); `lerp_opposite` takes that line from
    cos < -0.9995 on, as the peer does.
    """
    base, dot, _, other = gram
    norms = math.sqrt(base) * math.sqrt(other)
    cosine = max(-1.0, min(1.0, dot / norms)) if norms > 0 else 1.0
    opposite = cosine < (-0.9995 if lerp_opposite else -1 + 1e-12)
    if cosine > 0.9995 or opposite:
        return 1 - t, t
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


@op("map", "weight weight scalar -> weight", scratch_bytes=8)
def combine(base: Tensor, other: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """a * base + b * other; half types in float32, rounded once."""
    import torch

    dtype = torch.float32 if base.dtype.itemsize < 4 else base.dtype
    a, b = coefficients
    return (base.to(dtype) * a + other.to(dtype) * b).to(base.dtype)
