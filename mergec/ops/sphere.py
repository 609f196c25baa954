"""Sphere: averages of directions - coefficients from a Gram matrix, and arcs of single rows or columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergec.graph import Node
from mergec.ops.fuse import fuse_deltas
from mergec.ops.op import op
from mergec.ops.tree import row_sums, wide

if TYPE_CHECKING:
    from torch import Tensor

_OPPOSITE = 1e-6  # a mean of unit vectors shorter than this has no direction: what is left of it is rounding
_COLUMNS = 256


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def arc_coefficients(gram: tuple[float, ...], *, t: float, floor: float) -> tuple[float, ...]:
    """(a, b) such that a * x + b * y lies at t on the great circle from x to y, norms included.

    Where the directions coincide or are opposite, or a vector is zero, it is the straight line (1 - t, t). `floor` is
    the least norm a direction is divided by: 0 makes the arc independent of scale; the peer has 1e-7.
    """
    left, right = max(floor, math.sqrt(gram[0])), max(floor, math.sqrt(gram[3]))
    if not left or not right:
        return 1 - t, t
    cosine = max(-1.0, min(1.0, gram[1] / left / right))
    if 1 - cosine * cosine <= 1e-12:
        return 1 - t, t
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def multislerp_coefficients(gram: tuple[float, ...], *, weights: tuple[float, ...], eps: float) -> tuple[float, ...]:
    """c_i such that sum(c_i * x_i) has the direction of sum(w_i * u_i) and the norm sum(w_i * |x_i|).

    u_i = x_i / (|x_i| + eps). Where the weighted directions cancel out, or all vectors are zero, c_i = w_i.
    """
    norms = _norms(gram)
    shares = [w / (norm + eps) if norm else 0.0 for w, norm in zip(weights, norms, strict=True)]
    length = math.sqrt(max(0.0, _product(gram, shares, shares)))
    if length <= max(eps, _OPPOSITE * math.fsum(map(abs, weights))):
        return weights
    scale = math.fsum(w * norm for w, norm in zip(weights, norms, strict=True)) / length
    return tuple(share * scale for share in shares)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def karcher_coefficients(gram: tuple[float, ...], *, max_iter: int, tol: float, floor: float) -> tuple[float, ...]:
    """c_i such that sum(c_i * x_i) has the Karcher mean of the directions x_i / |x_i| and the mean of the norms.

    The mean is found by gradient steps from the extrinsic mean, in coordinates of the directions: a step adds the
    mean of the logarithms of the directions there, until it is shorter than `tol` radians. Vectors of norm `floor` or
    less have no direction. Where the directions cancel out it starts from the first; what is exactly opposite to the
    running mean has no logarithm and does not pull. All zero gives zeros.
    """
    norms = _norms(gram)
    used = [i for i, norm in enumerate(norms) if norm > floor]
    if not used:
        return (0.0,) * len(norms)
    unit = tuple(gram[i * len(norms) + j] / norms[i] / norms[j] for i in used for j in used)
    mean = _unit_sum(unit, [1 / len(used)] * len(used))
    for _ in range(max_iter):
        step = _mean_logarithm(unit, mean, tol)
        length = math.sqrt(max(0.0, _product(unit, step, step)))
        if length < tol:
            break
        moved = [math.cos(length) * m + math.sin(length) / length * s for m, s in zip(mean, step, strict=True)]
        mean = _unit_sum(unit, moved)
    norm = math.fsum(norms) / len(norms)
    found = dict(zip(used, mean, strict=True))
    return tuple(found[i] * norm / norms[i] if i in found else 0.0 for i in range(len(norms)))


def _mean_logarithm(unit: tuple[float, ...], mean: Sequence[float], tol: float) -> list[float]:
    """The mean of the logarithms of the directions at a point of the sphere, in coordinates of the directions."""
    size = len(mean)
    step = [0.0] * size
    for i in range(size):
        row = unit[i * size : (i + 1) * size]
        cosine = max(-1.0, min(1.0, math.fsum(g * m for g, m in zip(row, mean, strict=True))))
        angle = math.acos(cosine)
        if angle < tol or 1 + cosine < 1e-12:
            continue
        pull = angle / math.sin(angle) / size
        step = [s - pull * cosine * m for s, m in zip(step, mean, strict=True)]
        step[i] += pull
    return step


def _unit_sum(unit: tuple[float, ...], coordinates: Sequence[float]) -> list[float]:
    """The coordinates scaled to a vector of length 1; the first direction where they cancel out."""
    length = math.sqrt(max(0.0, _product(unit, coordinates, coordinates)))
    if length <= _OPPOSITE:
        return [1.0] + [0.0] * (len(coordinates) - 1)
    return [value / length for value in coordinates]


def _norms(gram: tuple[float, ...]) -> list[float]:
    size = math.isqrt(len(gram))
    return [math.sqrt(gram[i * size + i]) for i in range(size)]


def _product(gram: tuple[float, ...], left: Sequence[float], right: Sequence[float]) -> float:
    """The inner product of two vectors given by coordinates."""
    size = len(left)
    return math.fsum(gram[i * size + j] * left[i] * right[j] for i in range(size) for j in range(size))


def _combined(coefficients: tuple[float, ...], *vectors: Tensor) -> Tensor:
    """The sum of coefficients times vectors; half types in float32, rounded once."""
    import torch

    dtype = torch.float32 if vectors[0].dtype.itemsize < 4 else vectors[0].dtype
    result = vectors[0].to(dtype) * coefficients[0]
    for vector, coefficient in zip(vectors[1:], coefficients[1:], strict=True):
        result += vector.to(dtype) * coefficient
    return result.to(vectors[0].dtype)


combine_weights = op("map", "scalar weight* -> weight", scratch_bytes=12, name="combine_weights")(_combined)
combine_deltas = op("map", "scalar delta* -> delta", scratch_bytes=12, name="combine_deltas")(_combined)


def _arc_rows(left: Tensor, right: Tensor, *, t: float, floor: float) -> Tensor:
    """The point at t on the great circle from each row of `left` to that of `right`; rows x entries."""
    a, b = _arc_of_rows(left, right, t, floor)
    return (wide(left) * a + wide(right) * b).to(left.device, left.dtype)


def _arc_columns(left: Tensor, right: Tensor, *, t: float, floor: float) -> Tensor:
    """The same for each column, a run along the first axis; a few columns at a time."""
    import torch

    flat, other = left.reshape(left.shape[0], -1), right.reshape(left.shape[0], -1)
    result = torch.empty_like(flat)
    for start in range(0, flat.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        result[:, part] = _arc_rows(flat[:, part].T, other[:, part].T, t=t, floor=floor).T
    return result.view(left.shape)


def _arc_of_rows(left: Tensor, right: Tensor, t: float, floor: float) -> tuple[Tensor, Tensor]:
    """The rule of `arc_coefficients` for every row at once; rows x 1, float64."""
    import torch

    x, y = wide(left), wide(right)
    first, second = (row_sums(one * one).sqrt().clamp(min=floor) for one in (x, y))
    norms = first * second
    cosine = (row_sums(x * y) / norms.masked_fill(norms == 0, 1)).clamp(-1, 1)
    straight = (norms == 0) | (1 - cosine * cosine <= 1e-12)
    theta = torch.acos(cosine.masked_fill(straight, 0))
    a, b = torch.sin((1 - t) * theta) / torch.sin(theta), torch.sin(t * theta) / torch.sin(theta)
    return a.masked_fill(straight, 1 - t), b.masked_fill(straight, t)


arc_rows = op("row", "weight weight -> weight", scratch_bytes=64, name="arc_rows")(_arc_rows)
arc_rows_deltas = op("row", "delta delta -> delta", scratch_bytes=64, name="arc_rows_deltas")(_arc_rows)
arc_columns = op("whole", "weight weight -> weight", scratch_bytes=64, name="arc_columns")(_arc_columns)
arc_columns_deltas = op("whole", "delta delta -> delta", scratch_bytes=64, name="arc_columns_deltas")(_arc_columns)


def onto(base: Node | None, merged: Node) -> Node:
    """The merged deltas on their base; without one, the merged models as they are."""
    return merged if base is None else fuse_deltas(base, [merged], (1.0,), False, 1.0)
