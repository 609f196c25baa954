"""Compile: one function from a recipe to a plan, and the steps it is made of for those who look closer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mergec.compiler.inventory import Inventory, Model, line_up, model_uses, open_models
from mergec.compiler.lower import Lowered, lower
from mergec.compiler.names import fold
from mergec.compiler.schedule import DEFAULT_SHARD_BYTES, lay_out, make_kind, promise_memory
from mergec.compiler.sidefiles import artifact_files, side_files
from mergec.compiler.statistics import feeds, rounds, statistics
from mergec.errors import InputError, Place, Problem, RecipeError, count
from mergec.graph import Graph, Plan, SourceFile, walk
from mergec.io.tensors import TensorRef
from mergec.ops.op import Remark, remark_on
from mergec.recipe.bind import Bound, bind
from mergec.recipe.document import Document
from mergec.recipe.load import read_document, read_recipe
from mergec.recipe.schema import Recipe


@dataclass(frozen=True)
class Options:
    """What a run may choose without changing a tensor: layout, workers, memory."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    workers: int | None = None
    limit_bytes: int | None = None
    allow_nonfinite: bool = False


@dataclass(frozen=True)
class Analysis:
    """A recipe whose every value and every input has been checked."""

    bound: Bound
    models: Mapping[str, Model]
    inventory: Inventory


def compile_recipe(path: str | Path, overrides: Sequence[tuple[str, str]] = (), options: Options = Options()) -> Plan:
    """Compile a recipe file. Raises RecipeError with everything that is wrong; reads headers only."""
    return compile_document(read_document(Path(path), overrides), overrides, options)


def compile_document(
    document: Document, overrides: Sequence[tuple[str, str]] = (), options: Options = Options()
) -> Plan:
    return compile_analysis(analyse(document), overrides, options)


def compile_analysis(analysis: Analysis, overrides: Sequence[tuple[str, str]], options: Options) -> Plan:
    """Lower and lay out a recipe that has been analysed."""
    lowered, graph, problems = lower(analysis.bound, analysis.inventory)
    if problems:
        raise RecipeError([*problems, *analysis.bound.warnings])
    plan = plan_of(analysis, lowered, graph, _with_overrides(analysis.bound.recipe.document.text, overrides), options)
    return replace(plan, recipe_path=analysis.bound.recipe.document.file, overrides=tuple(overrides))


def analyse(document: Document) -> Analysis:
    """Check a recipe and open its models; every problem of both is raised together."""
    recipe, problems = read_recipe(document)
    if recipe is None:
        raise RecipeError(problems)
    bound, found = bind(recipe)
    problems += found
    models, found = open_models(_references(recipe), Path(document.file).parent)
    problems += found
    inventory, found = _line_up(recipe, bound, models)
    problems += found
    if bound is None or inventory is None or problems:
        raise RecipeError([*problems, *(bound.warnings if bound else ())])
    return Analysis(bound, models, inventory)


def _references(recipe: Recipe) -> dict[str, Place]:
    """Every model a recipe names, and where it does so first."""
    document = recipe.document
    places = {entry.model: document.place(("models", i, "model")) for i, entry in reversed([*enumerate(recipe.models)])}
    if recipe.base_model is not None:
        places[recipe.base_model] = document.place(("base_model",))
    return {name: places[name] for name in recipe.references}


def _line_up(
    recipe: Recipe, bound: Bound | None, models: Mapping[str, Model]
) -> tuple[Inventory | None, list[Problem]]:
    wanted = [one.reference for one in bound.inputs] if bound else list(recipe.references)
    opened = [models[name] for name in wanted if name in models]
    return line_up(opened) if opened else (None, [])


def _with_overrides(text: str, overrides: Sequence[tuple[str, str]]) -> str:
    """The recipe's text, with the overrides it was run with as comments."""
    added = "".join(f"# run with --set {dotted}={value}\n" for dotted, value in overrides)
    return f"{text.rstrip()}\n{added}" if added else text


def plan_of(analysis: Analysis, lowered: list[Lowered], graph: Graph, recipe_text: str, options: Options) -> Plan:
    """Lay out the outputs, schedule their kinds, and put the plan together."""
    recipe, inventory = analysis.bound.recipe, analysis.inventory
    roots = {one.root.index: one.root for one in lowered}
    fed = feeds(list(roots.values()), lambda parameter: _place(analysis, parameter))
    turns = rounds(fed)
    kinds = [make_kind(root, graph.nodes, turns) for root in roots.values()]
    numbers = {index: number for number, index in enumerate(roots)}
    outputs, shards = lay_out(lowered, [numbers[one.root.index] for one in lowered], options.shard_bytes)
    try:
        memory = promise_memory(kinds, outputs, options.workers, options.limit_bytes, len(fed))
    except InputError as error:
        raise RecipeError([error.at(recipe.document.place(("merge_method",)))]) from None
    files, notes = side_files(recipe, analysis.bound.method, analysis.models, inventory, outputs, shards, recipe_text)
    if analysis.bound.method.makes_artifact:
        files = (*files, *artifact_files(analysis.bound, shards))
    return Plan(
        name=plan_name(recipe),
        method=f"{recipe.merge_method} (version {analysis.bound.method.version})",
        recipe_text=recipe_text,
        slots=tuple(one.slot for one in analysis.bound.inputs),
        identity=analysis.bound.method.identity,
        models=model_uses(analysis.models, _roles(analysis.bound)),
        files=_source_files(analysis, lowered),
        nodes=tuple(graph.nodes),
        kinds=tuple(kinds),
        outputs=tuple(outputs),
        shards=tuple(shards),
        side_files=files,
        memory=memory,
        notes=(*inventory.dropped, *_unread(analysis.bound, inventory, lowered), *_integers(lowered), *notes),
        warnings=tuple(map(str, [*analysis.bound.warnings, *_remarks(analysis, lowered)])),
        allow_nonfinite=options.allow_nonfinite,
        statistics=statistics(fed, turns, outputs),
    )


def plan_name(recipe: Recipe) -> str:
    """A folder name for the result: the recipe's `name`, or its file's."""
    name = recipe.name or Path(recipe.document.file).stem
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "merge"


def _roles(bound: Bound) -> dict[str, str]:
    roles = {one.reference: one.label for one in bound.inputs}
    named = {name: roles.get(name, "donor of config and tokenizer") for name in bound.recipe.references}
    if bound.recipe.base_model and bound.method.base != "input":
        named[bound.recipe.base_model] = "base_model"
    return named


def _source_files(analysis: Analysis, lowered: list[Lowered]) -> tuple[SourceFile, ...]:
    used = {ref.file for one in lowered for ref in one.sources}
    files = [file for model in analysis.models.values() for file in model.checkpoint.files if file.path in used]
    return tuple({file.path: SourceFile(**asdict(file)) for file in files}.values())


def _unread(bound: Bound, inventory: Inventory, lowered: list[Lowered]) -> list[str]:
    """Which inputs are not read for which tensors, because their weight or density is 0 there."""
    read: dict[str, set[TensorRef]] = {}
    for one in lowered:
        read.setdefault(one.tensor or one.name, set()).update(one.sources)
    unread: dict[int, list[str]] = {}
    for one in lowered:
        if one.tensor or not _is_float(one):
            continue
        for slot, ref in enumerate(inventory.rows[one.name]):
            if ref not in read[one.name]:
                unread.setdefault(slot, []).append(one.name)
    return [
        f"{bound.inputs[slot].reference} is not needed for {_listed(names)}" for slot, names in sorted(unread.items())
    ]


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
    recipe = analysis.bound.recipe
    return recipe.document.place(("parameters", parameter) if parameter in recipe.parameters else ("merge_method",))


def _is_float(one: Lowered) -> bool:
    return one.root.type.dtype.startswith(("float", "bfloat"))


def _integers(lowered: list[Lowered]) -> list[str]:
    names = [one.name for one in lowered if not one.tensor and not _is_float(one)]
    return [f"integers are copied from the first model, not merged: {_listed(names)}"] if names else []


def _listed(names: list[str]) -> str:
    folded = fold(names)
    more = f" and {len(folded) - 3} more groups" if len(folded) > 3 else ""
    return f"{count(len(names), 'tensor')}: {', '.join(folded[:3])}{more}"
