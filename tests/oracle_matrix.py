"""The methods for matrices once more, from their documentation alone: numpy's linear algebra in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def added(base: Array, deltas: list[Array], factor: float, consensus: str = "none") -> Array:
    """base + factor * the sum of the deltas, of those with the sign of that sum if there is to be a consensus."""
    total = sum(deltas, start=np.zeros_like(base))
    if consensus == "sum":
        total = sum((np.where((one > 0) == (total >= 0), one, 0) for one in deltas), start=np.zeros_like(base))
    return base + factor * total


def merged_vectors(base: Array, deltas: list[Array], factor: float, vectors: str, consensus: str = "none") -> Array:
    shares = {"mean": factor / len(deltas), "sum": factor, "base": 0.0}
    return added(base, deltas, shares[vectors], consensus)


# ------------------------------------------------------------------------------------------------ fourier


def clean_mask(height: int, width: int, cutoff: float) -> Array:
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    return (down**2 + across**2 >= cutoff**2 / 2).astype(np.float64)


def reference_mask(height: int, width: int, cutoff: float) -> Array:
    """Distances on bin indices of an unshifted spectrum; a ring counted twice."""
    down, across = np.arange(height)[:, None] - height // 2, np.arange(width) - width // 2
    distance = np.hypot(down, across)
    inner, outer = min(height, width) // 10, (1 - cutoff) * min(height, width)
    return (distance <= inner).astype(np.float64) + ((distance >= inner) & (distance <= outer))


def high_pass(delta: Array, filter: str, cutoff: float) -> Array:
    mask = {"clean": clean_mask, "reference": reference_mask}[filter](*delta.shape, cutoff)
    return np.asarray(np.fft.ifft2(mask * np.fft.fft2(delta)).real)


def fr(
    base: Array,
    models: list[Array],
    *,
    weight: list[float] | None = None,
    filter: str = "clean",
    cutoff: float = 0.1,
    consensus: str = "none",
    as_matrix: bool = True,
    vectors: str = "sum",
    lambda_: float = 1.0,
) -> Array:
    deltas = [share * (model - base) for share, model in zip(weight or [1.0] * len(models), models, strict=True)]
    if base.ndim == 2 and as_matrix:
        return added(base, [high_pass(delta, filter, cutoff) for delta in deltas], lambda_, consensus)
    return merged_vectors(base, deltas, lambda_, vectors, consensus)


MATRIX_METHODS: dict[str, Callable[..., Any]] = {"fr": fr}
