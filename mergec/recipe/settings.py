"""Settings: the one owner of precedence, filters and gradients - from what is written to a value per tensor.

A *scope* is a place where settings may stand: a model's entry, or what holds for all models - the settings of a
slice, of its module and of the top level, one after the other (`over`). Resolution walks a sequence of scopes from
the nearest to the farthest and takes the first setting that matches; it knows nothing of how a recipe is laid out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mergec.errors import Place, Problem, RecipeError
from mergec.ops.registry import Parameter
from mergec.recipe.document import Document, Path, shown

_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, eq=False)
class Choice:
    """One `{value, filter}` of a setting: typed values, one or several knots of a gradient."""

    knots: tuple[Any, ...]
    filter: str | None
    place: Place
    is_gradient: bool

    def matches(self, tensor: str) -> bool:
        return self.filter is None or self.filter in tensor

    def at(self, t: float) -> Any:
        """The value at position t in [0, 1] of the layer stack.

        Numbers are interpolated between the knots around t * (n - 1); other values step at each knot. Raises
        FractionError where a whole number is wanted and lies between two.
        """
        if len(self.knots) == 1:
            return self.knots[0]
        where = t * (len(self.knots) - 1)
        low = math.floor(where)
        if any(isinstance(knot, (bool, str)) for knot in self.knots):
            return self.knots[low]
        share, left, right = where - low, self.knots[low], self.knots[min(low + 1, len(self.knots) - 1)]
        between = left if left == right else (1 - share) * left + share * right  # [x, x] is x to the last bit
        if not isinstance(left, int):
            return between
        if between != round(between):
            raise FractionError(self, between, t)
        return round(between)


class Scope(NamedTuple):
    """Settings by parameter name, and the tensor name their filters are tested against."""

    settings: Mapping[str, tuple[Choice, ...]]
    tensor: str


def over(
    near: Mapping[str, tuple[Choice, ...]], far: Mapping[str, tuple[Choice, ...]]
) -> dict[str, tuple[Choice, ...]]:
    """The settings of two places as of one: the nearer come first, and where none of them matches the farther do."""
    return {name: (*near.get(name, ()), *far.get(name, ())) for name in {**far, **near}}


class Resolved(NamedTuple):
    """A value, and the choice it came from; None when it is the method's default."""

    value: Any
    choice: Choice | None


class FractionError(RecipeError):
    """The gradient of a whole number has a fraction at some place of the layer stack."""

    def __init__(self, choice: Choice, value: float, t: float) -> None:
        what = f"the gradient is {value:g} at t = {t:g}, expected a whole number"
        self.problem = Problem(choice.place, "E205", what, "write a knot for each layer")
        super().__init__([self.problem])


class NoValueError(LookupError):
    """A required parameter has no value for a tensor."""


def resolve(parameter: Parameter, scopes: Sequence[Scope], t: float) -> Resolved:
    """The value of a parameter: the first matching choice of the nearest scope that has one, else the default."""
    for scope in scopes:
        for choice in scope.settings.get(parameter.name, ()):
            if choice.matches(scope.tensor):
                return Resolved(choice.at(t), choice)
    if parameter.required:
        raise NoValueError(parameter.name)
    return Resolved(parameter.default, None)


def read_setting(
    parameter: Parameter, value: Any, document: Document, path: Path
) -> tuple[Choice, ...] | list[Problem]:
    """The choices a setting is made of, typed by its parameter, or everything that is wrong with it."""
    problems: list[Problem] = []
    choices = tuple(_choices(parameter, value, document, path, problems))
    return problems or choices


def _choices(parameter: Parameter, value: Any, document: Document, path: Path, problems: list[Problem]) -> list[Choice]:
    if isinstance(value, dict):
        return _filtered(parameter, value, document, path, problems)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        if not all(isinstance(item, dict) for item in value):
            what = f"the list of '{parameter.name}' mixes plain values with {{filter, value}} entries"
            problems.append(Problem(document.place(path), "E207", what, "make every entry {filter, value}"))
            return []
        return [c for i, item in enumerate(value) for c in _filtered(parameter, item, document, (*path, i), problems)]
    knots = _knots(parameter, value, document, path, problems)
    return [Choice(knots, None, document.place(path), isinstance(value, list))] if knots else []


def _filtered(
    parameter: Parameter, entry: dict[str, Any], document: Document, path: Path, problems: list[Problem]
) -> list[Choice]:
    form = "write {filter: PART OF A NAME, value: ...}"
    if not entry.keys() & {"value", "filter"}:
        what = f"found a mapping for '{parameter.name}' that is no setting"
        problems.append(Problem(document.place(path), "E207", what, form))
        return []
    for key in entry.keys() - {"value", "filter"}:
        what = f"found '{key}' in a setting of '{parameter.name}', expected only 'value' and 'filter'"
        problems.append(Problem(document.key_place((*path, key)), "E207", what, form))
    pattern = entry.get("filter")
    if pattern is not None and not isinstance(pattern, str):
        what = f"found {pattern!r} as a filter, expected a part of a tensor's name"
        problems.append(Problem(document.place((*path, "filter")), "E207", what, "quote it"))
        return []
    if "value" not in entry:
        what = f"a setting of '{parameter.name}' has no 'value'"
        problems.append(Problem(document.place(path), "E207", what, form))
        return []
    place = (*path, "value")
    knots = _knots(parameter, entry["value"], document, place, problems)
    pattern = None if pattern == "*" else pattern
    return [Choice(knots, pattern, document.place(place), isinstance(entry["value"], list))] if knots else []


def _knots(
    parameter: Parameter, value: Any, document: Document, path: Path, problems: list[Problem]
) -> tuple[Any, ...]:
    if value == []:
        problems.append(
            Problem(document.place(path), "E207", f"found an empty list for '{parameter.name}'", "remove it")
        )
        return ()
    if not isinstance(value, list):
        return _typed(parameter, value, document, path, problems)
    return tuple(k for i, knot in enumerate(value) for k in _typed(parameter, knot, document, (*path, i), problems))


def _typed(
    parameter: Parameter, value: Any, document: Document, path: Path, problems: list[Problem]
) -> tuple[Any, ...]:
    from pydantic import ValidationError

    if isinstance(value, _SCALARS):
        try:
            return (parameter.validate(value),)
        except ValidationError:
            pass
    expected = expectation(parameter)
    if isinstance(value, float) and not math.isfinite(value):
        expected = expected.replace("a number", "a finite number")
    what = f"found {shown(value)} for '{parameter.name}', expected {expected}"
    problems.append(Problem(document.place(path), "E205", what, parameter.description))
    return ()


def expectation(parameter: Parameter) -> str:
    """What values a parameter takes, in words.

    `a number in [0, 1]`, `true or false`, `one of: sum, count`.
    """
    options = [_option(schema) for schema in parameter.schema.get("anyOf", [parameter.schema])]
    return " or ".join(option for option in options if option)


def _option(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return "one of: " + ", ".join(schema.get("enum", [schema.get("const")]))
    kind = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "null": ""}.get(
        schema.get("type", ""), schema.get("type", "")
    )
    low = (
        f"[{schema['minimum']:g}"
        if "minimum" in schema
        else f"({schema['exclusiveMinimum']:g}"
        if "exclusiveMinimum" in schema
        else ""
    )
    high = (
        f"{schema['maximum']:g}]"
        if "maximum" in schema
        else f"{schema['exclusiveMaximum']:g})"
        if "exclusiveMaximum" in schema
        else ""
    )
    return f"{kind} in {low or '(-inf'}, {high or 'inf)'}" if low or high else kind
