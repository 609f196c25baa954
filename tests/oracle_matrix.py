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


# -------------------------------------------------------------------------------------- singular values


def factors(matrix: Array, scale: float | None = None) -> tuple[Array, Array, Array]:
    """Singular vectors and values that are not rounding errors of float32, which the merge is computed in."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    largest = s.max(initial=0) if scale is None else scale
    kept = s > 1e-6 * largest
    return u[:, kept], s[kept], v[kept]


def polar(matrix: Array) -> Array:
    """M (M^T M)^(-1/2) by the pseudo-inverse of the root of the Gram matrix, of the smaller side."""
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T).T
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    roots = np.array([value**-0.5 if value > 1e-10 else 0.0 for value in values])
    return np.asarray(matrix @ ((vectors * roots) @ vectors.T))


def stacked(parts: list[tuple[Array, Array, Array]], ranks: list[int]) -> tuple[Array, Array, Array]:
    pairs = list(zip(parts, ranks, strict=True))
    return (
        np.concatenate([u[:, :r] for (u, _, _), r in pairs], axis=1),
        np.concatenate([s[:r] for (_, s, _), r in pairs]),
        np.concatenate([v[:r] for (_, _, v), r in pairs]),
    )


def share_of(matrix: Array, ratio: float | str, models: int) -> int:
    return int(min(matrix.shape) * (1 / models if ratio == "equal" else float(ratio)))


def tsv_matrix(deltas: list[Array], rank_ratio: float | str = "equal") -> Array:
    rank = share_of(deltas[0], rank_ratio, len(deltas))
    u, s, v = stacked([factors(delta) for delta in deltas], [rank] * len(deltas))
    return polar(u) @ np.diag(s) @ polar(v)


def iso_c_matrix(deltas: list[Array], rank_ratio: float | str = 1.0) -> Array:
    rank = share_of(deltas[0], rank_ratio, len(deltas))
    total = np.zeros_like(deltas[0])
    for delta in deltas:
        u, s, v = factors(delta)
        total += u[:, :rank] @ np.diag(s[:rank]) @ v[:rank]
    u, s, v = factors(total)
    return u @ v * (s.mean() if s.size else 0.0)


def iso_cts_matrix(deltas: list[Array], common_share: float = 0.8) -> Array:
    least, count = min(deltas[0].shape), len(deltas)
    own = min(round((least - int(least * common_share)) / count), least // count)
    common = factors(np.sum(deltas, axis=0))
    space = common[0][:, : least - count * own]
    rest = [factors(delta - space @ space.T @ delta, float(np.linalg.norm(delta))) for delta in deltas]
    u, s, v = stacked([*rest, common], [own] * count + [least - count * own])
    return polar(u) @ polar(v) * (s.mean() if s.size else 0.0)


def wudi_matrix(deltas: list[Array], iterations: int = 300, learning_rate: float = 1e-5) -> Array:
    """Adam on the loss as it is written, task by task."""
    x = np.sum(deltas, axis=0)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, iterations + 1):
        parts = [2 * (x - d) @ d.T @ d / (d * d).sum() for d in deltas if d.any()]
        gradient = np.sum(parts, axis=0) if parts else np.zeros_like(x)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        x = x - learning_rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(x)


def by_matrix(merge: Callable[..., Array]) -> Callable[..., Array]:
    """A method that merges weighted deltas of matrices by a function and other tensors as vectors."""

    def merged(
        base: Array,
        models: list[Array],
        *,
        weight: list[float] | None = None,
        as_matrix: bool = True,
        vectors: str = "mean",
        lambda_: float = 1.0,
        **own: Any,
    ) -> Array:
        deltas = [share * (model - base) for share, model in zip(weight or [1.0] * len(models), models, strict=True)]
        if base.ndim == 2 and as_matrix:
            return base + lambda_ * merge(deltas, **own) if base.size else base
        return merged_vectors(base, deltas, lambda_, vectors)

    return merged


def opcm(
    base: Array,
    models: list[Array],
    *,
    weight: list[float] | None = None,
    alpha: float = 0.5,
    as_matrix: bool = True,
    lambda_: float = 1.0,
    **_: Any,
) -> Array:
    deltas = [share * (model - base) for share, model in zip(weight or [1.0] * len(models), models, strict=True)]
    merged = deltas[0]
    for delta in deltas[1:]:
        merged = merged + (away_from(merged, delta, alpha) if base.ndim == 2 and as_matrix else delta)
    norm = float(np.linalg.norm(merged))
    scale = float(np.mean([np.linalg.norm(delta) for delta in deltas])) / norm if norm else 0.0
    return np.asarray(base + lambda_ * scale * merged)


def away_from(merged: Array, delta: Array, alpha: float) -> Array:
    """A delta without its part on the diagonal, and in the first block, of another's singular basis."""
    u, s, v = np.linalg.svd(merged, full_matrices=False)
    rank = int((s > np.finfo(np.float64).eps * max(merged.shape, default=0) * (s[0] if s.size else 0)).sum())
    above = np.flatnonzero(np.cumsum(s[:rank]) > alpha * s[:rank].sum())
    closed = int(above[0]) if above.size else 0
    result = delta.copy()
    for i in range(rank):
        for j in range(rank):
            if i == j or max(i, j) < closed:
                result -= (u[:, i] @ delta @ v[j]) * np.outer(u[:, i], v[j])
    return result


def calibrated(base: Array, result: Array, models: list[Array], alpha: float) -> Array:
    """SVC: a merge with the singular values of its delta scaled by T / sum of max(alpha, contribution)."""
    u, s, v = np.linalg.svd(result - base, full_matrices=False)
    total = np.zeros_like(base)
    for r in range(int((s > np.finfo(np.float64).eps * max(base.shape) * s[0]).sum())):
        shares = []
        for model in models:
            row = u[:, r] @ (model - base)
            shares.append(max(alpha, float(s[r] * v[r] @ row) / float(row @ row) if row.any() else 0.0))
        total += s[r] * (len(models) / sum(shares) if sum(shares) else 1.0) * np.outer(u[:, r], v[r])
    return base + total


MATRIX_METHODS: dict[str, Callable[..., Any]] = {
    "opcm": opcm,
    "fr": fr,
    "tsv": by_matrix(tsv_matrix),
    "iso_c": by_matrix(iso_c_matrix),
    "iso_cts": by_matrix(iso_cts_matrix),
    "wudi": by_matrix(wudi_matrix),
}
