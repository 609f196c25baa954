"""Bind a recipe to its method: the models' roles, the settings' types, and every way in which they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergec.errors import Place, Problem, UsageError, count, did_you_mean, near
from mergec.ops.registry import Method, Parameter, find_method, methods
from mergec.recipe.document import Path as DocumentPath
from mergec.recipe.rules import rule_bounds, rule_problems
from mergec.recipe.schema import ModelEntry, Recipe, RouterEntry, SliceEntry, SourceEntry
from mergec.recipe.settings import Choice, over, read_setting
from mergec.recipe.steps import PIPELINE, Passes, Pipeline, read_passes, read_pipeline
from mergec.recipe.vocabulary import vocabulary_problems

REPLAYED = ("dare_linear", "dare_ties", "della", "della_linear")
"""The methods whose draws `random_order: mergekit` is about."""


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
    layers: range | None = None
    """Which of its layers, in a slice; None for all of them."""


@dataclass(frozen=True)
class Rule:
    """The tensors that a bound is of, by a pattern for their names, and where the recipe says so."""

    match: str
    place: Place
    is_copy: bool


@dataclass(frozen=True)
class Bound:
    """A recipe, or one slice or module of it, that fits its method.

    `inputs` are in the order in which a method takes them: the base first, if any, then the models in the order of
    their slot ids where that order has no meaning (a commutative method), else as the recipe lists them. `settings`
    are those of the slice, then of the module, then of the recipe; `module` is "" where it is not of a module.
    """

    recipe: Recipe
    method: Method
    inputs: tuple[Input, ...]
    settings: Mapping[str, tuple[Choice, ...]]
    warnings: tuple[Problem, ...]
    module: str = ""
    place: Place | None = None
    """Where the slice stands; None where the models are merged whole."""
    rule: Rule | None = None

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


def path_label(path: DocumentPath) -> str:
    """A path as people write it: models[0], slices[1].sources[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def bind(recipe: Recipe) -> tuple[tuple[Bound, ...], list[Problem]]:
    """The recipe with typed settings, a `Bound` for each slice, and all problems; none without a known method."""
    from mergec.recipe import experts

    if recipe.experts:
        return experts.bind_experts(recipe)
    pipeline, wrong = _pipeline(recipe)
    try:
        method = pipeline.method if pipeline else find_method(recipe.merge_method, also=[PIPELINE])
    except UsageError as error:
        return (), [*wrong, error.at(recipe.document.place(("merge_method",)))]
    passes, found = read_passes(recipe.document, recipe.post or [])
    wrong += found or _refused_passes(recipe, method)
    wrong += experts.stray_keys(recipe)
    if passes.written and not wrong:
        method = passes.after(method)
    binder = Binder(recipe, method, pipeline, passes)
    binder.check_ids()
    binder.problems += vocabulary_problems(recipe)
    binder.check_router()
    binder.check_random_order()
    binder.check_whole()
    binder.check_shuffle()
    bounds = binder.bounds()
    wrong += rule_problems(recipe)
    if recipe.rules and not wrong:
        of_rules, found = rule_bounds(recipe, lambda one, rule: Binder(recipe, one, None, passes, rule))
        bounds += of_rules
        wrong += [problem for problem in found if problem not in binder.problems]
    if pipeline and len(pipeline.written) < len(recipe.steps or [None]):  # nobody knows what the others would take
        binder.problems = [problem for problem in binder.problems if problem.code not in ("E202", "E210", "W210")]
    binder.problems += wrong
    ordered = sorted(binder.problems, key=lambda problem: problem.place)
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


class Binder:
    """Reads a recipe's models and settings as a method takes them; `rule` is the number of the rule that names it."""

    def __init__(
        self, recipe: Recipe, method: Method, pipeline: Pipeline | None, passes: Passes, rule: int | None = None
    ) -> None:
        self.recipe = recipe
        self.method = method
        self.pipeline = pipeline
        self.own = {**(pipeline.own if pipeline else {}), **passes.own}
        self.parameters = {name: one for name, one in method.parameters.items() if name not in self.own}
        self.document = recipe.document
        self.problems: list[Problem] = []
        self.rule = rule

    def bounds(self) -> list[Bound]:
        """The models merged whole, or a bound for each slice of each module."""
        recipe = self.recipe
        top = self.settings(recipe.parameters, ("parameters",), shared=True)
        top |= self.own
        bounds = self._held((), recipe.models, recipe.slices, top, "")
        for name, module in recipe.modules.items():
            path = ("modules", name)
            settings = over(self.settings(module.parameters, (*path, "parameters"), shared=True), top)
            bounds += self._held(path, module.models, module.slices, settings, name)
        return bounds

    def _held(
        self,
        path: DocumentPath,
        models: Sequence[ModelEntry],
        slices: Sequence[SliceEntry],
        settings: Mapping[str, tuple[Choice, ...]],
        module: str,
    ) -> list[Bound]:
        """What a recipe or a module holds: models, or slices."""
        if models:
            inputs = self.inputs((*path, "models"), models, self.recipe.base_model, appended=True)
            return [Bound(self.recipe, self.method, tuple(inputs), settings, (), module)]
        bounds = []
        for number, one in enumerate(slices):
            here = (*path, "slices", number)
            own = over(self.settings(one.parameters, (*here, "parameters"), shared=True), settings)
            base = one.base_model or self.recipe.base_model
            inputs = self.inputs((*here, "sources"), one.sources, base, appended=False)
            place = self.document.place(here)
            self._check_lengths(inputs)
            bounds.append(Bound(self.recipe, self.method, tuple(inputs), own, (), module, place))
        return bounds

    def inputs(
        self, path: DocumentPath, entries: Sequence[ModelEntry], base: str | None, appended: bool
    ) -> list[Input]:
        """The models of one list in the method's order; a base that is not listed is `appended`, but not to a slice."""
        takes_base = self.method.base == "origin" or (self.method.base == "optional" and base is not None)
        self._check_duplicates(path, entries)
        models, listed = [], None
        for number, entry in enumerate(entries):
            settings = self.settings(entry.parameters, (*path, number, "parameters"), shared=False)
            layers = range(*entry.layer_range) if isinstance(entry, SourceEntry) else None
            place = self.document.place((*path, number, "model"))
            if takes_base and entry.model == base and listed is None:
                self._note_base_settings(settings, (*path, number))
                listed = Input(base, entry.slot, place, "base_model", True, {}, layers)
            else:
                slot = self._slot(entry, entries[:number])
                models.append(Input(entry.model, slot, place, path_label((*path, number)), False, settings, layers))
        place = self.document.place(("base_model",))
        if base is None and takes_base:
            what = f"{self.method.name} takes deltas from a base, and the recipe has no 'base_model'"
            self._problem(self._named, "E210", what, "add base_model: MODEL")
        elif base is not None and takes_base and (appended or listed):
            whole = Input(base, self.recipe.slot(base), place, "base_model", True, {})
            models.insert(0, listed if listed and not appended else whole)
        elif base is not None and takes_base:
            what = f"{self.method.name} takes deltas from '{base}', which is not among the sources of this slice"
            hint = f"add `- {{model: {base}, layer_range: ...}}`"
            self._problem(self.document.place(path), "E111", what, hint)
        elif base is not None and appended and not self.recipe.rules and base not in [one.model for one in entries]:
            self._note_unlisted_base(place)
            models.append(Input(base, base, place, "base_model", False, {}))
        self._check_count(sum(not model.is_base for model in models), path)
        if self.method.commutative and self.recipe.compat is None:  # mergekit adds up in the order of the recipe
            models.sort(key=lambda model: (not model.is_base, model.slot))
        return models

    def whole(self, reference: str, place: Place) -> Input:
        """A model that is taken as it is."""
        return Input(reference, self.recipe.slot(reference), place, path_label(("rules", self.rule or 0)), False, {})

    def bound(self, inputs: Sequence[Input], settings: Mapping[str, tuple[Choice, ...]]) -> Bound:
        """What a rule takes."""
        number = self.rule or 0
        entry = self.recipe.rules[number]
        rule = Rule(entry.match, self.document.place(("rules", number)), entry.method is None and not entry.drop)
        return Bound(self.recipe, self.method, tuple(inputs), settings, (), rule=rule)

    def _slot(self, entry: ModelEntry, before: Sequence[ModelEntry]) -> str:
        """The slot id of an entry; layers of one model merged with others of its own are told apart."""
        number = 1 + sum(other.slot == entry.slot for other in before)
        return entry.slot if number == 1 else f"{entry.slot} #{number}"

    def _check_lengths(self, inputs: Sequence[Input]) -> None:
        """Sources of a slice are merged layer by layer, so they must have equally many."""
        for one in inputs:
            first, own = inputs[0].layers, one.layers
            if own is not None and not own:
                what = f"the layer_range [{own.start}, {own.stop}] of '{one.reference}' holds no layer"
                self._problem(one.place, "E112", what, "the second number is the end, which is not included")
            elif own and first and len(own) != len(first):
                what = f"{count(len(own), 'layer')} of '{one.reference}', {len(first)} of '{inputs[0].reference}'"
                hint = "the sources of a slice are merged layer by layer: give all the same number"
                self._problem(one.place, "E113", what, hint)

    def _problem(self, place: Place, code: str, what: str, hint: str) -> None:
        self.problems.append(Problem(place, code, what, hint))

    def _note_unlisted_base(self, place: Place) -> None:
        what = f"base_model is not listed under 'models', so {self.method.name} takes it as one more model"
        hint = "list it to give it settings of its own, or remove it"
        self.problems.append(Problem(place, "W210", what, hint))

    def _note_base_settings(self, settings: Mapping[str, Any], path: DocumentPath) -> None:
        if settings:
            what = f"settings of the base model have no effect in {self.method.name}: deltas are taken from it"
            self.problems.append(Problem(self.document.place((*path, "parameters")), "W211", what, "remove them"))

    def _check_duplicates(self, path: DocumentPath, entries: Sequence[ModelEntry]) -> None:
        first: dict[Any, int] = {}
        for number, entry in enumerate(entries):
            key = (entry.model, *(entry.layer_range if isinstance(entry, SourceEntry) else ()))
            if key in first:
                place = self.document.place((*path, number, "model"))
                before = self.document.place((*path, first[key], "model"))
                what = f"the model '{entry.model}' is listed twice, first on line {before.line}"
                self._problem(place, "E212", what, "add up the weights and list it once")
            first.setdefault(key, number)

    def check_ids(self) -> None:
        """Refuse a slot id that stands for two models; a reference is the id of a model that has none."""
        first = {self.recipe.slot(base): base for _, base in self.recipe.bases}
        for path, entry in self.recipe.entries:
            known = first.setdefault(entry.slot, entry.model)
            if known != entry.model:
                place = self.document.place((*path, "id" if entry.id else "model"))
                what = f"'{entry.slot}' is the id of two models, '{known}' and '{entry.model}'"
                self.problems.append(Problem(place, "E610", what, "give each model an id of its own"))

    def check_random_order(self) -> None:
        """Only what mergekit draws, in its own order, can be drawn as it does."""
        recipe, place = self.recipe, self.document.key_place(("random_order",))
        if recipe.random_order is None:
            return
        if recipe.compat != "mergekit":
            self._problem(place, "E130", "random_order: mergekit needs compat: mergekit", "add it, or remove this")
        if self.method.name not in REPLAYED:
            what = f"mergekit draws nothing for {self.method.name} that could be drawn again"
            self._problem(place, "E130", what, f"it is for {', '.join(REPLAYED)}")
        for key in ("slices", "modules", "rules", "post", "tensors"):
            if recipe.says(key):
                what = f"found 'random_order' beside '{key}': the order is that of models merged whole"
                self._problem(place, "E130", what, "remove one of the two")

    def check_router(self) -> None:
        router = self.recipe.router
        if router is None:
            return
        if not self.method.makes_artifact:
            makers = ", ".join(name for name, one in methods().items() if one.makes_artifact)
            what = f"{self.method.name} makes one dense model, which needs no router"
            place, hint = self.document.key_place(("router",)), f"remove it; artifacts are made by {makers}"
            self.problems.append(Problem(place, "E643", what, hint))
        elif router.file is not None and not (self.document.folder / router.file).is_file():
            place = self.document.place(("router", "file"))
            self.problems.append(
                Problem(place, "E644", f"no file '{router.file}' beside the recipe", "paths count from the recipe")
            )

    def check_shuffle(self) -> None:
        """Layers that are drawn are stacked as they are."""
        if self.recipe.shuffle and self.method.name != "passthrough":
            what = f"'shuffle' stacks the layers that are drawn as they are, found merge_method: {self.method.name}"
            self._problem(self.document.place(("merge_method",)), "E131", what, "write merge_method: passthrough")

    def check_whole(self) -> None:
        """An artifact's tasks are whole models."""
        for key in ("slices", "modules", "rules", "tensors"):
            if self.recipe.says(key) and self.method.makes_artifact:
                what = f"{self.method.name} makes an artifact of whole models, found '{key}'"
                self._problem(self.document.key_place((key,)), "E119", what, "list the models under 'models:'")

    @property
    def _named(self) -> Place:
        """Where the method is named."""
        return self.document.place(("merge_method",) if self.rule is None else ("rules", self.rule, "method"))

    def _check_count(self, found: int, path: DocumentPath) -> None:
        low, high = self.method.models
        if found >= low and (high is None or found <= high):
            return
        bound = "exactly" if low == high else "at least" if found < low else "at most"
        wanted = count(low if found < low or high is None else high, "model")
        beside = " beside the base" if self.method.base != "input" else ""
        what = f"{self.method.name} merges {bound} {wanted}{beside}, found {count(found, 'model')}"
        hint = f"add more under '{path[-1]}:'" if found < low else "remove the others"
        self._problem(self.document.place(path) if self.rule is None else self._named, "E211", what, hint)

    def settings(self, written: Mapping[str, Any], path: DocumentPath, shared: bool) -> dict[str, tuple[Choice, ...]]:
        result: dict[str, tuple[Choice, ...]] = {}
        for name, value in written.items():
            parameter = self.parameters.get(name)
            if self.pipeline and parameter is None and self.pipeline.setters(name):
                self._hidden(name, self.pipeline, (*path, name))
            elif parameter is None and self.rule is not None and path[0] != "rules":
                continue  # it is a setting of the recipe's own method
            elif parameter is None:
                self._unknown(name, (*path, name))
            elif not parameter.per_model and not shared:
                if self.rule is not None:
                    continue
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
        if others and not near(name, self.method.parameters):
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
