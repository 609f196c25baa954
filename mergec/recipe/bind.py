"""Bind a recipe to its method: the models' roles, the settings' types, and every way in which they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergec.errors import Place, Problem, UsageError, count, did_you_mean
from mergec.ops.registry import Method, Parameter, find_method, methods
from mergec.recipe.document import Path as DocumentPath
from mergec.recipe.schema import Recipe, RouterEntry
from mergec.recipe.settings import Choice, read_setting
from mergec.recipe.steps import PIPELINE, Pipeline, read_pipeline


@dataclass(frozen=True)
class Input:
    """A model's part in the merge: which entry names it, whether deltas are taken from it, and its own settings.

    `slot` is its slot id: what random numbers and plan keys know it by, wherever it stands in the recipe.
    """

    reference: str
    slot: str
    place: Place
    label: str
    is_base: bool
    settings: Mapping[str, tuple[Choice, ...]]


@dataclass(frozen=True)
class Bound:
    """A recipe that fits its method.

    `inputs` are in the order in which a method takes them: the base first, if any, then the models in the order of
    their slot ids where that order has no meaning (a commutative method), else as the recipe lists them.
    """

    recipe: Recipe
    method: Method
    inputs: tuple[Input, ...]
    settings: Mapping[str, tuple[Choice, ...]]
    warnings: tuple[Problem, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """A name for what each model beside the base is good at: the last part of its reference, made unique."""
        return task_names([one.reference for one in self.inputs if not one.is_base])

    @property
    def router(self) -> RouterEntry:
        return self.recipe.router or RouterEntry()

    @property
    def is_mergekit(self) -> bool:
        return self.recipe.compat == "mergekit"


def task_names(references: Sequence[str]) -> tuple[str, ...]:
    """Names fit for files, from references to models.

    >>> task_names(["models/math", "org/math@v2", "./code/"])
    ('math', 'math-2', 'code')
    """
    names: list[str] = []
    for reference in references:
        last = re.split(r"[/\\]", reference.rstrip("/\\"))[-1].partition("@")[0]
        stem = re.sub(r"[^\w.-]+", "-", last.removesuffix(".safetensors")).strip("-.") or "task"
        taken = {name.lower() for name in names}  # some file systems do not tell a from A
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}").lower() in taken:
            number += 1
        names.append(name)
    return tuple(names)


def bind(recipe: Recipe) -> tuple[Bound | None, list[Problem]]:
    """The recipe with typed settings, and all problems; None if the method is unknown."""
    pipeline, wrong = _pipeline(recipe)
    try:
        method = pipeline.method if pipeline else find_method(recipe.merge_method, also=[PIPELINE])
    except UsageError as error:
        return None, [*wrong, error.at(recipe.document.place(("merge_method",)))]
    binder = _Binder(recipe, method, pipeline)
    binder.check_duplicates()
    binder.check_ids()
    binder.check_tokenizer_source()
    binder.check_router()
    inputs = binder.inputs()
    settings = binder.settings(recipe.parameters, ("parameters",), shared=True)
    if pipeline:
        settings |= pipeline.own
    if pipeline and len(pipeline.written) < len(recipe.steps or [None]):  # nobody knows what the others would take
        binder.problems = [problem for problem in binder.problems if problem.code not in ("E202", "E210", "W210")]
    binder.problems += wrong
    problems = [problem for problem in binder.problems if problem.is_error]
    warnings = tuple(problem for problem in binder.problems if not problem.is_error)
    return Bound(recipe, method, tuple(inputs), settings, warnings), problems


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


class _Binder:
    def __init__(self, recipe: Recipe, method: Method, pipeline: Pipeline | None) -> None:
        self.recipe = recipe
        self.method = method
        self.pipeline = pipeline
        self.parameters = {n: p for n, p in method.parameters.items() if not (pipeline and n in pipeline.own)}
        self.document = recipe.document
        self.problems: list[Problem] = []

    def inputs(self) -> list[Input]:
        base = self.recipe.base_model
        takes_base = self.method.base == "origin" or (self.method.base == "optional" and base is not None)
        models = []
        for number, entry in enumerate(self.recipe.models):
            settings = self.settings(entry.parameters, ("models", number, "parameters"), shared=False)
            if takes_base and entry.model == base:
                self._note_base_settings(settings, ("models", number))
            else:
                place = self.document.place(("models", number, "model"))
                models.append(Input(entry.model, entry.slot, place, f"models[{number}]", False, settings))
        place = self.document.place(("base_model",))
        if base is None and takes_base:
            what = f"{self.method.name} takes deltas from a base, and the recipe has no 'base_model'"
            self.problems.append(Problem(self.document.place(("merge_method",)), "E210", what, "add base_model: MODEL"))
        elif base is not None and takes_base:
            models.insert(0, Input(base, self.recipe.slot(base), place, "base_model", True, {}))
        elif base is not None and base not in [entry.model for entry in self.recipe.models]:
            self._note_unlisted_base(place)
            models.append(Input(base, base, place, "base_model", False, {}))
        self._check_count(sum(not model.is_base for model in models))
        if self.method.commutative and self.recipe.compat is None:  # mergekit adds up in the order of the recipe
            models.sort(key=lambda model: (not model.is_base, model.slot))
        return models

    def _note_unlisted_base(self, place: Place) -> None:
        what = f"base_model is not listed under 'models', so {self.method.name} takes it as one more model"
        hint = "list it to give it settings of its own, or remove it"
        self.problems.append(Problem(place, "W210", what, hint))

    def _note_base_settings(self, settings: Mapping[str, Any], path: DocumentPath) -> None:
        if settings:
            what = f"settings of the base model have no effect in {self.method.name}: deltas are taken from it"
            self.problems.append(Problem(self.document.place((*path, "parameters")), "W211", what, "remove them"))

    def check_duplicates(self) -> None:
        first: dict[str, int] = {}
        for number, entry in enumerate(self.recipe.models):
            if entry.model in first:
                place = self.document.place(("models", number, "model"))
                before = self.document.place(("models", first[entry.model], "model"))
                what = f"the model '{entry.model}' is listed twice, first on line {before.line}"
                self.problems.append(Problem(place, "E212", what, "add up the weights and list it once"))
            first.setdefault(entry.model, number)

    def check_ids(self) -> None:
        """Refuse a slot id that stands for two models; a reference is the id of a model that has none."""
        base = self.recipe.base_model
        first = {self.recipe.slot(base): base} if base else {}
        for number, entry in enumerate(self.recipe.models):
            known = first.setdefault(entry.slot, entry.model)
            if known != entry.model:
                place = self.document.place(("models", number, "id" if entry.id else "model"))
                what = f"'{entry.slot}' is the id of two models, '{known}' and '{entry.model}'"
                self.problems.append(Problem(place, "E610", what, "give each model an id of its own"))

    def check_tokenizer_source(self) -> None:
        source = self.recipe.tokenizer_source
        place = self.document.place(("tokenizer_source",))
        if source is None or source in self.recipe.references:
            return
        if source == "base" and self.recipe.base_model is None:
            what = "tokenizer_source is 'base', and the recipe has no 'base_model'"
            self.problems.append(Problem(place, "E213", what, "add base_model: MODEL, or name one of the models"))
        elif source == "union":
            what = "found 'union' for 'tokenizer_source', which is not supported yet, expected 'base' or a model"
            self.problems.append(Problem(place, "E105", what, "all models must share one vocabulary for now"))
        elif source != "base":
            hint = did_you_mean(source, ["base", *self.recipe.references])
            what = f"found '{source}' for 'tokenizer_source', expected 'base' or a model of this recipe"
            self.problems.append(Problem(place, "E213", what, hint))

    def check_router(self) -> None:
        router = self.recipe.router
        if router is None:
            return
        if not self.method.makes_artifact:
            makers = ", ".join(name for name, one in methods().items() if one.makes_artifact)
            what = f"{self.method.name} makes one dense model, which needs no router"
            place, hint = self.document.key_place(("router",)), f"remove it; artifacts are made by {makers}"
            self.problems.append(Problem(place, "E643", what, hint))
        elif router.file is not None and not (Path(self.document.file).parent / router.file).is_file():
            place = self.document.place(("router", "file"))
            self.problems.append(
                Problem(place, "E644", f"no file '{router.file}' beside the recipe", "paths count from the recipe")
            )

    def _check_count(self, found: int) -> None:
        low, high = self.method.models
        if found >= low and (high is None or found <= high):
            return
        bound = "exactly" if low == high else "at least" if found < low else "at most"
        wanted = count(low if found < low or high is None else high, "model")
        beside = " beside the base" if self.method.base != "input" else ""
        what = f"{self.method.name} merges {bound} {wanted}{beside}, found {count(found, 'model')}"
        hint = "add more under 'models:'" if found < low else "remove the others"
        self.problems.append(Problem(self.document.place(("models",)), "E211", what, hint))

    def settings(self, written: Mapping[str, Any], path: DocumentPath, shared: bool) -> dict[str, tuple[Choice, ...]]:
        result: dict[str, tuple[Choice, ...]] = {}
        for name, value in written.items():
            parameter = self.parameters.get(name)
            if self.pipeline and parameter is None and self.pipeline.setters(name):
                self._hidden(name, self.pipeline, (*path, name))
            elif parameter is None:
                self._unknown(name, (*path, name))
            elif not parameter.per_model and not shared:
                self._misplaced(parameter, (*path, name))
            else:
                setting = read_setting(parameter, value, self.document, (*path, name))
                if isinstance(setting, list):
                    self.problems += setting
                else:
                    result[name] = setting
        return result

    def _hidden(self, name: str, pipeline: Pipeline, path: DocumentPath) -> None:
        """A setting outside of steps that each set their own."""
        own = pipeline.setters(name)[0].settings[name][0].place
        what = f"'{name}' has no effect here: the step that takes it has its own, on line {own.line}"
        self.problems.append(Problem(self.document.key_place(path), "E663", what, "remove one of the two"))

    def _unknown(self, name: str, path: DocumentPath) -> None:
        if self.pipeline:
            what = f"no step of the pipeline has a parameter '{name}'"
            self.problems.append(Problem(self.document.key_place(path), "E202", what, self.pipeline.hint(name)))
            return
        what = f"{self.method.name} has no parameter '{name}'"
        others = [other.name for other in methods().values() if name in other.parameters]
        if others and not did_you_mean(name, self.method.parameters).startswith("did"):
            hint = f"it belongs to {', '.join(others[:3])}; mergekit ignores it here, so removing it changes nothing"
        else:
            hint = did_you_mean(name, self.method.parameters)
        code = "W202" if self.recipe.compat else "E202"
        self.problems.append(Problem(self.document.key_place(path), code, what, hint))

    def _misplaced(self, parameter: Parameter, path: DocumentPath) -> None:
        what = f"'{parameter.name}' holds for the whole merge and has no effect under one model"
        code = "W203" if self.recipe.compat else "E203"
        self.problems.append(
            Problem(self.document.key_place(path), code, what, "move it to the top-level 'parameters:'")
        )
