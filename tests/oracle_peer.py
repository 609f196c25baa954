"""The methods that mergekit has beside the older ones, once more from their documentation: numpy, float64.

Directions are whole vectors here, with the tangent steps written out; mergec works on their inner products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _norm(vector: Array) -> float:
    return math.sqrt(float((vector * vector).sum()))


def _arc(x: Array, y: Array, t: float) -> Array:
    norms = _norm(x) * _norm(y)
    cosine = min(1.0, max(-1.0, float((x * y).sum()) / norms)) if norms else 1.0
    if 1 - cosine**2 <= 1e-12:
        return (1 - t) * x + t * y
    h = math.acos(cosine)
    return (math.sin((1 - t) * h) * x + math.sin(t * h) * y) / math.sin(h)


def nuslerp(
    base: Array | None,
    models: list[Array],
    *,
    weight: list[float],
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
    **_: Any,
) -> Array:
    origin = np.zeros_like(models[0]) if base is None else base
    t = weight[1] / sum(weight) if abs(sum(weight)) >= 1e-6 else 0.5
    x, y = (model - origin for model in models)
    if nuslerp_flatten or x.ndim < 2:
        return origin + _arc(x, y, t)
    axis = 0 if nuslerp_row_wise else -1
    x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    result = np.empty(x.shape)
    for place in np.ndindex(x.shape[:-1]):
        result[place] = _arc(x[place], y[place], t)
    return origin + np.moveaxis(result, -1, axis)


def multislerp(
    base: Array | None,
    models: list[Array],
    *,
    weight: list[float],
    normalize_weights: bool = True,
    eps: float = 1e-8,
    **_: Any,
) -> Array:
    if len(models) == 1:
        return models[0]
    origin = np.zeros_like(models[0]) if base is None else base
    shares = [w / math.fsum(weight) for w in weight] if normalize_weights else weight
    vectors = [model - origin for model in models]
    units = [v / (_norm(v) + eps) if _norm(v) else v for v in vectors]
    mean = np.sum([w * u for w, u in zip(shares, units, strict=True)], axis=0)
    if _norm(mean) <= max(eps, 1e-6 * sum(map(abs, shares))):
        return origin + np.sum([w * v for w, v in zip(shares, vectors, strict=True)], axis=0)
    mean = mean / _norm(mean)
    tangent = np.sum([w * (u - (u * mean).sum() * mean) for w, u in zip(shares, units, strict=True)], axis=0)
    length = _norm(tangent) + eps * 1e-8
    point = mean * math.cos(length) + tangent * math.sin(length) / length if length else mean
    return origin + point * math.fsum(w * _norm(v) for w, v in zip(shares, vectors, strict=True))


def karcher(base: None, models: list[Array], *, max_iter: int = 10, tol: float = 1e-5, **_: Any) -> Array:
    if len(models) == 1:
        return models[0]
    units = [model / _norm(model) for model in models if _norm(model)]
    if not units:
        return np.zeros_like(models[0])
    mean = np.mean(units, axis=0)
    mean = mean / _norm(mean) if _norm(mean) > 1e-6 else units[0]
    for _step in range(max_iter):
        step = np.zeros_like(mean)
        for unit in units:
            cosine = min(1.0, max(-1.0, float((unit * mean).sum())))
            angle = math.acos(cosine)
            if angle >= tol and 1 + cosine >= 1e-12:
                step = step + angle / math.sin(angle) * (unit - cosine * mean) / len(units)
        length = _norm(step)
        if length < tol:
            break
        mean = math.cos(length) * mean + math.sin(length) * step / length
        mean = mean / _norm(mean)
    return mean * float(np.mean([_norm(model) for model in models]))


def nearswap(base: Array, models: list[Array], *, t: float, **_: Any) -> Array:
    return base + np.clip(models[0] - base, -t, t)


def arcee_fusion(base: Array, models: list[Array], **_: Any) -> Array:
    if not base.size:
        return base
    (other,) = models

    def probabilities(values: Array) -> Array:
        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
        powers = np.exp(rows - rows.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True) + 1e-8

    p, q = probabilities(other), probabilities(base)
    divergence = np.maximum((p * np.log(p / q)).sum(-1, keepdims=True), 0)
    weighed = (np.abs(other - base).reshape(p.shape) * divergence).astype(np.float32 if p.size > 1e6 else np.float64)
    ordered = np.sort(weighed, axis=None)
    first, median, third = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.where(weighed.reshape(base.shape) >= median + 1.5 * (third - first), other, base)


def sce(base: Array, models: list[Array], *, select_topk: float = 1.0, **_: Any) -> Array:
    deltas = [model - base for model in models]
    if select_topk < 1:
        spread = np.where(np.max(deltas, axis=0) == np.min(deltas, axis=0), 0, np.var(deltas, axis=0))
        ranking = np.argsort(-spread, axis=None, kind="stable")
        kept = np.zeros(base.size, dtype=bool)
        kept[ranking[: int(select_topk * np.count_nonzero(spread))]] = True
        deltas = [np.where(kept.reshape(base.shape), delta, 0) for delta in deltas]
    energies = [float((delta**2).mean()) if delta.size else 0.0 for delta in deltas]
    shares = [one / sum(energies) if sum(energies) else 1 / len(energies) for one in energies]
    sign = np.where(np.sum(deltas, axis=0) >= 0, 1, -1)
    agrees = [np.sign(delta) == sign for delta in deltas]
    mass = np.sum([share * one for share, one in zip(shares, agrees, strict=True)], axis=0)
    merged = np.sum([share * one * d for share, one, d in zip(shares, agrees, deltas, strict=True)], axis=0)
    return base + merged / np.where(mass == 0, 1, mass)


def ramplus_tl(
    base: Array, models: list[Array], *, r: float = 0.1, alpha: float = 0.2, epsilon: float = 1e-5, **_: Any
) -> Array:
    deltas = [model - base for model in models]
    active = [np.abs(delta) > epsilon for delta in deltas]
    count = np.sum(active, axis=0)
    merged = np.zeros_like(base)
    for delta, one in zip(deltas, active, strict=True):
        shared, unique = int((one & (count > 1)).sum()), int((one & (count == 1)).sum())
        factor = 1 + r * min(alpha, shared / max(unique, epsilon)) if unique else 1
        merged = merged + delta * one * np.where(count > 1, 1 / np.maximum(count, 1), factor)
    return base + merged


def ram(base: Array, models: list[Array], *, epsilon: float = 1e-5, **_: Any) -> Array:
    return ramplus_tl(base, models, r=0.0, epsilon=epsilon)


PEER_METHODS: dict[str, Callable[..., Array]] = {
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    "sce": sce,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
}
