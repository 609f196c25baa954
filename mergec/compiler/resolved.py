"""Resolved: the value of every setting for every merged tensor; tensors that must agree share one object."""

from __future__ import annotations

from typing import Any

from mergec.compiler.compile import Analysis
from mergec.compiler.lower import Values, resolve_tensor
from mergec.io.tensors import FLOATS


def position(analysis: Analysis, name: str) -> float:
    """Where a tensor's gradients are evaluated: its layer's place in [0, 1], or 0 outside the layers."""
    layer = analysis.inventory.layers.get(name)
    return layer.t if layer else 0.0


def resolve_all(analysis: Analysis) -> dict[str, Values]:
    """The settings of each tensor that is merged (integers are copied), in the models' order of names.

    The analysed recipe must have a value for everything that is required, as a plan has.
    """
    filters = sorted(_filters(analysis))
    known: dict[Any, Values] = {}
    found = {}
    for name, row in analysis.inventory.rows.items():
        if row[0].dtype not in FLOATS:
            continue
        names = dict.fromkeys((name, *(ref.name for ref in row)))
        t = position(analysis, name)
        key = (t, tuple(one in each for one in filters for each in names), len(names))
        if key not in known:
            known[key] = resolve_tensor(analysis.bound, name, row, t)
        found[name] = known[key]
    return found


def _filters(analysis: Analysis) -> set[str]:
    scopes = [analysis.bound.settings, *(one.settings for one in analysis.bound.inputs)]
    return {
        choice.filter
        for scope in scopes
        for setting in scope.values()
        for choice in setting
        if choice.filter is not None
    }
