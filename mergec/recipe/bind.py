"""Bind a recipe to its method: the models' roles, the settings' types, and every way in which they do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mergec.errors import Problem, UsageError
from mergec.ops.registry import Method, find_method, methods
from mergec.recipe.binder import Binder
from mergec.recipe.bound import Bound
from mergec.recipe.experts import bind_experts, stray_keys
from mergec.recipe.ids import shared_ids
from mergec.recipe.rules import rule_bounds, rule_problems
from mergec.recipe.schema import Recipe
from mergec.recipe.steps import PIPELINE, Pipeline, read_passes, read_pipeline
from mergec.recipe.vocabulary import vocabulary_problems

REPLAYED = ("dare_linear", "dare_ties", "della", "della_linear")
"""The methods whose draws `random_order: mergekit` is about."""


def bind(recipe: Recipe) -> tuple[tuple[Bound, ...], list[Problem]]:
    """The recipe with typed settings, a `Bound` for each slice, and all problems; none without a known method."""
    if recipe.experts:
        return bind_experts(recipe)
    pipeline, wrong = _pipeline(recipe)
    try:
        method = pipeline.method if pipeline else find_method(recipe.merge_method, also=[PIPELINE])
    except UsageError as error:
        return (), [*wrong, error.at(recipe.document.place(("merge_method",)))]
    passes, found = read_passes(recipe.document, recipe.post or [])
    wrong += found or _refused_passes(recipe, method)
    wrong += stray_keys(recipe)
    if passes.written and not wrong:
        method = passes.after(method)
    binder = Binder(recipe, method, pipeline, passes)
    bounds = binder.bounds()
    found = [*vocabulary_problems(recipe), *_misplaced(recipe, method), *binder.problems]
    wrong += rule_problems(recipe)
    if recipe.rules and not wrong:
        of_rules, more = rule_bounds(recipe, passes)
        bounds += of_rules
        wrong += [problem for problem in more if problem not in found]
    if pipeline and len(pipeline.written) < len(recipe.steps or [None]):  # nobody knows what the others would take
        found = [problem for problem in found if problem.code not in ("E202", "E210", "W210")]
    ordered = sorted([*found, *wrong], key=lambda problem: problem.place)
    problems = [problem for problem in ordered if problem.is_error]
    warnings = tuple(problem for problem in ordered if not problem.is_error)
    return tuple(replace(bound, warnings=warnings) for bound in bounds), problems


def _refused_passes(recipe: Recipe, method: Method) -> list[Problem]:
    """Passes over what has no base, or is no dense model."""
    is_path = method.models[1] == 1  # from the base to the one model, as slerp's: no merge of what models changed
    if not recipe.post or (method.base == "origin" and not method.makes_artifact and not is_path):
        return []
    if is_path:
        what = f"a pass takes what several models changed of a base, and {method.name} merges one model with its base"
    elif method.makes_artifact:
        what = f"{method.name} makes an artifact, and a pass takes one dense model"
    elif method.base == "optional" and recipe.base_model is not None:
        return []
    else:
        what = f"a pass takes what each model changed of a base, and {method.name} has none"
    return [Problem(recipe.document.key_place(("post",)), "E651", what, "remove 'post', or take another method")]


def _pipeline(recipe: Recipe) -> tuple[Pipeline | None, list[Problem]]:
    """The recipe's steps, if its method is to do them."""
    document, steps = recipe.document, recipe.steps
    if recipe.merge_method == PIPELINE and steps is not None:
        return read_pipeline(document, steps)
    if recipe.merge_method == PIPELINE:
        what = "merge_method is 'pipeline', and the recipe has no 'steps'"
        hint = "`mergec new pipeline` prints a recipe to start from"
        return Pipeline(()), [Problem(document.place(("merge_method",)), "E660", what, hint)]
    if steps is None:
        return None, []
    what = f"'steps' belongs to merge_method: pipeline, found merge_method: {recipe.merge_method}"
    return None, [Problem(document.key_place(("steps",)), "E660", what, "remove one of the two")]


def _misplaced(recipe: Recipe, method: Method) -> Iterator[Problem]:
    """Keys of the recipe that do not go with its method, or with each other."""
    yield from shared_ids(recipe)
    yield from _router(recipe, method)
    yield from _random_order(recipe, method)
    document = recipe.document
    for key in ("slices", "modules", "rules", "tensors"):
        if recipe.says(key) and method.makes_artifact:
            what = f"{method.name} makes an artifact of whole models, found '{key}'"
            yield Problem(document.key_place((key,)), "E119", what, "list the models under 'models:'")
    if recipe.shuffle and method.name != "passthrough":
        what = f"'shuffle' stacks the layers that are drawn as they are, found merge_method: {method.name}"
        yield Problem(document.place(("merge_method",)), "E131", what, "write merge_method: passthrough")


def _router(recipe: Recipe, method: Method) -> Iterator[Problem]:
    router, document = recipe.router, recipe.document
    if router is None:
        return
    if not method.makes_artifact:
        makers = ", ".join(name for name, one in methods().items() if one.makes_artifact)
        what, hint = f"{method.name} makes one dense model, which needs no router", f"artifacts are made by {makers}"
        yield Problem(document.key_place(("router",)), "E643", what, f"remove it; {hint}")
    elif router.file is not None and not (document.folder / router.file).is_file():
        what, hint = f"no file '{router.file}' beside the recipe", "paths count from the recipe"
        yield Problem(document.place(("router", "file")), "E644", what, hint)


def _random_order(recipe: Recipe, method: Method) -> Iterator[Problem]:
    """Only what mergekit draws, in its own order, can be drawn as it does."""
    place = recipe.document.key_place(("random_order",))
    if recipe.random_order is None:
        return
    if recipe.compat != "mergekit":
        yield Problem(place, "E130", "random_order: mergekit needs compat: mergekit", "add it, or remove this")
    if method.name not in REPLAYED:
        what = f"mergekit draws nothing for {method.name} that could be drawn again"
        yield Problem(place, "E130", what, f"it is for {', '.join(REPLAYED)}")
    for key in ("slices", "modules", "rules", "post", "tensors"):
        if recipe.says(key):
            what = f"found 'random_order' beside '{key}': the order is that of models merged whole"
            yield Problem(place, "E130", what, "remove one of the two")
