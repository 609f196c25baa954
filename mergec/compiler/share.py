"""Share: which models take part in each tensor, where the recipe's `tensors` lets models have different ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mergec.compiler.inventory import Inventory, line_up_tables, misfits
from mergec.compiler.models import Model
from mergec.compiler.names import few, layer_counts_of, layers_of, natural
from mergec.compiler.source import Source
from mergec.errors import Place, Problem, count
from mergec.ops.registry import find_method
from mergec.recipe.bound import Bound


def share(
    bound: Bound, models: Mapping[str, Model], tables: Sequence[Mapping[str, Source]]
) -> tuple[list[tuple[Bound, Inventory]], list[Problem]]:
    """A bound with its tensors by output name, and others of fewer models for tensors that only these have.

    `tables` are those of its inputs. The first is the bound itself, for the tensors that all its inputs have. With
    `tensors: intersection` there is no other; with `union` a tensor is merged from the inputs that have it, or
    copied if one alone has it and the method does not take one.
    """
    placed = [replace(models[one.reference], place=one.place) for one in bound.inputs]
    mode = bound.recipe.tensors
    if mode == "strict":
        inventory, problems = line_up_tables(placed, tables)
        return [(bound, inventory)], problems
    problems = list(misfits(placed, tables))
    if problems:
        return [(bound, Inventory({}, {}, (), False))], problems
    made: list[tuple[Bound, Inventory]] = []
    for which, names in _takers(tables, only_all=mode == "intersection").items():
        fewer = _of(bound, which)
        if fewer is None:
            problems.append(_refused(bound, which, names))
            continue
        having = [{name: tables[number][name] for name in names} for number in which]
        inventory, found = line_up_tables([placed[number] for number in which], having)
        problems += found
        notes = (_note(fewer, names),) if fewer is not bound and names else ()
        made.append((fewer, replace(inventory, notes=notes)))
    counts = set().union(*(layer_counts_of(model.checkpoint.config) for model in placed))
    layers = layers_of([name for _, one in made for name in one.rows], counts)
    return [(one, replace(i, layers={n: layers[n] for n in i.rows if n in layers})) for one, i in made], problems


def _takers(tables: Sequence[Mapping[str, Source]], only_all: bool) -> dict[tuple[int, ...], list[str]]:
    """Names by the numbers of the tables that have them, in their natural order; those of all tables first."""
    found: dict[tuple[int, ...], list[str]] = {tuple(range(len(tables))): []}
    for name in sorted({name for table in tables for name in table}, key=natural):
        which = tuple(number for number, table in enumerate(tables) if name in table)
        if which in found or not only_all:
            found.setdefault(which, []).append(name)
    return found


def _of(bound: Bound, which: Sequence[int]) -> Bound | None:
    """The bound with some of its inputs; a copy where its method cannot do with one, None where not with several."""
    inputs = tuple(bound.inputs[number] for number in which)
    if len(inputs) == len(bound.inputs):
        return bound
    low, high = bound.method.models
    others = sum(not one.is_base for one in inputs)
    has_base = len(inputs) > others or not any(one.is_base for one in bound.inputs)
    if has_base and low <= others <= (others if high is None else high):
        return replace(bound, inputs=inputs)
    if len(inputs) > 1:
        return None
    copied = replace(inputs[0], is_base=False, settings={})
    return replace(bound, method=find_method("passthrough"), inputs=(copied,), settings={})


def _note(fewer: Bound, names: Sequence[str]) -> str:
    done = "copied" if fewer.method.name == "passthrough" else "merged"
    return f"{done} from {_listed(fewer)} alone: {count(len(names), 'tensor')}: {few(names)}"


def _refused(bound: Bound, which: Sequence[int], names: Sequence[str]) -> Problem:
    having = _listed(replace(bound, inputs=tuple(bound.inputs[number] for number in which)))
    what = f"only {having} have {few(names)}, and {bound.method.name} {_needs(bound, which)}"
    hint = "tensors: intersection leaves out what some lack; a rule says what is done with tensors of a name"
    return Problem(place_of(bound), "E140", what, hint)


def _needs(bound: Bound, which: Sequence[int]) -> str:
    """What some of the inputs are too few for."""
    base = next((one for number, one in enumerate(bound.inputs) if one.is_base and number not in which), None)
    if base is not None:
        return f"takes deltas from '{base.reference}', which lacks it"
    low, high = bound.method.models
    wanted = count(low, "model")
    return f"merges exactly {wanted}" if low == high else f"needs {wanted} or more"


def place_of(bound: Bound) -> Place:
    """Where a recipe says that a part of the merge is made as it is."""
    of_rule = bound.rule and bound.rule.place
    path = ("modules", bound.module) if bound.module else ("tensors",)
    return bound.place or of_rule or bound.recipe.document.key_place(path)


def _listed(bound: Bound) -> str:
    *others, last = (f"'{one.reference}'" for one in bound.inputs)
    return f"{', '.join(others)} and {last}" if others else last


def why_unused(bound: Bound, otherwise: str = "") -> str:
    """Why tensors of models are in no part of the result; `otherwise` than that some models lack them."""
    lacking = "not in every model" if bound.recipe.tensors == "intersection" else ""
    return " or ".join(filter(None, (otherwise, lacking)))
