"""Analyse: from a recipe's text to its checked models, stage after stage; whatever is wrong is gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mergec.compiler.align import Alignment
from mergec.compiler.analysis import Analysis, Part
from mergec.compiler.assemble import assemble
from mergec.compiler.experts import like_others
from mergec.compiler.inventory import line_up
from mergec.compiler.mixture import mixture
from mergec.compiler.models import Model, add_adapter, exists, open_models
from mergec.compiler.prefixes import called_alike
from mergec.compiler.stages import stage_model
from mergec.compiler.vocabulary import Chosen, choose, renumbered
from mergec.errors import InputError, Place, Problem, RecipeError, near
from mergec.recipe.bind import bind
from mergec.recipe.bound import Bound
from mergec.recipe.document import Document
from mergec.recipe.load import read_recipe
from mergec.recipe.schema import Recipe
from mergec.recipe.vocabulary import vocabulary_problems


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
        said = _said_otherwise(recipe, chosen)
        self.problems += [one for one in problems if one.code not in said]
        if not parts or problems:
            return None
        needed: dict[str, Analysis] = {}
        for name, stage in stages.items():
            if stage is not None:
                needed |= {**stage.stages, name: stage}
        return Analysis(tuple(parts), models, needed, vocabulary=chosen)

    def _stage_of(self, reference: str, folder: Path) -> str | None:
        """The stage that a reference names, with an adapter or without; what exists is no stage with an adapter."""
        stage, plus, adapter = reference.partition("+")
        is_stage = stage in self.documents and (not plus or (adapter and not exists(reference, folder)))
        return stage if is_stage else None

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


def _said_otherwise(recipe: Recipe, chosen: Chosen | None) -> set[str]:
    """The codes of what a recipe speaks of in words that were found wrong, and said to be."""
    is_misspelt = "tensors" in recipe.document.value and "tensors" not in recipe.model_fields_set
    is_unchosen = recipe.vocabulary is not None and chosen is None
    return {*(["E320"] if is_misspelt else []), *(["E321"] if is_unchosen else [])}


def _assembled(
    recipe: Recipe, bounds: Sequence[Bound], models: Mapping[str, Model], alignment: Alignment | None
) -> tuple[list[Part], list[Problem]]:
    """Every bound with its tensors, as far as its models could be opened."""
    wanted = {one.reference for bound in bounds for one in bound.inputs}
    if bounds and wanted <= models.keys():
        is_mixture = bool(recipe.experts)
        made, problems = mixture(recipe, bounds, models) if is_mixture else assemble(bounds, models, alignment)
        return [Part(*one) for one in made], problems
    opened = [models[name] for name in recipe.references if name in models and (name in wanted or not bounds)]
    found = line_up(opened)[1] if opened and recipe.models else []
    return [], [one for one in found if one.code != "E320" or recipe.tensors == "strict"]
