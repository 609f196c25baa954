"""Binder: reads the models and settings of a recipe as a method takes them, and says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mergec.errors import Place, Problem, count, did_you_mean, near
from mergec.ops.registry import Method, Parameter, methods
from mergec.recipe.bound import Bound, Input, Rule, path_label
from mergec.recipe.document import Path as DocumentPath
from mergec.recipe.schema import ModelEntry, Recipe, SliceEntry, SourceEntry
from mergec.recipe.settings import Choice, over, read_setting
from mergec.recipe.steps import Passes, Pipeline


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
