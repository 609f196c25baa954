"""Rules: tensors that a recipe merges by another method than its own, copies, keeps or drops, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mergec.errors import Problem, UsageError
from mergec.ops.registry import find_method
from mergec.recipe.binder import Binder
from mergec.recipe.bound import Bound, Input
from mergec.recipe.document import Document
from mergec.recipe.schema import RULE_WAYS, Recipe, RuleEntry
from mergec.recipe.settings import Choice, over
from mergec.recipe.steps import Passes


def rule_problems(recipe: Recipe) -> list[Problem]:
    """What is wrong with rules themselves, whatever models they are about."""
    document, found = recipe.document, list[Problem]()
    for key in ("slices", "modules"):
        if recipe.rules and getattr(recipe, key):
            what = f"found 'rules' beside '{key}': a rule is about models that are merged whole"
            found.append(Problem(document.key_place(("rules",)), "E122", what, "list the models under 'models:'"))
    for number, rule in enumerate(recipe.rules):
        found += _of_rule(document, number, rule)
    return found


def _of_rule(document: Document, number: int, rule: RuleEntry) -> list[Problem]:
    path = ("rules", number)
    written = document.value["rules"][number]
    ways = [way for way in RULE_WAYS if written.get(way) is not None]
    if len(ways) != 1:
        said = f"found {' and '.join(map(repr, ways))}" if ways else "found none of them"
        what = f"a rule says one of method, copy, keep and drop, {said}"
        hint = "as in `{match: '*.mlp.*', method: ties}`"
        return [Problem(document.place(path), "E122", what, hint)]
    if rule.way(ways[0]) is None:
        return []  # what is written there is wrong, and was said
    if rule.parameters and rule.method is None:
        what = f"'parameters' belong to a method, and this rule says '{ways[0]}'"
        return [Problem(document.key_place((*path, "parameters")), "E122", what, "remove them")]
    if rule.method is not None:
        return _of_method(document, number, rule.method)
    return []


def _of_method(document: Document, number: int, name: str) -> list[Problem]:
    place = document.place(("rules", number, "method"))
    try:
        method = find_method(name)
    except UsageError as error:
        return [error.at(place)]
    if method.makes_artifact:
        what = f"{name} makes an artifact, and a rule makes tensors of a dense model"
        return [Problem(place, "E122", what, "materialize a task, and copy from it")]
    return []


def rule_bounds(recipe: Recipe, passes: Passes) -> tuple[list[Bound], list[Problem]]:
    """A `Bound` for each rule, in order.

    A rule's own parameters win over those of models and recipe, which hold where its method has a parameter of that
    name. What is copied is a passthrough of one model; what is dropped has no models.
    """
    bounds: list[Bound] = []
    problems: list[Problem] = []
    for number, rule in enumerate(recipe.rules):
        binder = Binder(recipe, find_method(rule.method or "passthrough"), None, passes, number)
        bounds.append(_bound(recipe, number, rule, binder))
        problems += binder.problems
    return bounds, problems


def _bound(recipe: Recipe, number: int, rule: RuleEntry, binder: Binder) -> Bound:
    path = ("rules", number)
    if rule.method is None:
        reference = rule.copied or recipe.references[0]
        place = recipe.document.place((*path, "copy" if rule.copied else "keep"))
        return binder.bound([] if rule.drop else [binder.whole(reference, place)], {})
    written = binder.settings(rule.parameters, (*path, "parameters"), shared=True)
    shared = {name: one for name, one in written.items() if not binder.method.parameters[name].per_model}
    own = {name: one for name, one in written.items() if name not in shared}
    inputs = binder.inputs(("models",), recipe.models, recipe.base_model, appended=True)
    settings = over(shared, binder.settings(recipe.parameters, ("parameters",), shared=True))
    return binder.bound([_with_own(one, own) for one in inputs], settings)


def _with_own(one: Input, own: Mapping[str, tuple[Choice, ...]]) -> Input:
    return one if one.is_base else replace(one, settings=over(own, one.settings))
