"""Sparsify: the deltas of all models, trimmed one of four ways and rescaled - the first half of most methods."""

from __future__ import annotations

from collections.abc import Sequence

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.registry import Arithmetic, Draw
from mergec.ops.rescale import drop_rule, norm_rule, rescale
from mergec.ops.trim import trim_magnitude, trim_outliers, trim_random, trim_ranked


def largest(base: Node, models: Sequence[Node], density: Sequence[float], restore: bool | str) -> list[Node]:
    """Each model's delta with its largest entries kept (TIES)."""
    deltas = [diff(model, base) for model in models]
    trimmed = [trim_magnitude(delta, share) for delta, share in zip(deltas, density, strict=True)]
    return [rescale(delta, kept, norm_rule(restore)) for delta, kept in zip(deltas, trimmed, strict=True)]


def middle(
    base: Node,
    models: Sequence[Node],
    density: Sequence[float],
    gamma: Sequence[float],
    restore: bool | str,
    arithmetic: Arithmetic,
) -> list[Node]:
    """Each model's delta without its outliers and without its small entries (breadcrumbs)."""
    deltas = [diff(model, base) for model in models]
    shares = zip(deltas, density, gamma, strict=True)
    trimmed = [trim_outliers(delta, share, top, arithmetic.mergekit) for delta, share, top in shares]
    return [rescale(delta, kept, norm_rule(restore)) for delta, kept in zip(deltas, trimmed, strict=True)]


def random(
    base: Node,
    models: Sequence[Node],
    density: Sequence[float],
    restore: bool | str,
    draw: Draw,
    arithmetic: Arithmetic,
) -> list[Node]:
    """Each model's delta with entries dropped at random (DARE); model i draws from slot i."""
    rule = drop_rule(restore, arithmetic)
    deltas = [diff(model, base) for model in models]
    dropped = [trim_random(delta, density[slot], slot, draw) for slot, delta in enumerate(deltas)]
    return [rescale(delta, kept, rule, share) for delta, kept, share in zip(deltas, dropped, density, strict=True)]


def ranked(
    base: Node,
    models: Sequence[Node],
    density: Sequence[float],
    epsilon: Sequence[float],
    restore: bool | str,
    draw: Draw,
    arithmetic: Arithmetic,
) -> list[Node]:
    """Each model's delta with entries dropped at random by rank (DELLA); model i draws from slot i."""
    rule = drop_rule(restore, arithmetic)
    deltas = [diff(model, base) for model in models]
    dropped = [trim_ranked(delta, density[i], epsilon[i], i, draw) for i, delta in enumerate(deltas)]
    return [rescale(delta, kept, rule, chance) for delta, (kept, chance) in zip(deltas, dropped, strict=True)]
