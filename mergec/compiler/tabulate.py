"""Tabulate: the values of settings for many tensors at once, as rows for a terminal, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mergec.compiler.analysis import Analysis, Part
from mergec.compiler.resolved import resolve_all
from mergec.compiler.text import table, value_text
from mergec.compiler.values import scopes_of
from mergec.errors import UsageError, did_you_mean
from mergec.recipe.bound import Input
from mergec.recipe.settings import Resolved


class Tabulated(NamedTuple):
    """Column names, and a row per tensor: its name, its layer (None outside the layers), t, and the values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def tabulate(analysis: Analysis, pattern: str, parameters: Sequence[str]) -> Tabulated:
    """The values of `parameters` for the tensors that a shell pattern matches, in natural order of names.

    A parameter that each model has takes a column per model; without any named, all that the recipe sets are
    shown. Raises UsageError for a pattern that matches nothing (E405) and an unknown parameter (E202).
    """
    known = analysis.method.parameters
    for name in parameters:
        if name not in known:
            raise UsageError("E202", f"{analysis.method.name} has no parameter '{name}'", did_you_mean(name, known))
    chosen = parameters or [name for name in known if name in written(analysis)] or list(known)
    values = {name: one for name, one in resolve_all(analysis).items() if fnmatchcase(name, pattern)}
    if not values:
        names = list(analysis.of_tensor)[:5000]
        raise UsageError("E405", f"the result has no merged tensor like '{pattern}'", did_you_mean(pattern, names))
    models = list(dict.fromkeys(one.reference for part in analysis.parts for one in _models(part)))
    columns = [f"{name} {model}" for name in chosen for model in (models if known[name].per_model else [""])]
    rows = []
    for name, one in values.items():
        layer = analysis.layers.get(name)
        own = [model.reference for model in _models(analysis.of_tensor[name])]
        cells = [cell for parameter in chosen for cell in _cells(one.resolved[parameter], own, models)]
        rows.append((name, layer.index if layer else None, analysis.of_tensor[name].inventory.t(name), *cells))
    return Tabulated(("tensor", "layer", "t", *map(str.strip, columns)), tuple(rows))


def _models(part: Part) -> list[Input]:
    return [one for one in part.bound.inputs if not one.is_base]


def _cells(found: Resolved | tuple[Resolved, ...], own: list[str], models: list[str]) -> list[Any]:
    """A value, or one for each of `models`: None for those that have no part in the tensor."""
    if isinstance(found, Resolved):
        return [found.value]
    by_model = dict(zip(own, found, strict=True))
    return [by_model[model].value if model in by_model else None for model in models]


def written(analysis: Analysis) -> set[str]:
    """The parameters that a recipe sets, for all models or for some."""
    scopes = [scope for part in analysis.parts for scope in scopes_of(part.bound)]
    return {name for scope in scopes for name in scope}


def table_text(found: Tabulated) -> str:
    """Aligned columns; numbers to six digits."""
    rows = [[_cell(value) for value in row] for row in found.rows]
    return "\n".join(line.removeprefix("  ") for line in table([found.columns, *rows]))


def table_csv(found: Tabulated) -> str:
    """Comma-separated values with a header; numbers in full."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([found.columns, *found.rows])
    return text.getvalue().rstrip("\n")


def table_json(found: Tabulated) -> str:
    """A list of objects keyed by column."""
    return json.dumps([dict(zip(found.columns, row, strict=True)) for row in found.rows], indent=2)


def _cell(value: Any) -> str:
    return "-" if value is None else value_text(value)
