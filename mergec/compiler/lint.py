"""Lint: settings that are allowed and do nothing, or something else than they seem to; each with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mergec.compiler.analysis import Analysis
from mergec.compiler.configs import disagreements, uneven_biases
from mergec.compiler.names import fold, is_behind
from mergec.compiler.resolved import resolve_all
from mergec.compiler.source import Adapted
from mergec.compiler.values import Values
from mergec.errors import Place, Problem, count
from mergec.recipe.bound import Input
from mergec.recipe.settings import Choice, Resolved

_LISTED_SUM = 0.05  # weights that sum to 1 but for this much are a mean as they stand


def lint(analysis: Analysis) -> list[Problem]:
    """Every warning about a recipe that compiles, in the order of their places."""
    values = resolve_all(analysis)
    used = _used(values.values())
    found = [
        *_filters(analysis, values, used),
        *_idle_models(analysis, values),
        *_cancelled_weights(analysis, values),
        *_full_density(analysis, values),
        *_gradients(analysis, used),
        *_first_knots(analysis, values),
        *_listed_base(analysis),
        *_ignored(analysis),
        *_no_adapter(analysis),
        *disagreements(analysis),
        *uneven_biases(analysis),
    ]
    found += [problem for stage in analysis.stages.values() for problem in lint(replace(stage, stages={}))]
    distinct = {(problem.place, problem.code, problem.what): problem for problem in found}.values()
    return sorted(distinct, key=lambda problem: (problem.place, problem.code))


def _settings(analysis: Analysis) -> Iterator[tuple[str, tuple[Choice, ...], str]]:
    """Every setting as it is written: its parameter, its choices, and the model it belongs to ("" for all)."""
    seen: set[tuple[Choice, ...]] = set()
    for bound in (part.bound for part in analysis.parts):
        whose = [("", bound.settings), *((one.reference, one.settings) for one in bound.inputs)]
        for reference, settings in whose:
            for name, choices in settings.items():
                if choices not in seen:
                    seen.add(choices)
                    yield name, choices, reference


def _each(values: Values) -> Iterator[tuple[str, Resolved]]:
    for name, found in values.resolved.items():
        for one in (found,) if isinstance(found, Resolved) else found:
            yield name, one


def _used(values: Iterable[Values]) -> set[Place]:
    """Where the choices stand that some tensor takes."""
    return {one.choice.place for each in {id(v): v for v in values}.values() for _, one in _each(each) if one.choice}


def _filters(analysis: Analysis, values: Mapping[str, Values], used: set[Place]) -> Iterator[Problem]:
    """Choices that no tensor takes: their filter matches nothing, or what stands before them matches all of it."""
    rows = {name: analysis.of_tensor[name].inventory.rows[name] for name in values}
    names = [*values, *(ref.name for row in rows.values() for ref in row)]
    distinct = list(dict.fromkeys(names))
    for name, choices, _ in _settings(analysis):
        idle = [choice for choice in choices if choice.place not in used]
        if len(idle) == len(choices) and all(any(map(choice.matches, distinct)) for choice in choices):
            yield _overridden(name, choices[0])
            continue
        for choice in idle:
            matched = [tensor for tensor in distinct if choice.matches(tensor)]
            if not matched:
                what = f"the filter '{choice.filter}' of '{name}' matches no tensor"
                hint = "a filter is a part of a tensor's name; `mergec inspect MODEL` lists the names"
                yield Problem(choice.place, "W220", what, hint)
            elif any(other.matches(matched[0]) for other in choices[: choices.index(choice)]):
                which = f"with the filter '{choice.filter}'" if choice.filter else "without a filter"
                what = f"the entry of '{name}' {which} is never reached: entries before it match the same tensors"
                yield Problem(choice.place, "W221", what, "the first match wins: put narrow filters first")


def _overridden(name: str, choice: Choice) -> Problem:
    what = f"this value of '{name}' is never used: every model has its own"
    return Problem(choice.place, "W222", what, "remove it, or the models' own")


def _per_model(analysis: Analysis, values: Mapping[str, Values], parameter: str) -> list[tuple[Resolved, ...]]:
    """A per-model parameter's values, one tuple for each group of tensors; none where the method has no such one."""
    declared = analysis.method.parameters.get(parameter)
    if declared is None or not declared.per_model:
        return []
    distinct = {id(one): one for one in values.values()}.values()
    found = [one.resolved[parameter] for one in distinct if parameter in one.resolved]
    return [tuple(one) for one in found if not isinstance(one, Resolved)]


def _idle_models(analysis: Analysis, values: Mapping[str, Values]) -> Iterator[Problem]:
    """Models whose weight, or whose density, is 0 for every tensor."""
    for parameter in ("weight", "density"):
        taken: dict[str, tuple[Input, list[Resolved]]] = {}
        for part in analysis.parts:
            own = {name: values[name] for name in part.inventory.rows if name in values}
            models = [one for one in part.bound.inputs if not one.is_base]
            for group in _per_model(analysis, own, parameter):
                for model, found in zip(models, group, strict=True):
                    taken.setdefault(model.reference, (model, []))[1].append(found)
        for model, each in taken.values():
            if all(found.value == 0 for found in each):
                what = f"'{model.reference}' has no part in the result: its {parameter} is 0 for every tensor"
                yield Problem(
                    _place(analysis, each[0], model.place), "W223", what, f"give it a {parameter}, or remove the model"
                )


def _place(analysis: Analysis, found: Resolved, otherwise: Place | None = None) -> Place:
    if found.choice is not None:
        return found.choice.place
    return otherwise or analysis.recipe.document.place(("merge_method",))


def _cancelled_weights(analysis: Analysis, values: Mapping[str, Values]) -> Iterator[Problem]:
    """Equal weights that normalize divides out again, where the number suggests that it matters."""
    groups = _per_model(analysis, values, "weight")
    normalize = {found.value for one in values.values() for name, found in _each(one) if name == "normalize"}
    weights = {found.value for group in groups for found in group}
    if normalize != {True} or len(weights) != 1:
        return
    weight, models = weights.pop(), len(groups[0])
    if weight in (0, 1) or abs(weight * models - 1) <= _LISTED_SUM:
        return
    what = f"the weight {weight:g} has no effect: normalize divides by the sum of the weights, and all are equal"
    hint = f"with normalize: false each model counts {weight:g} times; weight: 1 says what is done now"
    yield Problem(_place(analysis, groups[0][0]), "W224", what, hint)


def _full_density(analysis: Analysis, values: Mapping[str, Values]) -> Iterator[Problem]:
    """A density of 1 for every model and tensor: the method's own step does nothing."""
    groups = _per_model(analysis, values, "density")
    if not groups or any(found.value != 1 for group in groups for found in group):
        return
    method = analysis.method
    left = (
        "; what is left is the election of signs"
        if "elect" in method.parameters
        else "; what is left is task_arithmetic"
    )
    default = "" if groups[0][0].choice else ", the default,"
    what = f"density is 1{default} for every model, so {method.name} keeps every entry of every delta{left}"
    yield Problem(_place(analysis, groups[0][0]), "W225", what, "density: 0.5 keeps half of the entries")


def _gradients(analysis: Analysis, used: set[Place]) -> Iterator[Problem]:
    """Gradients with more knots than the models have layers: knots between the layers are never taken."""
    layers = max((layer.count for layer in analysis.layers.values()), default=0)
    for name, choices, _ in _settings(analysis):
        for choice in choices:
            knots = len(choice.knots)
            if knots <= max(layers, 1) or choice.place not in used or len(set(choice.knots)) == 1:
                continue
            if layers:
                what = (
                    f"the gradient of '{name}' has {knots} knots over {count(layers, 'layer')}, so some are never used"
                )
                yield Problem(choice.place, "W226", what, f"give it {layers} knots or fewer")
            else:
                what = f"the gradient of '{name}' has no layers to run over, so its first knot holds everywhere"
                yield Problem(choice.place, "W226", what, f"write {name}: {choice.knots[0]}")


def _first_knots(analysis: Analysis, values: Mapping[str, Values]) -> Iterator[Problem]:
    """Tensors behind the layers - head, final norm - that take the first knot of a gradient which ends elsewhere."""
    layers = analysis.layers
    taken: dict[int, tuple[str, Resolved, list[str]]] = {}
    for tensor, each in values.items():
        if not layers or tensor in layers or not is_behind(tensor):
            continue
        for name, found in _each(each):
            choice = found.choice
            if choice is not None and choice.is_gradient and choice.knots[0] != choice.knots[-1]:
                taken.setdefault(id(choice), (name, found, []))[2].append(tensor)
    if not taken:
        return
    name, found, tensors = next(iter(taken.values()))
    tensors = list(dict.fromkeys(tensors))
    knots: tuple[Any, ...] = found.choice.knots if found.choice else ()
    others = f", and so with {count(len(taken) - 1, 'other gradient')}" if len(taken) > 1 else ""
    what = f"{_and(fold(tensors))} take the first knot of '{name}', {knots[0]}, though behind the last layer{others}"
    hint = f"to choose, give '{name}' an entry of its own for them: {{filter: {tensors[0]}, value: {knots[-1]}}}"
    yield Problem(_place(analysis, found), "W227", what, hint)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _listed_base(analysis: Analysis) -> Iterator[Problem]:
    """The base among the models; a method between two ends is written so in mergekit, and W211 says it of settings."""
    recipe, method = analysis.recipe, analysis.method
    if method.base != "origin" or method.models == (1, 1):
        return
    for number, entry in enumerate(recipe.models):
        if entry.model == recipe.base_model and not entry.parameters:
            what = f"'{entry.model}' is the base_model: listed among the models it adds nothing"
            yield Problem(recipe.document.place(("models", number, "model")), "W228", what, "remove it from 'models:'")


def _ignored(analysis: Analysis) -> Iterator[Problem]:
    """Parameters that are only accepted; their schema says `deprecated`."""
    for name, choices, _ in _settings(analysis):
        parameter = analysis.method.parameters.get(name)
        if parameter is not None and parameter.schema.get("deprecated"):
            what = f"'{name}' has no effect here: {parameter.description}"
            yield Problem(choices[0].place, "W229", what, "it can be removed")


def _no_adapter(analysis: Analysis) -> Iterator[Problem]:
    """A dtype for models with adapters where there are none."""
    sources = (source for part in analysis.parts for row in part.inventory.rows.values() for source in row)
    if analysis.recipe.lora_merge_dtype and not any(isinstance(source, Adapted) for source in sources):
        place = analysis.recipe.document.key_place(("lora_merge_dtype",))
        what = "'lora_merge_dtype' has no effect: no model of this recipe has an adapter"
        yield Problem(place, "W340", what, "remove it")
