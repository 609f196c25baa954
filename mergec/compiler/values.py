"""Values: what every parameter is for one tensor, and where the numbers begin that are drawn for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mergec.compiler.inventory import Inventory
from mergec.compiler.names import is_head
from mergec.compiler.source import Source
from mergec.io.tensors import FLOATS
from mergec.ops.registry import Parameter
from mergec.recipe.bound import Bound, Input
from mergec.recipe.settings import Choice, FractionError, NoValueError, Resolved, Scope, resolve

Starts: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Values:
    """The resolved settings of one tensor; per-model ones have one entry per model beside the base, in order."""

    resolved: Mapping[str, Resolved | tuple[Resolved, ...]]

    def plain(self) -> dict[str, Any]:
        return {
            name: found.value if isinstance(found, Resolved) else tuple(one.value for one in found)
            for name, found in self.resolved.items()
        }


def resolve_tensor(bound: Bound, name: str, row: Sequence[Source], t: float) -> Values:
    """Every parameter's value for one output tensor. Raises NoValueError for the first required one without a value.

    Settings of a model are filtered by that model's tensor name, shared ones by the output's; an embedding that
    stands in for a tied head goes by the head's name.
    """
    shared = Scope(bound.settings, name)
    pairs = zip(bound.inputs, row, strict=True)
    models = [(one, Scope(one.settings, name if is_head(name) else ref.name)) for one, ref in pairs if not one.is_base]
    return Values(
        {
            parameter.name: tuple(_resolve(parameter, [own, shared], t, one) for one, own in models)
            if parameter.per_model
            else _resolve(parameter, [shared], t, None)
            for parameter in bound.method.parameters.values()
        }
    )


class UnsetError(NoValueError):
    def __init__(self, parameter: Parameter, input: Input | None) -> None:
        self.parameter, self.input = parameter, input


def _resolve(parameter: Parameter, scopes: list[Scope], t: float, input: Input | None) -> Resolved:
    try:
        return resolve(parameter, scopes, t)
    except NoValueError:
        raise UnsetError(parameter, input) from None


def scopes_of(bound: Bound) -> list[Mapping[str, tuple[Choice, ...]]]:
    """Everywhere that settings stand: for all models, and for each."""
    return [bound.settings, *(one.settings for one in bound.inputs)]


def filters_of(bound: Bound) -> set[str]:
    """Every filter of the settings."""
    choices = (choice for scope in scopes_of(bound) for setting in scope.values() for choice in setting)
    return {choice.filter for choice in choices if choice.filter is not None}


def starts_of(bound: Bound, inventory: Inventory) -> dict[str, Starts]:
    """Where each model's numbers begin for each tensor, in the order in which mergekit draws: by the tensors' names.

    A model whose density keeps everything draws nothing; where ranks are drawn for, one that keeps nothing neither.
    """
    found: dict[str, Starts] = {}
    position = 0
    draws_for_none = "epsilon" not in bound.method.parameters
    for name in sorted(inventory.rows, key=lambda name: max(ref.name for ref in inventory.rows[name])):
        row = inventory.rows[name]
        if row[0].dtype not in FLOATS:
            continue
        try:
            densities = resolve_tensor(bound, name, row, inventory.t(name)).plain()["density"]
        except (NoValueError, FractionError):  # which is said when the tensor's graph is made
            continue
        starts = []
        for density in densities:
            starts.append(position)
            if density < 1 and (density > 0 or draws_for_none):
                position += row[0].numel
        found[name] = tuple(starts)
    return found
