"""RAM: changes that several models share are averaged, changes of one model alone are kept or amplified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.ops.op import Reducer, op

if TYPE_CHECKING:
    from torch import Tensor

Threshold = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="an entry is changed if it differs from the base by more")
]


class Overlap(Reducer):
    """For each delta, how many of its changed entries others changed too, and how many it alone did."""

    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon
        self._shared: list[int] = []
        self._unique: list[int] = []

    def update(self, *deltas: Tensor) -> None:
        changed, count = _changed(deltas, self._epsilon)
        if not self._shared:
            self._shared, self._unique = [0] * len(deltas), [0] * len(deltas)
        for number, one in enumerate(changed):
            self._shared[number] += int((one & (count > 1)).sum())
            self._unique[number] += int((one & (count == 1)).sum())

    def finish(self) -> tuple[float, ...]:
        return (*map(float, self._shared), *map(float, self._unique))


overlap = op("reduce", "delta* -> scalar", scratch_bytes=16, name="overlap")(Overlap)


@op("scalar", "scalar -> scalar", scratch_bytes=0)
def amplification(counts: tuple[float, ...], *, r: float, alpha: float, epsilon: float) -> tuple[float, ...]:
    """1 + r * min(alpha, shared / unique) for each model; a model without unique entries needs none."""
    size = len(counts) // 2
    pairs = zip(counts[:size], counts[size:], strict=True)
    return tuple(1 + r * min(alpha, shared / max(unique, epsilon)) if unique else 1.0 for shared, unique in pairs)


@op("map", "weight delta* -> weight", scratch_bytes=28)
def fuse_changed(base: Tensor, *deltas: Tensor, epsilon: float) -> Tensor:
    """base + per entry the mean of the deltas that are changed there."""
    return _fused(base, deltas, (1.0,) * len(deltas), epsilon)


@op("map", "weight scalar delta* -> weight", scratch_bytes=28)
def fuse_amplified(base: Tensor, factors: tuple[float, ...], *deltas: Tensor, epsilon: float) -> Tensor:
    """`fuse_changed` with each delta times its factor where it alone is changed."""
    return _fused(base, deltas, factors, epsilon)


def _fused(base: Tensor, deltas: tuple[Tensor, ...], factors: tuple[float, ...], epsilon: float) -> Tensor:
    import torch

    dtype = torch.float32 if base.dtype.itemsize < 4 else base.dtype
    changed, count = _changed(deltas, epsilon)
    merged = torch.zeros_like(base, dtype=dtype)
    for delta, one, factor in zip(deltas, changed, factors, strict=True):
        kept = delta.to(dtype) * one
        merged += kept if factor == 1 else kept.where(count > 1, kept * factor)
    return base + (merged / count.clamp(min=1)).to(base.dtype)


def _changed(deltas: tuple[Tensor, ...], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Where each delta is changed, and how many are, per entry."""
    import torch

    changed = [delta.abs() > epsilon for delta in deltas]
    count = torch.zeros_like(changed[0], dtype=torch.int32)
    for one in changed:
        count += one
    return changed, count
