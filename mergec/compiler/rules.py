"""Rules: which tensors of the models each rule of a recipe takes, and what is left for the recipe's own method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from mergec.compiler.inventory import Inventory
from mergec.compiler.models import Model
from mergec.compiler.names import few, layer_counts_of, layers_of, natural
from mergec.compiler.share import share, why_unused
from mergec.compiler.source import Source
from mergec.errors import Problem, count, did_you_mean
from mergec.recipe.bound import Bound, Rule


def assemble_by_rules(
    bounds: Sequence[Bound], models: Mapping[str, Model], tables: Mapping[str, Mapping[str, Source]]
) -> tuple[list[tuple[Bound, Inventory]], list[Problem]]:
    """The part of the recipe's own method, then that of each rule, or all that does not fit.

    `tables` are the models' tensors by output name.

    A tensor is of the first rule whose pattern matches its name, else of the recipe's method. Tensors that only a
    model has which is copied from are part of the result where a rule copies them, and are noted where none does.
    """
    used = {one.reference: models[one.reference] for bound in bounds for one in bound.inputs}
    own, rules = bounds[0], [(bound, bound.rule) for bound in bounds[1:] if bound.rule is not None]
    listed = {name for one in own.inputs for name in tables[one.reference]}
    taken: dict[int, list[str]] = {number: [] for number in range(len(bounds))}
    for name in sorted({name for table in tables.values() for name in table}, key=natural):
        number = next((n for n, (_, rule) in enumerate(rules, start=1) if fnmatchcase(name, rule.match)), 0)
        if name in listed or (number and any(name in tables[one.reference] for one in bounds[number].inputs)):
            taken[number].append(name)
    problems: list[Problem] = []
    made: list[tuple[Bound, Inventory]] = []
    for number, bound in enumerate(bounds):
        parts, found = _lined(bound, models, tables, taken[number], listed)
        problems += found
        made += parts
    names = [name for number in taken for name in taken[number]]
    layers = layers_of(names, set().union(*(layer_counts_of(model.checkpoint.config) for model in used.values())))
    made = [(b, replace(one, layers={name: layers[name] for name in one.rows if name in layers})) for b, one in made]
    known = {name for _, one in made for name in one.rows}
    known |= {name for number, bound in enumerate(bounds) if not bound.inputs for name in taken[number]}
    notes = (*_notes(rules, taken), *_left(tables, known, why_unused(own, "only copied from")), *made[0][1].notes)
    made[0] = own, replace(made[0][1], notes=notes)
    return made, problems


def _lined(
    bound: Bound,
    models: Mapping[str, Model],
    tables: Mapping[str, Mapping[str, Source]],
    names: Sequence[str],
    listed: Iterable[str],
) -> tuple[list[tuple[Bound, Inventory]], list[Problem]]:
    """The tensors of one rule, or of the recipe's method, lined up over its models."""
    empty = [(bound, Inventory({}, {}, (), False))]
    if bound.rule is not None and not names:
        what = f"the rule '{bound.rule.match}' takes no tensor"
        hint = did_you_mean(bound.rule.match, listed) if "*" not in bound.rule.match else ""
        hint = hint or "`mergec inspect MODEL` lists the names; rules before this one take theirs first"
        return empty, [Problem(bound.rule.place, "E123", what, hint)]
    if not bound.inputs or not names:
        return empty, []
    wanted = [{name: table[name] for name in names if name in table} for table in _tables(bound, tables)]
    lacking = [name for name in names if name not in wanted[0]]
    if bound.rule is not None and len(bound.inputs) == 1 and lacking:
        what = f"'{bound.inputs[0].reference}' has no {few(lacking)}, which the rule '{bound.rule.match}' takes from it"
        return empty, [Problem(bound.rule.place, "E124", what, "narrow the rule, or drop them by a rule before it")]
    return share(bound, models, wanted)


def _tables(bound: Bound, tables: Mapping[str, Mapping[str, Source]]) -> list[Mapping[str, Source]]:
    return [tables[one.reference] for one in bound.inputs]


def _notes(rules: Sequence[tuple[Bound, Rule]], taken: Mapping[int, Sequence[str]]) -> Iterable[str]:
    """What each rule does, with the tensors it takes."""
    for number, (bound, rule) in enumerate(rules, start=1):
        done = "dropped" if not bound.inputs else bound.method.name
        done = f"copied from {bound.inputs[0].reference}" if rule.is_copy else done
        if taken[number]:
            yield f"rule '{rule.match}': {done}, {count(len(taken[number]), 'tensor')}: {few(taken[number])}"


def _left(tables: Mapping[str, Mapping[str, Source]], known: set[str], why: str) -> Iterable[str]:
    for reference, table in tables.items():
        left = sorted((name for name in table if name not in known), key=natural)
        if left:
            yield f"{reference}: {why}, so not used: {few(left)}"
