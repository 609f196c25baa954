"""The canonical text of a recipe: what it says once comments, order, spelling and defaults are put aside.

Equal canonical texts mean equal plans of the same models; it is a recipe itself, and its own canonical text. Other
ways to write one plan - a method and its steps, filters that no name tells apart - keep texts of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import BaseModel

from mergec.errors import Problem, RecipeError
from mergec.ops.registry import Parameter
from mergec.recipe.bind import bind
from mergec.recipe.bound import Bound, Input, path_label
from mergec.recipe.document import Path, parse
from mergec.recipe.experts import DRAWN
from mergec.recipe.flow import flow, scalar
from mergec.recipe.format import LAST
from mergec.recipe.load import read_recipe
from mergec.recipe.schema import ExpertEntry, ModelEntry, ModuleEntry, Recipe, SliceEntry, TokenEntry
from mergec.recipe.settings import Choice
from mergec.recipe.steps import Pipeline, Written, read_passes, read_pipeline
from mergec.recipe.vocabulary import vocabulary_source

_ELSEWHERE = ("E644",)  # about files beside the recipe, which version control does not put there
_OWN = {
    "merge_method",
    "models",
    "slices",
    "shuffle",
    "modules",
    "base_model",
    "parameters",
    "steps",
    "out_dtype",
    "seed",
}
_OWN |= {"tokenizer_source", "tokenizer", "post", "experts", "shared_experts"}

Setting = tuple[tuple[str | None, tuple[Any, ...]], ...]
"""A setting's choices: a filter, None for the one that ends it, and knots."""


def canonical_text(text: str, file: str) -> str:
    """The canonical text of a recipe; reads no other file. Raises RecipeError where the recipe is wrong."""
    document = parse(text, file)
    stages = sorted(document.stages, key=lambda one: str(one.value["name"]))
    found: list[tuple[Recipe, Sequence[Bound]]] = []
    problems: list[Problem] = []
    for one in (*stages, document):
        recipe, wrong = read_recipe(one)
        bounds, more = bind(recipe) if recipe else ((), [])
        problems += [problem for problem in (*wrong, *more) if problem.is_error and problem.code not in _ELSEWHERE]
        if recipe and bounds:
            found.append((recipe, bounds))
    if problems:
        raise RecipeError(problems)
    return "---\n".join(_text(_Canon(recipe, bounds).value()) for recipe, bounds in found)


def _text(value: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _lines(value, 0))


class _Canon:
    """A recipe as plain values in canonical order."""

    def __init__(self, recipe: Recipe, bounds: Sequence[Bound]) -> None:
        self.recipe, self.bounds = recipe, [bound for bound in bounds if bound.rule is None]
        self.method = bounds[0].method
        self.pipeline = read_pipeline(recipe.document, recipe.steps)[0] if recipe.steps else Pipeline(())
        self.passes, _ = read_passes(recipe.document, recipe.post or [])
        self.own: list[list[dict[str, Setting]]] = [[{} for _ in bound.inputs] for bound in bounds]
        self.shared: list[dict[str, Setting]] = [{} for _ in bounds]
        self.top: dict[str, Setting] = {}
        for parameter in self.method.parameters.values() if not recipe.experts else ():
            if parameter.name not in {**self.pipeline.own, **self.passes.own}:
                self.place(parameter)

    def place(self, parameter: Parameter) -> None:
        """Put a parameter's settings where they stand: at the top what holds everywhere, else where it holds."""
        name = parameter.name
        placed = [_placed(parameter, bound) for bound in self.bounds]
        everywhere = {setting for own, _ in placed for setting in own}
        if len(everywhere) == 1 and all(not shared for _, shared in placed) and _is_plain(*everywhere):
            placed = [([()] * len(own), one) for own, _ in placed for one in everywhere]
        far = {shared for _, shared in placed}
        for number, (own, shared) in enumerate(placed):
            if shared:
                (self.top if len(far) == 1 else self.shared[number])[name] = shared
            models = [which for which, one in enumerate(self.bounds[number].inputs) if not one.is_base]
            for which, setting in zip(models, own, strict=bool(own)):
                if setting:
                    self.own[number][which][name] = setting

    def value(self) -> dict[str, Any]:
        """The whole recipe."""
        recipe = self.recipe
        rest = _rest(recipe, _OWN)
        made: dict[str, Any] = {key: rest.pop(key) for key in ("name", "compat") if key in rest}
        made |= {"merge_method": recipe.merge_method}
        made |= {"base_model": recipe.base_model} if recipe.base_model else {}
        made |= self.holders()
        made |= {"steps": [self.step(one) for one in self.pipeline.written]} if recipe.steps else {}
        made |= _parameters(self.top)
        made |= {"post": [self.pass_after(one) for one in self.passes.written]} if recipe.post else {}
        made |= {"out_dtype": recipe.out_dtype} if recipe.out_dtype not in (None, recipe.dtype) else {}
        made |= {"seed": recipe.seed} if recipe.seed and self.draws() else {}
        made |= self.vocabulary() | rest
        last = {key: made.pop(key) for key in LAST if key in made}
        return made | last

    def vocabulary(self) -> dict[str, Any]:
        """What is said of the tokenizer; tokens keep their order, in which those that are new are numbered."""
        entry = self.recipe.vocabulary
        if entry is None:
            return {}
        source = vocabulary_source(self.recipe) or entry.source
        more: dict[str, Any] = {"tokens": {token: _token(one) for token, one in entry.tokens.items()}}
        more = more if entry.tokens else {}
        more |= {"pad_to_multiple_of": entry.pad_to_multiple_of} if entry.pad_to_multiple_of else {}
        return {"tokenizer": {"source": source, **more}} if more else {"tokenizer_source": source}

    def draws(self) -> bool:
        """Whether anything is random."""
        if not self.recipe.experts:
            return self.method.takes_draw
        return self.recipe.gate_mode in DRAWN or any(one.noise_scale for _, one in self.recipe.all_experts)

    def expert(self, entry: ExpertEntry) -> dict[str, Any]:
        idle = {"noise_scale": 0, "residual_scale": 1, "id": entry.source_model}
        prompts = {"positive_prompts", "negative_prompts"} if self.recipe.gate_mode in DRAWN else set()
        return {key: value for key, value in _rest(entry, prompts).items() if idle.get(key) != value}

    def holders(self) -> dict[str, Any]:
        """The `models`, `slices` or `modules`, numbered as the bounds are, or the experts of a mixture."""
        if self.recipe.experts:
            lists = {"experts": self.recipe.experts, "shared_experts": self.recipe.shared_experts}
            return {key: [self.expert(entry) for entry in entries] for key, entries in lists.items() if entries}
        numbers = iter(range(len(self.bounds)))
        if not self.recipe.modules:
            return self.held((), self.recipe, numbers)
        modules = {}
        for name, module in self.recipe.modules.items():
            held = self.held(("modules", name), module, numbers)
            modules[name] = held | _rest(module, {"models", "slices", "parameters"})
        return {"modules": dict(sorted(modules.items())) if self.recipe.base_model else modules}

    def held(self, path: Path, holder: Recipe | ModuleEntry, numbers: Iterator[int]) -> dict[str, Any]:
        if holder.slices:
            path = (*path, "slices")
            return {"slices": [self.slice((*path, i), one, next(numbers)) for i, one in enumerate(holder.slices)]}
        number = next(numbers)
        models = self.models((*path, "models"), holder.models, number)
        return {"models": models} | _parameters(self.shared[number])

    def slice(self, path: Path, one: SliceEntry, number: int) -> dict[str, Any]:
        base = one.base_model if one.base_model != self.recipe.base_model else None
        made: dict[str, Any] = {"sources": self.models((*path, "sources"), one.sources, number)}
        made |= {"base_model": base} if base else {}
        return made | _parameters(self.shared[number]) | _rest(one, {"sources", "base_model", "parameters"})

    def models(self, path: Path, entries: Sequence[ModelEntry], number: int) -> list[dict[str, Any]]:
        """The models of one list in the method's order; the first gives config and tokenizer where there is no base."""
        labels = {path_label((*path, i)): entry for i, entry in enumerate(entries)}
        bases = {entry.model: entry for entry in entries}
        made: list[dict[str, Any]] = []
        for one, own in zip(self.bounds[number].inputs, self.own[number], strict=True):
            entry = bases.get(one.reference) if one.is_base else labels.get(one.label)
            if one.is_base and path[-1] == "models" and (entry is None or entry.slot == entry.model):
                continue  # base_model says it all
            made.append(self.model(one, entry, own))
        if self.recipe.base_model is None:
            made.sort(key=lambda model: model["model"] != self.recipe.references[0])
        return made

    def model(self, one: Input, entry: ModelEntry | None, own: Mapping[str, Setting]) -> dict[str, Any]:
        made: dict[str, Any] = {"model": one.reference}
        if entry is not None:
            made |= {"id": entry.id} if entry.slot != entry.model else {}
            made |= _rest(entry, {"model", "id", "parameters"})
        return made | _parameters(own)

    def step(self, one: Written) -> Any:
        """One step; what it sets to the default is left out where nothing else sets it."""
        others = {name for settings in (self.top, *self.shared, *chain(*self.own)) for name in settings}
        entry: dict[str, Any] = {one.step.choice: one.step.way} if one.step.choice else {}
        for name, choices in sorted(one.settings.items()):
            parameter = one.step.parameters[name]
            setting = _normal(_choices(choices))
            if _without(setting, _default(parameter)) or name in others:
                entry[name] = _written(setting)
        if not entry:
            return one.step.name
        return {one.step.name: entry[one.step.first] if list(entry) == [one.step.first] else entry}

    def pass_after(self, one: Written) -> Any:
        """One entry of `post:`; what it sets to the default is left out."""
        entry = {}
        for name, choices in sorted(one.settings.items()):
            default = _default(one.step.parameters[name])
            if setting := _without(_normal(_choices(choices) + default), default):
                entry[name] = _written(setting)
        return {one.step.way: entry} if entry else one.step.way


def _token(one: TokenEntry) -> dict[str, Any]:
    source = one.source.model_dump(exclude_none=True) if one.source else None
    if source and source.keys() == {"kind", "model"}:
        source = source["model"]
    return ({"source": source} if source else {}) | ({"force": True} if one.force else {})


def _placed(parameter: Parameter, bound: Bound) -> tuple[list[Setting], Setting]:
    """The setting of each model, and the one that holds for all.

    What holds for all is given to each model, unless it has filters, which ask for other names there.
    """
    default = _default(parameter) if not bound.recipe.rules else ()  # which a rule's method may have another of
    shared = _choices(bound.settings.get(parameter.name, ()))
    if not parameter.per_model:
        return [], _without(_normal(shared + default), default)
    models = [_choices(one.settings.get(parameter.name, ())) for one in bound.inputs if not one.is_base]
    shared = _normal(shared + default)
    if not shared or _is_plain(shared) or all(_ends(own) for own in models):
        return [_without(_normal(own + shared), default) for own in models], ()
    return [_normal(own) for own in models], _without(shared, default)


def _choices(choices: Sequence[Choice]) -> Setting:
    return tuple((one.filter, one.knots[:1] if len(set(map(repr, one.knots))) == 1 else one.knots) for one in choices)


def _default(parameter: Parameter) -> Setting:
    return () if parameter.required else ((None, (parameter.default,)),)


def _normal(setting: Setting) -> Setting:
    """Without choices that are never reached, and without those before the last that say the same as it."""
    kept: list[tuple[str | None, tuple[Any, ...]]] = []
    for pattern, knots in setting:
        if not any(earlier is None or (pattern and earlier in pattern) for earlier, _ in kept):
            kept.append((pattern, knots))
    while len(kept) > 1 and kept[-1][0] is None and repr(kept[-2][1]) == repr(kept[-1][1]):
        del kept[-2]
    return tuple(kept)


def _without(setting: Setting, default: Setting) -> Setting:
    """Without the default at the end, which holds there anyway."""
    return setting[:-1] if default and repr(setting[-1:]) == repr(default) else setting  # true is not 1


def _is_plain(setting: Setting) -> bool:
    return len(setting) == 1 and setting[0][0] is None


def _ends(setting: Setting) -> bool:
    return any(pattern is None for pattern, _ in setting)


def _written(setting: Setting) -> Any:
    """A setting as a recipe has it."""
    if _is_plain(setting):
        return _knots(setting[0][1])
    filters = [{} if pattern is None else {"filter": pattern} for pattern, _ in setting]
    return [one | {"value": _knots(knots)} for one, (_, knots) in zip(filters, setting, strict=True)]


def _knots(knots: tuple[Any, ...]) -> Any:
    return knots[0] if len(knots) == 1 else list(knots)


def _parameters(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {"parameters": {name: _written(setting) for name, setting in sorted(settings.items())}} if settings else {}


def _rest(model: BaseModel, own: set[str]) -> dict[str, Any]:
    """What else a part of the language holds, without defaults, in the order in which it is declared."""
    written = model.model_dump(by_alias=True, exclude_defaults=True, exclude=own)
    return {key: _sorted(value) for key, value in written.items()}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _lines(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    """A mapping in block style, its lists of mappings too, their mappings of plain values in flow style."""
    for key, item in value.items():
        start = f"{' ' * indent}{scalar(key)}:"
        if isinstance(item, dict) and item:
            yield start
            yield from _lines(item, indent + 2)
        elif isinstance(item, list) and any(isinstance(one, dict) for one in item):
            yield start
            for one in item:
                yield from _item(one, indent + 2)
        else:
            yield f"{start} {flow(item)}"


def _item(value: Any, indent: int) -> Iterator[str]:
    lead = " " * indent
    if not isinstance(value, dict) or value.keys() <= {"filter", "value"}:
        yield f"{lead}- {flow(value)}"
        return
    if len(value) == 1 and not isinstance(next(iter(value.values())), list):  # a step
        yield f"{lead}- {flow(value)[1:-1]}"
        return
    lines = list(_lines(value, indent + 2))
    yield f"{lead}- {lines[0][indent + 2 :]}"
    yield from lines[1:]
