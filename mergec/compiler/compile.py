"""Compile: one function from a recipe to a plan, and the steps it is made of for those who look closer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mergec.compiler.align import Alignment
from mergec.compiler.assemble import assemble
from mergec.compiler.experts import like_others
from mergec.compiler.inventory import Inventory, Model, add_adapter, is_staged, line_up, model_uses, open_models
from mergec.compiler.lower import Lowered, lower
from mergec.compiler.mixture import mixture
from mergec.compiler.names import Layer, few
from mergec.compiler.prefixes import called_alike
from mergec.compiler.schedule import DEFAULTS, Options, schedule
from mergec.compiler.share import place_of
from mergec.compiler.sidefiles import artifact_files, side_files
from mergec.compiler.source import Embedded, refs_of
from mergec.compiler.stages import stage_model
from mergec.compiler.vocabulary import Chosen, choose, renumbered
from mergec.errors import InputError, Place, Problem, RecipeError, count, near
from mergec.graph import Graph, walk
from mergec.io.tensors import TensorRef
from mergec.ops.op import Remark, remark_on
from mergec.ops.registry import Method
from mergec.plan import Plan, Rows
from mergec.recipe.bind import bind
from mergec.recipe.bound import Bound
from mergec.recipe.document import Document
from mergec.recipe.load import read_document, read_recipe
from mergec.recipe.schema import Recipe
from mergec.recipe.vocabulary import vocabulary_problems


class Part(NamedTuple):
    """A slice or a module of the result, or all of it: its inputs and settings, and the tensors that it makes."""

    bound: Bound
    inventory: Inventory


@dataclass(frozen=True)
class Analysis:
    """A recipe whose every value and every input has been checked; a part for each slice, in their order."""

    parts: tuple[Part, ...]
    models: Mapping[str, Model]
    stages: Mapping[str, Analysis] = field(default_factory=dict)
    """The stages whose results are among the models, by name, each after those that it needs itself."""
    warnings: tuple[Problem, ...] = ()
    vocabulary: Chosen | None = None
    """The vocabulary that the recipe asks for."""

    @property
    def recipe(self) -> Recipe:
        return self.parts[0].bound.recipe

    @property
    def method(self) -> Method:
        return self.parts[0].bound.method

    @cached_property
    def of_tensor(self) -> Mapping[str, Part]:
        """The part that makes each output tensor."""
        return {name: part for part in self.parts for name in part.inventory.rows}

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """The layer of every output tensor that lies in one."""
        return {name: layer for part in self.parts for name, layer in part.inventory.layers.items()}


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


def analyse(document: Document, known: Mapping[str, Model] = MappingProxyType({})) -> Analysis:
    """Check a recipe and open its models; every problem of both, and of its stages, is raised together.

    Models that are `known`, by reference, are not looked for.
    """
    reader = _Reader(document, known)
    analysis = reader.analysis(document)
    if analysis is None or any(problem.is_error for problem in reader.problems):
        raise RecipeError(reader.problems)
    unused = [one for name, one in reader.documents.items() if name not in reader.known]
    warnings = (*(problem for problem in reader.problems if not problem.is_error), *map(_unused_stage, unused))
    return replace(analysis, warnings=warnings)


class _Reader:
    """Analyses documents, each after the stages it refers to, and gathers what is wrong with any."""

    def __init__(self, document: Document, models: Mapping[str, Model]) -> None:
        self.documents = {str(one.value["name"]): one for one in document.stages}
        self._result = document.value.get("name")
        self.known: dict[str, Analysis | None] = {}
        self.problems: list[Problem] = []
        self._models = dict(models)
        self._open: list[str] = []

    def analysis(self, document: Document) -> Analysis | None:
        recipe, problems = read_recipe(document)
        self.problems += problems
        if recipe is None:
            return None
        bounds, found = bind(recipe)
        self.problems += [*found, *(bounds[0].warnings if bounds else ())]
        references = _references(recipe)
        named = {name: its for name in references if (its := self._stage_of(name, document.folder))}
        stages = {one: self._stage(one, references[name]) for name, one in named.items()}
        outside = {name: place for name, place in references.items() if name not in named}
        opened, problems = open_models(outside, document.folder, self._models)
        self.problems += [self._of_stage(one, outside) for one in problems]
        self._models |= opened
        made = [self._made(name, references[name], stages[one]) for name, one in named.items()]
        models, problems = like_others(called_alike(opened | {one.reference: one for one in made if one}))
        self.problems += problems
        if problems:
            return None
        chosen, problems = _vocabulary(recipe, bounds, models)
        self.problems += problems
        if any(problem.is_error for problem in problems):
            return None
        parts, problems = _assembled(recipe, bounds, models, chosen.alignment if chosen else None)
        self.problems += [one for one in problems if one.code != "E321" or chosen or recipe.vocabulary is None]
        if not parts or problems:
            return None
        needed: dict[str, Analysis] = {}
        for name, stage in stages.items():
            if stage is not None:
                needed |= {**stage.stages, name: stage}
        return Analysis(tuple(parts), models, needed, vocabulary=chosen)

    def _stage_of(self, reference: str, folder: Path) -> str | None:
        """The stage that a reference names, with an adapter or without; what exists is no stage with an adapter."""
        stage = reference.partition("+")[0]
        is_whole = stage == reference or not any((start / reference).exists() for start in (folder, Path()))
        return stage if stage in self.documents and is_whole else None

    def _made(self, reference: str, place: Place, stage: Analysis | None) -> Model | None:
        """The result of a stage as a model, with the adapter that the reference names."""
        if stage is None:
            return None
        name, _, adapter = reference.partition("+")
        model = stage_model(name, place, stage)
        try:
            return add_adapter(model, adapter, self.documents[name].folder) if adapter else model
        except InputError as error:
            self.problems.append(error.at(place))
            return None

    def _of_stage(self, problem: Problem, references: Mapping[str, Place]) -> Problem:
        """What is wrong with a model that is not there, where a stage or the result was meant."""
        name = next((name for name, place in references.items() if place == problem.place), "")
        if problem.code != "E300" or not (self.documents or name == self._result):
            return problem
        if name == self._result:
            what = f"'{name}' is the result of this file, which nothing in it can be made of"
            return Problem(problem.place, "E120", what, "a model that is called so needs another name")
        return replace(problem, hint=near(name, self.documents) or problem.hint)

    def _stage(self, name: str, place: Place) -> Analysis | None:
        """A stage that a recipe refers to, analysed once."""
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            what, hint = f"stages need each other's results: {circle}", "a model that is called so needs another name"
            self.problems.append(Problem(place, "E120", what, hint))
            return None
        if name not in self.known:
            self._open.append(name)
            self.known[name] = self.analysis(self.documents[name])
            self._open.pop()
            made = self.known[name]
            if made and made.method.makes_artifact:
                what = f"{made.method.name} makes an artifact, and a stage must make one dense model"
                where = made.recipe.document.place(("merge_method",))
                self.problems.append(Problem(where, "E121", what, "run it by itself and materialize its tasks"))
        return self.known[name]


def _unused_stage(document: Document) -> Problem:
    name = document.value["name"]
    hint = "name it as a model of another recipe of this file, or remove it"
    return Problem(document.place(("name",)), "W120", f"nothing needs the stage '{name}', so it is not made", hint)


def all_models(analysis: Analysis) -> dict[str, Model]:
    """The models of a recipe and of its stages, by reference."""
    return {name: model for one in (*analysis.stages.values(), analysis) for name, model in one.models.items()}


def _references(recipe: Recipe) -> dict[str, Place]:
    """Every model a recipe names, and where it does so first."""
    document = recipe.document
    named = [*recipe.bases, *recipe.copies, *(((*path, "model"), entry.model) for path, entry in recipe.entries)]
    named += [((*path, "source_model"), entry.source_model) for path, entry in recipe.all_experts]
    places = {reference: document.place(path) for path, reference in reversed(named)}
    return {name: places[name] for name in recipe.references}


def _vocabulary(
    recipe: Recipe, bounds: Sequence[Bound], models: Mapping[str, Model]
) -> tuple[Chosen | None, list[Problem]]:
    """The vocabulary of the result, if its models could be opened; that of a mixture is its base's."""
    is_open = bool(bounds) and set(recipe.references) <= models.keys()
    if recipe.experts or not is_open or any(vocabulary_problems(recipe)):
        return None, []
    if recipe.vocabulary is None:
        return None, list(renumbered([models[reference] for reference in recipe.references]))
    return choose(recipe, {one.reference for bound in bounds for one in bound.inputs}, models)


def _assembled(
    recipe: Recipe, bounds: Sequence[Bound], models: Mapping[str, Model], alignment: Alignment | None
) -> tuple[list[Part], list[Problem]]:
    """Every bound with its tensors, as far as its models could be opened."""
    wanted = {one.reference for bound in bounds for one in bound.inputs}
    if bounds and wanted <= models.keys() and recipe.experts:
        made, problems = mixture(recipe, bounds, models)
        return [Part(*one) for one in made], problems
    if bounds and wanted <= models.keys():
        made, problems = assemble(bounds, models, alignment)
        return [Part(*one) for one in made], problems
    opened = [models[name] for name in recipe.references if name in models and (name in wanted or not bounds)]
    found = line_up(opened)[1] if opened and recipe.models else []
    allowed = {"E320" if recipe.tensors != "strict" else "", "E321" if recipe.vocabulary else ""}
    return [], [one for one in found if one.code not in allowed]


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
            *(d for one in inventories for d in one.dropped),
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
