"""Steps: what a recipe lists under `steps:`, checked against the steps there are, and the method that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mergec.errors import Problem, did_you_mean, near
from mergec.ops.registry import Method, Parameter
from mergec.ops.step import Merged, Rooted, Step, Steps, Use, Working, finish, path_to, steps
from mergec.recipe.document import Document, Path, shown
from mergec.recipe.settings import Choice, read_setting

PIPELINE = "pipeline"
SUMMARY = "Do what the recipe lists under 'steps:'."


class Written(NamedTuple):
    """A step of a recipe: number, and the settings that stand in it, by parameter; `root` is the list it stands in."""

    number: int
    step: Step
    settings: Mapping[str, tuple[Choice, ...]]
    root: str = "steps"

    def key(self, parameter: str) -> str:
        """What a parameter is called where all settings of a recipe are gathered."""
        return f"{self.root}[{self.number}].{parameter}" if parameter in self.settings else parameter

    @property
    def own(self) -> dict[str, tuple[Choice, ...]]:
        """Its settings by the names that a method's parameters have for them."""
        return {self.key(name): setting for name, setting in self.settings.items()}

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that stand in it, by the same names."""
        declared = self.step.parameters
        keys = {name: self.key(name) for name in self.settings}
        return {key: replace(declared[name], name=key, argument=key, required=False) for name, key in keys.items()}

    def use(self, values: Mapping[str, Any]) -> Use:
        """The step with its parameters' values out of those of a method."""
        parameters = self.step.parameters.values()
        keys = {p.name: self.key(p.name) for p in parameters}
        given = {p: keys[p.name] if keys[p.name] != p.name else p.argument for p in parameters}
        return Use(self.step, {p.argument: values[key] for p, key in given.items() if key in values}, keys)


@dataclass(frozen=True)
class Pipeline:
    """The steps of a recipe as a method."""

    written: tuple[Written, ...]

    @property
    def own(self) -> dict[str, tuple[Choice, ...]]:
        """The settings that stand in steps, by the names that the method's parameters have for them."""
        return {key: setting for one in self.written for key, setting in one.own.items()}

    @property
    def method(self) -> Method:
        takes_base = any(issubclass(one.step.takes, (Rooted, Merged)) for one in self.written)
        return Method(
            name=PIPELINE,
            build=self._build,
            parameters=self._parameters(),
            base="origin" if takes_base else "input",
            models=(1, None),
            commutative=all(one.step.commutative for one in self.written),
            version=1,
            paper="",
            doc=f"{SUMMARY}\n\nresult = {', '.join(one.step.label for one in self.written)}.",
            takes_draw=any(one.step.takes_draw for one in self.written),
            takes_arithmetic=False,
            steps=Steps(),
        )

    def _parameters(self) -> dict[str, Parameter]:
        """What stands in a step is a parameter of its own; a setting that several steps leave open is one."""
        found: dict[str, Parameter] = {}
        for one in self.written:
            found |= one.parameters
            for name, parameter in one.step.settings.items():
                if name not in one.settings and not (name in found and found[name].required):
                    found[name] = parameter
        return found

    def _build(self, **values: Any) -> Steps:
        return Steps(*(one.use(values) for one in self.written))

    def hint(self, name: str) -> str:
        """What to do about a setting under `parameters:` that no step of the pipeline takes."""
        here = [one.step for one in self.written if name in one.step.here or name == one.step.choice]
        if here:
            return f"it stands in the step: `- {here[0].name}: {{{name}: ...}}`"
        known = self._parameters().keys() - self.own.keys()
        owners = [one.label for ways in steps().values() for one in ways.values() if name in one.settings]
        belongs = f"it belongs to {', '.join(owners)}" if owners else ""
        return near(name, known) or belongs or did_you_mean(name, known)

    def setters(self, name: str) -> list[Written]:
        """The steps that set a parameter themselves, if every step that takes it does."""
        takers = [one for one in self.written if name in one.step.settings]
        return takers if all(name in one.settings for one in takers) else []


@dataclass(frozen=True)
class Passes:
    """What a recipe lists under `post:`: passes over the merged tensors, whatever method made them."""

    written: tuple[Written, ...]

    @property
    def own(self) -> dict[str, tuple[Choice, ...]]:
        return {key: setting for one in self.written for key, setting in one.own.items()}

    def after(self, method: Method) -> Method:
        """The method followed by the passes; what it is a name for stays the same, for `post:` stands beside it."""
        parameters = {key: parameter for one in self.written for key, parameter in one.parameters.items()}

        def build(*tensors: Any, **values: Any) -> Any:
            own = {key: value for key, value in values.items() if key not in parameters}
            uses = [one.use(values) for one in self.written]
            made = method.build(*tensors, **own)
            if isinstance(made, Steps):
                return Steps(*made.uses, *uses)
            base, models = tensors
            return finish(made, base, models, uses)

        return replace(method, build=build, parameters={**method.parameters, **parameters})


def read_passes(document: Document, entries: Sequence[Any]) -> tuple[Passes, list[Problem]]:
    """The passes that are listed, `svc` or `svc: {alpha: 0.2}`, and everything that is wrong with any of them."""
    reader = _Reader(document)
    written = [one for number, entry in enumerate(entries) if (one := reader.read_pass(number, entry)) is not None]
    return Passes(tuple(written)), reader.problems


def read_pipeline(document: Document, entries: Sequence[Any]) -> tuple[Pipeline, list[Problem]]:
    """The pipeline of the entries that are steps, and everything that is wrong with any of them or their order."""
    reader = _Reader(document)
    written = [one for number, entry in enumerate(entries) if (one := reader.read(number, entry)) is not None]
    if not reader.problems:
        reader.check_order(written)
    return Pipeline(tuple(written)), reader.problems


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def _problem(self, path: Path, code: str, what: str, hint: str, *, at_key: bool = False) -> None:
        place = self.document.key_place(path) if at_key else self.document.place(path)
        self.problems.append(Problem(place, code, what, hint))

    def read(self, number: int, entry: Any) -> Written | None:
        """One entry: `diff`, `trim: largest` or `trim: {keep: largest, density: 0.5}`."""
        path: Path = ("steps", number)
        if isinstance(entry, str):
            name, value = entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            ((name, value),) = entry.items()
            path = (*path, name)
        else:
            what = f"found {shown(entry)} in 'steps', expected a step"
            self._problem(path, "E661", what, "write `- diff`, or `- trim: {keep: largest, density: 0.5}`")
            return None
        if name not in steps():
            self._problem(path, "E661", f"unknown step '{name}'", did_you_mean(name, steps()), at_key=True)
            return None
        return self._settings(number, path, name, value)

    def read_pass(self, number: int, entry: Any) -> Written | None:
        """One entry of `post:`."""
        ways, path = steps()["post"], ("post", number)
        name, value = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
        if not isinstance(name, str) or not isinstance(value, dict):
            form = "write `- svc`, or `- svc: {alpha: 0.2}`"
            self._problem(path, "E650", f"found {shown(entry)} in 'post', expected a pass", form)
            return None
        if name not in ways:
            self._problem(path, "E650", f"unknown pass '{name}' in 'post'", did_you_mean(name, ways))
            return None
        here: dict[str, Path] = {key: (*path, name, key) for key in value}
        return Written(number, ways[name], self._read_settings(ways[name], value, here), "post")

    def _settings(self, number: int, path: Path, name: str, value: Any) -> Written | None:
        ways = steps()[name]
        first = next(iter(ways.values())).first
        is_short = value is not None and not isinstance(value, dict)
        if is_short and not first:
            self._problem(path, "E202", f"{name} has no parameters, found {shown(value)}", f"write `- {name}`")
            return None
        given = {first: value} if is_short else dict(value or {})
        paths = {key: path if is_short else (*path, key) for key in given}
        step = self._way(path, paths, ways, given)
        if step is None:
            return None
        return Written(number, step, self._read_settings(step, given, paths))

    def _read_settings(
        self, step: Step, given: Mapping[str, Any], paths: Mapping[str, Path]
    ) -> dict[str, tuple[Choice, ...]]:
        result: dict[str, tuple[Choice, ...]] = {}
        for key, value in given.items():
            parameter = step.parameters.get(key)
            if parameter is None:
                others = [one.label for one in steps()[step.name].values() if key in one.parameters]
                hint = f"it belongs to {', '.join(others)}" if others else did_you_mean(key, step.parameters)
                self._problem(paths[key], "E202", f"{step.label} has no parameter '{key}'", hint, at_key=True)
                continue
            setting = read_setting(parameter, value, self.document, paths[key])
            if isinstance(setting, list):
                self.problems += setting
            else:
                result[key] = setting
        return result

    def _way(
        self, path: Path, paths: Mapping[str, Path], ways: Mapping[str, Step], given: dict[str, Any]
    ) -> Step | None:
        """Which way of a step is meant; takes what says so out of `given`."""
        one = next(iter(ways.values()))
        if not one.choice:
            return one
        listed = ", ".join(ways)
        if one.choice not in given:
            what = f"{one.name} needs a '{one.choice}', and the step gives none"
            self._problem(path, "E201", what, f"one of: {listed}", at_key=True)
            return None
        way = given.pop(one.choice)
        if isinstance(way, str) and way in ways:
            return ways[way]
        what = f"found {shown(way)} for '{one.choice}', expected one of: {listed}"
        self._problem(paths[one.choice], "E205", what, _near(way, ways))
        return None

    def check_order(self, written: Sequence[Written]) -> None:
        """Each step takes what the ones before it leave, from models to the merged tensor."""
        kind: type[Working] = Rooted
        for number, step, *_ in written:
            if not issubclass(kind, step.takes):
                what = f"{step.label} takes {step.takes.words}, found {kind.words}"
                entry = self.document.value["steps"][number]
                path = ("steps", number) if isinstance(entry, str) else ("steps", number, step.name)
                self._problem(path, "E662", what, _missing(kind, step.takes), at_key=True)
            kind = step.leaves
        if not self.problems and kind is not Merged:
            what = f"the steps end with {kind.words}, expected {Merged.words}"
            self._problem(("steps", len(written) - 1), "E662", what, _missing(kind, Merged, "after"))


def _missing(found: type[Working], wanted: type[Working], where: str = "before") -> str:
    """Which steps lead from one kind of values to another."""
    names = path_to(found, wanted)
    if names is None:
        return "move it up, or remove it" if issubclass(found, Merged) else "remove it, or what made them so"
    return f"put {' and '.join(repr(name) for name in names)} {where} it"


def _near(word: Any, known: Mapping[str, Any]) -> str:
    return near(word, known) if isinstance(word, str) else ""
