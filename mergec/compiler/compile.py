"""Compile: one function from a recipe to a plan, and the steps it is made of for those who look closer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mergec.compiler.analyse import analyse
from mergec.compiler.analysis import Analysis, all_models
from mergec.compiler.lower import Lowered, lower
from mergec.compiler.models import Model, is_staged, model_uses
from mergec.compiler.names import few
from mergec.compiler.schedule import DEFAULTS, Options, schedule
from mergec.compiler.share import place_of
from mergec.compiler.sidefiles import artifact_files, side_files
from mergec.compiler.source import Embedded, refs_of
from mergec.errors import InputError, Place, Problem, RecipeError, count
from mergec.graph import Graph, walk
from mergec.io.tensors import TensorRef
from mergec.ops.op import Remark, remark_on
from mergec.plan import Plan, Rows
from mergec.recipe.document import Document
from mergec.recipe.load import read_document
from mergec.recipe.schema import Recipe


def compile_recipe(path: str | Path, overrides: Sequence[tuple[str, str]] = (), options: Options = DEFAULTS) -> Plan:
    """Compile a recipe file. Raises RecipeError with everything that is wrong; reads headers only."""
    return compile_document(read_document(Path(path), overrides), overrides, options)


def compile_document(
    document: Document, overrides: Sequence[tuple[str, str]] = (), options: Options = DEFAULTS
) -> Plan:
    return compile_analysis(analyse(document), overrides, options)


def compile_analysis(analysis: Analysis, overrides: Sequence[tuple[str, str]], options: Options) -> Plan:
    """Lower and lay out a recipe that has been analysed."""
    return compile_with_remarks(analysis, overrides, options)[0]


def compile_with_remarks(
    analysis: Analysis, overrides: Sequence[tuple[str, str]], options: Options
) -> tuple[Plan, list[Problem]]:
    """The same, and what ops find odd about tensors, which is among the plan's warnings too."""
    slots, lowered, graph = lowered_of(analysis)
    text = _with_overrides(analysis.recipe.document.text, overrides)
    remarks = _remarks(analysis, lowered)
    plan = plan_of(analysis, slots, lowered, graph, text, options)
    said = (*analysis.warnings, *remarks)
    named = replace(plan, recipe_path=analysis.recipe.document.file, overrides=tuple(overrides))
    return replace(named, warnings=tuple(map(str, said))), remarks


def lowered_of(analysis: Analysis) -> tuple[list[str], list[Lowered], Graph]:
    """The slot ids and the graphs of a recipe that has been analysed. Raises RecipeError for settings without sense."""
    slots, lowered, graph, problems = lower(analysis.parts, {n: one.parts for n, one in analysis.stages.items()})
    if problems:
        raise RecipeError([*problems, *analysis.warnings])
    return slots, lowered, graph


def _with_overrides(text: str, overrides: Sequence[tuple[str, str]]) -> str:
    """The recipe's text, with the overrides it was run with as comments."""
    added = "".join(f"# run with --set {dotted}={value}\n" for dotted, value in overrides)
    return f"{text.rstrip()}\n{added}" if added else text


def plan_of(
    analysis: Analysis,
    slots: Sequence[str],
    lowered: list[Lowered],
    graph: Graph,
    recipe_text: str,
    options: Options,
) -> Plan:
    """Lay out the outputs, schedule their kinds, and put the plan together."""
    recipe, method = analysis.recipe, analysis.method
    inventories = [part.inventory for part in analysis.parts]
    models = all_models(analysis)
    files = [file for model in models.values() for file in model.checkpoint.files]
    stem = analysis.models[recipe.references[0]].checkpoint.stem
    try:
        plan = schedule(lowered, graph, files, options, stem=stem, place=partial(_place, analysis))
    except InputError as error:
        raise RecipeError([error.at(recipe.document.place(("merge_method",)))]) from None
    if plan.statistics:
        _refuse_other_models(analysis, plan.statistics[0].name)
        _refuse_states(analysis, plan)
    beside, notes = side_files(
        recipe,
        method,
        analysis.models,
        inventories,
        plan.outputs,
        plan.shards,
        recipe_text,
        analysis.vocabulary,
    )
    if method.makes_artifact:
        beside = (*beside, *artifact_files(analysis.parts[0].bound, plan.shards))
    return replace(
        plan,
        name=plan_name(recipe),
        method=f"{recipe.merge_method} (version {method.version})",
        recipe_text=recipe_text,
        slots=tuple(slots),
        models=model_uses(models, _roles(analysis)),
        side_files=beside,
        rows=tuple(_rows(analysis)),
        notes=(
            *(note for model in analysis.models.values() for note in model.notes),
            *(note for one in inventories for note in one.notes),
            *_unread(analysis, lowered),
            *_integers(lowered),
            *notes,
        ),
        checkpoints={name: one.checkpoint for name, one in models.items() if _is_plain(one)},
    )


def _rows(analysis: Analysis) -> Iterator[Rows]:
    """Whence the rows of tensors come that were put in the order of one vocabulary, each model once."""
    for name, part in analysis.of_tensor.items():
        pairs = zip(part.bound.inputs, part.inventory.rows[name], strict=True)
        for reference, source in {one.reference: source for one, source in pairs}.items():
            for origin in source.origins if isinstance(source, Embedded) else ():
                yield Rows(name, reference, *origin)


def _is_plain(model: Model) -> bool:
    """Whether the tensors of a model are those of its files; it is no stage, no adapter and not quantised."""
    return bool(model.checkpoint.files) and model.sources is None


def _refuse_other_models(analysis: Analysis, statistic: str) -> None:
    """A number about each model, taken over all slices, needs the same models in all of them."""
    merged = [part.bound for part in analysis.parts if part.bound.method.name != "passthrough"]
    first = [one.slot for one in merged[0].inputs]
    for bound in merged[1:]:
        if [one.slot for one in bound.inputs] != first:
            what = f"the {statistic} is taken over the whole model, and this part of it has other models than the first"
            hint = "give every part the same models, or set scope: tensor"
            raise RecipeError([Problem(place_of(bound), "E118", what, hint)])


def _refuse_states(analysis: Analysis, plan: Plan) -> None:
    """A number about the whole model is found first, and so are hidden states: neither can wait for the other."""
    if any(kind.kind_class == "states" for kind in plan.kinds):
        what = (
            f"the {plan.statistics[0].name} is taken over the whole model, and a stage makes routers of hidden states"
        )
        hint = "make that stage by a run of its own, or take gate_mode: cheap_embed"
        raise RecipeError([Problem(analysis.recipe.document.place(("merge_method",)), "E367", what, hint)])


def plan_name(recipe: Recipe) -> str:
    """A folder name for the result: the recipe's `name`, or its file's."""
    name = recipe.name or Path(recipe.document.file).stem
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "merge"


def _roles(analysis: Analysis) -> dict[str, str]:
    """What each model is to the merge: where it is listed first, or the base; those of stages after the others."""
    recipe, inputs = analysis.recipe, [one for part in analysis.parts for one in part.bound.inputs]
    roles = {one.reference: one.label for one in reversed(inputs)} | {
        one.reference: one.label for one in inputs if one.is_base
    }
    named = {name: roles.get(name, "donor of config and tokenizer") for name in recipe.references}
    if recipe.base_model and analysis.method.base != "input":
        named[recipe.base_model] = "base_model"
    for stage, one in analysis.stages.items():
        named = {name: f"{stage}: {role}" for name, role in _roles(replace(one, stages={})).items()} | named
    return {name: named[name] for name in sorted(named, key=lambda name: name not in recipe.references)}


def _unread(analysis: Analysis, lowered: list[Lowered]) -> list[str]:
    """Which inputs are not read for which tensors, because their weight or density is 0 there."""
    read: dict[str, set[TensorRef]] = {}
    for one in lowered:
        read.setdefault(one.tensor or one.name, set()).update(one.sources)
    unread: dict[str, list[str]] = {}
    for one in lowered:
        if one.tensor or not _is_float(one):
            continue
        bound, inventory = analysis.of_tensor[one.name]
        for model, ref in zip(bound.inputs, inventory.rows[one.name], strict=True):
            if refs_of(ref) and read[one.name].isdisjoint(refs_of(ref)) and not any(map(is_staged, refs_of(ref))):
                unread.setdefault(model.reference, []).append(one.name)
    ordered = sorted(unread, key=[one.reference for part in analysis.parts for one in part.bound.inputs].index)
    return [f"{reference} is not needed for {_listed(unread[reference])}" for reference in ordered]


def _remarks(analysis: Analysis, lowered: list[Lowered]) -> list[Problem]:
    """What ops find odd about the tensors they are applied to, once per finding."""
    names: dict[int, list[str]] = {}
    for one in lowered:
        names.setdefault(one.root.index, []).append(one.name)
    found: dict[Remark, list[str]] = {}
    for root in {one.root.index: one.root for one in lowered}.values():
        for remark in dict.fromkeys(filter(None, map(remark_on, walk(root)))):
            found.setdefault(remark, []).extend(names[root.index])
    return [Problem(_place(analysis, r.parameter), r.code, f"{r.what}: {_listed(n)}", r.hint) for r, n in found.items()]


def _place(analysis: Analysis, parameter: str) -> Place:
    """Where a parameter is set for all models, or else the method that has it."""
    recipe = analysis.recipe
    return recipe.document.place(("parameters", parameter) if parameter in recipe.parameters else ("merge_method",))


def _is_float(one: Lowered) -> bool:
    return one.root.type.dtype.startswith(("float", "bfloat"))


def _integers(lowered: list[Lowered]) -> list[str]:
    names = [one.name for one in lowered if not one.tensor and not _is_float(one)]
    return [f"integers are copied from the first model, not merged: {_listed(names)}"] if names else []


def _listed(names: list[str]) -> str:
    return f"{count(len(names), 'tensor')}: {few(names)}"
