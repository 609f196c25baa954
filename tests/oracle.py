"""Every merge method once more, from its documentation alone: plain numpy, float64, whole tensors, no tiles.

Shares no code with mergec. A method takes the base (None where it has none), the models and its parameters -
per-model ones as lists - and the tensor's name, which randomness is keyed by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle_matrix import MATRIX_METHODS
from oracle_peer import PEER_METHODS

Array = NDArray[np.float64]
LEVELS = 2**24

# --------------------------------------------------------------------------------------------- randomness


def stream_key(seed: int, stream: str, tensor: str, slot: int | str) -> int:
    """The first 8 bytes, little-endian, of sha256("seed\\nstream\\ntensor\\nslot")."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{stream}\n{tensor}\n{slot}".encode()).digest()[:8], "little")


def draws(entries: int, key: int) -> NDArray[np.uint32]:
    """The numbers of entries 0 .. entries - 1, all in the first block of 2**24: 24 bits each."""
    digest = hashlib.sha256(f"{key}\n0".encode()).digest()
    first, second = (np.uint32(int.from_bytes(digest[at : at + 4], "little")) for at in (0, 4))
    index = np.arange(entries, dtype=np.uint32)
    with np.errstate(over="ignore"):
        return _lowbias32(_lowbias32(index * np.uint32(0x9E3779B1) + first) + second) >> np.uint32(8)


def _lowbias32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


# -------------------------------------------------------------------------------------------------- trim


def keep_count(density: float, entries: int) -> int:
    return 0 if density <= 0 else min(entries, max(1, int(density * entries)))


def ranking(delta: Array) -> NDArray[np.int64]:
    """Flat indices from the largest magnitude to the smallest, equal ones by lowest index."""
    return np.argsort(-np.abs(delta.ravel()), kind="stable")


def only(delta: Array, kept: Any) -> Array:
    """The delta with nothing but the entries at the given flat indices."""
    result = np.zeros(delta.size)
    result[kept] = delta.ravel()[kept]
    return result.reshape(delta.shape)


def largest(delta: Array, density: float) -> Array:
    return only(delta, ranking(delta)[: keep_count(density, delta.size)])


def reaching(delta: Array, density: float) -> Array:
    """The entries not smaller than the (int(density * n) + 1)-th largest."""
    if density <= 0 or delta.size == 0:
        return np.zeros_like(delta)
    sizes = np.sort(np.abs(delta).ravel())[::-1]
    return np.where(np.abs(delta) >= sizes[min(delta.size - 1, int(density * delta.size))], delta, 0.0)


def middle(delta: Array, density: float, gamma: float) -> Array:
    if density >= 1:
        return delta
    kept = keep_count(density, delta.size)
    outliers = min(int(gamma * delta.size), delta.size - kept)
    return only(delta, ranking(delta)[outliers : outliers + kept])


def dropped(delta: Array, density: float, key: int) -> Array:
    if density >= 1:
        return delta
    return only(delta, draws(delta.size, key) < round(density * LEVELS))


def rank_chances(delta: Array, density: float, epsilon: float) -> Array:
    """Keep probabilities by rank in each row (last axis), rounded to float32 as documented."""
    rows = delta.reshape(-1, delta.shape[-1] if delta.ndim else 1)
    width = rows.shape[1]
    steps = np.linspace(1, -1, width) if width > 1 else np.zeros(1)
    chances = np.empty(rows.shape)
    for row, chance in zip(rows, chances, strict=True):
        chance[ranking(row)] = density + epsilon * steps
    return chances.astype(np.float32).astype(np.float64).reshape(delta.shape)


def dropped_by_rank(delta: Array, density: float, epsilon: float, key: int) -> tuple[Array, Array]:
    if density >= 1 or density <= 0 or delta.size == 0:
        return (delta if density >= 1 else np.zeros_like(delta)), np.ones_like(delta)
    chances = rank_chances(delta, density, epsilon)
    return only(delta, draws(delta.size, key) < chances.ravel() * LEVELS), chances


def with_l1_of(delta: Array, trimmed: Array) -> Array:
    before, after = float(np.abs(delta).sum()), float(np.abs(trimmed).sum())
    return trimmed if min(before, after) < 1e-7 else trimmed * (before / after)


# -------------------------------------------------------------------------------------------------- fuse


def fused(base: Array, deltas: Sequence[Array], weight: Sequence[float], normalize: bool, factor: float) -> Array:
    merged = np.zeros_like(base)
    for delta, share in zip(deltas, weight, strict=True):
        merged = merged + share * delta
    divisor = math.fsum(weight)
    if normalize and abs(divisor) >= 1e-8:
        merged = merged / divisor
    return base + factor * merged


def votes_of(weighed: list[Array], elect: str) -> Array:
    """What decides on the sign of each entry."""
    zero = np.zeros_like(weighed[0])
    if elect in ("sum", "count"):
        return np.asarray(sum((np.sign(one) for one in weighed) if elect == "count" else weighed, start=zero))
    norms = [float((one * one).sum()) for one in weighed]
    shares = [one * np.abs(one) / norm if norm else zero for one, norm in zip(weighed, norms, strict=True)]
    if elect == "normmass":
        return np.asarray(sum(shares, start=zero))
    first = np.argmax(np.abs(np.stack(shares)), axis=0)
    return np.asarray(np.take_along_axis(np.stack(shares), first[None], axis=0)[0])


def fused_elected(
    base: Array,
    deltas: Sequence[Array],
    weight: Sequence[float],
    normalize: bool,
    factor: float,
    elect: str,
    zero_sign: str = "plus",
    aggregate: str | None = None,
) -> Array:
    weighed = [share * delta for delta, share in zip(deltas, weight, strict=True)]
    votes = votes_of(weighed, elect)
    majority = (votes > 0).sum() >= (votes < 0).sum() if zero_sign == "majority" else zero_sign == "plus"
    plus = votes >= 0 if majority else votes > 0
    if aggregate == "max":
        agreeing = [np.where(np.where(plus, one > 0, one < 0), np.abs(one), 0) for one in weighed]
        return np.asarray(base + factor * np.where(plus, 1, -1) * np.max(agreeing, axis=0))
    normalize = normalize if aggregate is None else aggregate == "mean"
    merged, mass = np.zeros_like(base), np.zeros_like(base)
    for one, share in zip(weighed, weight, strict=True):
        agrees = np.where(plus, one > 0, one < 0)
        merged = merged + np.where(agrees, one, 0)
        mass = mass + np.where(agrees, share, 0)
    if normalize:
        merged = merged / np.where(mass == 0, 1, mass)
    return base + factor * merged


# ----------------------------------------------------------------------------------------------- methods


def linear(base: None, models: list[Array], *, weight: list[float], normalize: bool = True, **_: Any) -> Array:
    merged = sum((share * model for share, model in zip(weight, models, strict=True)), start=np.zeros_like(models[0]))
    return merged / math.fsum(weight) if normalize else merged


def passthrough(base: None, models: list[Array], *, scale: list[float | None], **_: Any) -> Array:
    return models[0] if scale[0] is None else models[0] * scale[0]


def slerp(base: Array, models: list[Array], *, t: float, **_: Any) -> Array:
    other = models[0]
    norms = math.sqrt(float((base * base).sum())) * math.sqrt(float((other * other).sum()))
    cosine = min(1.0, max(-1.0, float((base * other).sum()) / norms)) if norms else 1.0
    if cosine > 0.9995 or cosine < -1 + 1e-12:
        return (1 - t) * base + t * other
    theta = math.acos(cosine)
    return (math.sin((1 - t) * theta) * base + math.sin(t * theta) * other) / math.sin(theta)


def stock_ratio(deltas: Sequence[Array]) -> float:
    """t = N c / (1 + (N - 1) c), c the mean cosine over pairs."""
    cosines = []
    for left, right in combinations(deltas, 2):
        norms = math.sqrt(float((left * left).sum())) * math.sqrt(float((right * right).sum()))
        cosines.append(min(1.0, max(-1.0, float((left * right).sum()) / norms)) if norms else 0.0)
    mean, count = sum(cosines) / len(cosines), len(deltas)
    divisor = 1 + (count - 1) * mean
    return count * mean / divisor if abs(divisor) >= 1e-6 else 0.0


def model_stock(base: Array, models: list[Array], *, filter_wise: bool = False, **_: Any) -> Array:
    shape = (-1, base.shape[-1] if base.ndim else 1) if filter_wise else (1, base.size)
    origin, rows = base.reshape(shape), [model.reshape(shape) for model in models]
    result = np.empty(origin.shape)
    for number, start in enumerate(origin):
        t = stock_ratio([model[number] - start for model in rows])
        result[number] = t * np.mean([model[number] for model in rows], axis=0) + (1 - t) * start
    return result.reshape(base.shape)


def task_arithmetic(
    base: Array,
    models: list[Array],
    *,
    weight: list[float],
    normalize: bool = False,
    lambda_: float = 1.0,
    **_: Any,
) -> Array:
    return fused(base, [model - base for model in models], weight, normalize, lambda_)


Trim = Callable[..., list[Array]]


def _trimmed_by_magnitude(deltas: list[Array], p: dict[str, Any]) -> list[Array]:
    trim = reaching if p.get("keep_count") == "reference" else largest
    kept = [trim(delta, share) for delta, share in zip(deltas, p["density"], strict=True)]
    return _l1(deltas, kept) if p["rescale"] in (True, "l1") else kept


def _trimmed_to_middle(deltas: list[Array], p: dict[str, Any]) -> list[Array]:
    shares = zip(deltas, p["density"], p["gamma"], strict=True)
    kept = [middle(delta, share, top) for delta, share, top in shares]
    return _l1(deltas, kept) if p["rescale"] in (True, "l1") else kept


def _dropped_at_random(deltas: list[Array], p: dict[str, Any]) -> list[Array]:
    keys = [stream_key(p["seed"], "trim.random.1", p["name"], slot) for slot in range(len(deltas))]
    kept = [dropped(*one) for one in zip(deltas, p["density"], keys, strict=True)]
    if p["rescale"] == "l1":
        return _l1(deltas, kept)
    if p["rescale"] in (True, "inverse_prob"):
        return [one / (share or 1) for one, share in zip(kept, p["density"], strict=True)]
    return kept


def _dropped_by_rank(deltas: list[Array], p: dict[str, Any]) -> list[Array]:
    keys = [stream_key(p["seed"], "trim.ranked.1", p["name"], slot) for slot in range(len(deltas))]
    windows = p.get("window_size") or [None] * len(deltas)
    spreads = [e if window is None else window / 2 for e, window in zip(p["epsilon"], windows, strict=True)]
    found = [dropped_by_rank(*one) for one in zip(deltas, p["density"], spreads, keys, strict=True)]
    if p["rescale"] == "l1":
        return _l1(deltas, [kept for kept, _ in found])
    if p["rescale"] in (True, "inverse_prob"):
        return [kept / chances for kept, chances in found]
    return [kept for kept, _ in found]


def _l1(deltas: list[Array], trimmed: list[Array]) -> list[Array]:
    return [with_l1_of(delta, kept) for delta, kept in zip(deltas, trimmed, strict=True)]


def _sparse(trim: Trim, elects: bool, **defaults: Any) -> Callable[..., Array]:
    def merge(base: Array, models: list[Array], *, seed: int = 0, tensor: str = "w", **given: Any) -> Array:
        each = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
        values = {key: [value] * len(models) for key, value in each.items()}
        values |= {"lambda_": 1.0, "elect": "sum", "name": tensor, "seed": seed}
        p = {**values, **defaults, **given}
        deltas = trim([model - base for model in models], p)
        if elects:
            rules = (p["elect"], p.get("zero_sign", "plus"), p.get("aggregate"))
            return fused_elected(base, deltas, p["weight"], p["normalize"], p["lambda_"], *rules)
        return fused(base, deltas, p["weight"], p["normalize"], p["lambda_"])

    return merge


def magmax(
    base: Array, models: list[Array], *, weight: list[float] | None = None, lambda_: float = 1.0, **_: Any
) -> Array:
    deltas = _weighed(base, models, weight)
    merged = deltas[0]
    for delta in deltas[1:]:
        merged = np.where(np.abs(delta) >= np.abs(merged), delta, merged)
    return base + lambda_ * merged


def _weighed(base: Array, models: list[Array], weight: list[float] | None) -> list[Array]:
    return [share * (model - base) for share, model in zip(weight or [1.0] * len(models), models, strict=True)]


def consensus(
    base: Array,
    models: list[Array],
    *,
    weight: list[float] | None = None,
    mask_lambda: list[float] | None = None,
    agreement: int = 2,
    lambda_: float = 1.0,
    **_: Any,
) -> Array:
    deltas = [model - base for model in models]
    joint = sum(deltas, start=np.zeros_like(base))
    limits = mask_lambda or [0.4] * len(models)
    votes = [np.abs(one) > limit * np.abs(joint - one) for one, limit in zip(deltas, limits, strict=True)]
    merged = sum(_weighed(base, models, weight), start=np.zeros_like(base))
    return base + lambda_ * np.where(sum(vote.astype(int) for vote in votes) >= agreement, merged, 0)


def entanglement(deltas: list[Array]) -> Array:
    pairs = combinations(range(len(deltas)), 2)
    strain = sum((np.abs(deltas[i]) * np.abs(deltas[j]) for i, j in pairs), start=np.zeros_like(deltas[0]))
    return np.asarray(2 * strain)


def trust_region(
    base: Array,
    models: list[Array],
    *,
    weight: list[float] | None = None,
    quantile: float = 0.99,
    lambda_: float = 1.0,
    **_: Any,
) -> Array:
    strain = entanglement([model - base for model in models])
    limit = np.sort(strain.ravel())[math.ceil(quantile * (strain.size - 1))] if strain.size else 0.0
    merged = sum(_weighed(base, models, weight), start=np.zeros_like(base))
    return base + lambda_ * np.where(strain < limit, merged, 0)


def pcb(base: Array, models: list[Array], *, pcb_ratio: float = 0.1, lambda_: float = 1.0, **_: Any) -> Array:
    deltas = [model - base for model in models]
    if base.size == 0:
        return base
    joint = sum(deltas, start=np.zeros_like(base))
    above = below = np.zeros_like(base)
    for delta in deltas:
        size_of = np.sort(np.abs(delta).ravel())
        low, high = size_of[int(size_of.size * 1e-4)], size_of[int(size_of.size * (1 - 1e-4) - 1)]
        size = (np.clip(np.abs(delta), low, high) - low) / ((high - low) or 1)
        won = np.maximum(np.exp(len(models) * size**2) * np.tanh(delta * joint), 0)
        least, most = np.sort(won.ravel())[int(won.size * (1 - pcb_ratio))], won.max()
        share = np.maximum(won - least, 0) / ((most - least) or 1)
        above = above + np.sign(delta) * np.clip(np.abs(delta), low, high) * share
        below = below + share
    return base + lambda_ * above / np.where(below == 0, 1, below)


def weight_avg(base: None, models: list[Array], *, weight: list[float] | None = None, **given: Any) -> Array:
    return linear(base, models, weight=weight or [1.0] * len(models), **given)


METHODS: dict[str, Callable[..., Array]] = {
    "linear": linear,
    "magmax": magmax,
    "consensus": consensus,
    "trust_region": trust_region,
    "pcb": pcb,
    "weight_avg": weight_avg,
    "passthrough": passthrough,
    "slerp": slerp,
    "model_stock": model_stock,
    "task_arithmetic": task_arithmetic,
    **MATRIX_METHODS,
    **PEER_METHODS,
    "ties": _sparse(_trimmed_by_magnitude, True, normalize=True, rescale=False),
    "breadcrumbs": _sparse(_trimmed_to_middle, False, normalize=False, rescale=False),
    "breadcrumbs_ties": _sparse(_trimmed_to_middle, True, normalize=False, rescale=False),
    "dare_linear": _sparse(_dropped_at_random, False, normalize=False, rescale=True),
    "dare_ties": _sparse(_dropped_at_random, True, normalize=False, rescale=True),
    "della": _sparse(_dropped_by_rank, True, normalize=True, rescale=True),
    "della_linear": _sparse(_dropped_by_rank, False, normalize=False, rescale=True),
}


# --------------------------------------------------------------------------------------------- artifacts


def tall_mask(base: Array, models: list[Array], task: int, *, mask_lambda: Sequence[float], **_: Any) -> Array:
    deltas = [model - base for model in models]
    joint = sum(deltas, start=np.zeros_like(base))
    return base + np.where(np.abs(deltas[task]) > mask_lambda[task] * np.abs(joint - deltas[task]), joint, 0)


def randes(
    base: Array, models: list[Array], task: int, *, lambda_: float = 1.0, tensor: str = "w", seed: int = 0, **_: Any
) -> Array:
    width = base.shape[-1] if base.ndim else 1
    keys = [stream_key(seed, "randes.1", tensor, slot) for slot, _ in zip("abc", models, strict=True)]
    signs = [np.where(draws(width, key) < LEVELS // 2, 1.0, -1.0) for key in keys]
    rows = [(model - base).reshape(-1, width) * sign for model, sign in zip(models, signs, strict=True)]
    joint = sum(rows, start=np.zeros_like(rows[0]))
    return base + lambda_ * (joint * signs[task]).reshape(base.shape)


def emr_parts(deltas: Sequence[Array]) -> tuple[Array, list[Array]]:
    """The unified delta and each task's mask."""
    sign = np.where(sum(deltas, start=np.zeros_like(deltas[0])) > 0, 1.0, -1.0)
    masks = [delta * sign > 0 for delta in deltas]
    largest = np.max([np.where(mask, np.abs(delta), 0) for delta, mask in zip(deltas, masks, strict=True)], axis=0)
    return sign * largest, masks


def emr_scale(tensors: Sequence[Sequence[Array]], task: int, weighting: str) -> float:
    """A task's scale, from the deltas of all tensors of the model."""
    over = under = 0.0
    for deltas in tensors:
        unified, masks = emr_parts(deltas)
        share = 1 / max(1, unified.size) if weighting == "tensors" else 1.0
        over += share * float(np.abs(deltas[task]).sum())
        under += share * float(np.abs(unified * masks[task]).sum())
    return over / under if under else 1.0


def emr(
    base: Array,
    models: list[Array],
    task: int,
    *,
    whole: Sequence[Sequence[Array]],
    rescale_weighting: str = "elements",
    **_: Any,
) -> Array:
    unified, masks = emr_parts([model - base for model in models])
    return base + emr_scale(_deltas_of(whole), task, rescale_weighting) * unified * masks[task]


def _deltas_of(whole: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Deltas by tensor, from (base, models ...) by tensor."""
    return [[model - base for model in models] for base, *models in whole]


def twin(
    base: Array,
    models: list[Array],
    task: int,
    *,
    weight: Sequence[float],
    lambda_: float,
    rank: int | str = "auto",
    rank_ratio: float = 0.1,
    as_matrix: bool = True,
    vectors: str = "whole",
    **_: Any,
) -> Array:
    shared = base + lambda_ * sum((w * (m - base) for w, m in zip(weight, models, strict=True)), np.zeros_like(base))
    rest = models[task] - shared
    if base.ndim != 2 or not as_matrix:
        return shared + (rest if vectors == "whole" else 0)
    left, values, right = np.linalg.svd(rest, full_matrices=False)
    kept = min(len(values), int(rank_ratio * len(values)) if isinstance(rank, str) else rank)
    return shared + (left[:, :kept] * values[:kept]) @ right[:kept]


def top(delta: Array, keep: float, per: str) -> Array:
    """The largest entries of each row, or of the tensor."""
    rows = delta.reshape(1 if per == "tensor" else -1, delta.shape[-1] if per == "rows" and delta.ndim else delta.size)
    if per == "rows" and not delta.ndim:
        rows = delta.reshape(1, 1)
    return np.stack([only(row, ranking(row)[: int(keep * row.size)]) for row in rows]).reshape(delta.shape)


def free(
    base: Array,
    models: list[Array],
    task: int,
    *,
    whole: Sequence[Sequence[Array]],
    weight: Sequence[float],
    filter: str = "clean",
    cutoff: float,
    as_matrix: bool = True,
    lambda_: float = 1.0,
    keep: float,
    keep_per: str = "rows",
    expert_scale: float | str = "auto",
    combine: str = "add",
    **_: Any,
) -> Array:
    import oracle_matrix

    def passed(delta: Array) -> Array:
        if delta.ndim != 2 or not as_matrix:
            return delta
        return np.asarray(oracle_matrix.high_pass(delta, filter, cutoff))

    deltas = [model - base for model in models]
    merged = lambda_ * sum((w * passed(d) for w, d in zip(weight, deltas, strict=True)), np.zeros_like(base))
    if expert_scale == "auto":
        every = [tensor[task] for tensor in _deltas_of(whole)]
        over = sum(float(np.abs(top(one, keep, keep_per)).mean()) for one in every)
        under = sum(float(np.abs(passed(one)).mean()) for one in every)
        expert_scale = -math.log10(keep) / keep * over / under if under else 1.0
    kept = top(deltas[task], keep, keep_per)
    return base + float(expert_scale) * kept + np.where((kept != 0) & (combine == "replace"), 0, merged)


ARTIFACTS: dict[str, Callable[..., Array]] = {
    "emr": emr,
    "free": free,
    "randes": randes,
    "tall_mask": tall_mask,
    "twin": twin,
}
"""The dense tensor of one task, numbered from 0; `whole` has (base, models ...) of every tensor of the model."""
