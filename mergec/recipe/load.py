"""Text to Recipe: every violation of the language becomes a problem with its place and a way out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from mergec.errors import Problem, did_you_mean, near
from mergec.recipe.document import Document, Path, parse, parse_value, shown
from mergec.recipe.reference import flaws_of
from mergec.recipe.schema import (
    ExpertEntry,
    ModelEntry,
    ModuleEntry,
    Recipe,
    RouterEntry,
    RuleEntry,
    ShuffledModel,
    ShuffleEntry,
    SliceEntry,
    SourceEntry,
    TokenEntry,
    TokenizerEntry,
    TokenSource,
)
from mergec.recipe.shuffle import shuffled
from mergec.recipe.source import decoded, read_bytes

_REFERENCES = ("model", "base_model", "source_model", "copy", "tokenizer_source", "source")
_TYPE_WORDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least one entry",
    "finite_number": "a finite number",
}


def read_document(path: FilePath, overrides: Sequence[tuple[str, str]] = ()) -> Document:
    """Parse a recipe file and apply `--set` overrides, given as (dotted path, YAML text)."""
    return with_overrides(parse(decoded(read_bytes(path), str(path)), str(path)), overrides)


def with_overrides(document: Document, overrides: Sequence[tuple[str, str]]) -> Document:
    for dotted, value in overrides:
        document = document.with_value(dotted, parse_value(value, f"--set {dotted}"))
    return document


def read_recipe(document: Document) -> tuple[Recipe | None, list[Problem]]:
    """The recipe a document holds and everything that violates the schema.

    Keys that are wrong on their own are left out so that the rest can still be checked; None where a key without
    which nothing can be checked is wrong.
    """
    value = copy.deepcopy(dict(document.value))
    if "experts" in value:
        value.setdefault("merge_method", "moe")
    problems: list[Problem] = []
    for _ in range(2):
        try:
            recipe = Recipe.model_validate(value)
        except ValidationError as error:
            violations = error.errors(include_url=False)
            problems += [problem for found in violations for problem in _problems(document, found)]
            if not all(_drop(value, found["loc"]) for found in violations):
                return None, problems
        else:
            recipe, placed = shuffled(recipe, document)
            object.__setattr__(recipe, "_document", placed)
            wrong = [*_contents(document, recipe, (), problems)]
            for name, module in recipe.modules.items():
                wrong += _contents(document, module, ("modules", name), problems)
            return None if wrong else recipe, [*problems, *wrong]
    return None, problems


def _contents(
    document: Document, holder: Recipe | ModuleEntry, path: Path, known: Sequence[Problem]
) -> Iterator[Problem]:
    """What is wrong where a recipe, or a module, must say in one of several ways what is merged."""
    ways: tuple[str, ...] = ("models", "slices", "modules") if isinstance(holder, Recipe) else ("models", "slices")
    if isinstance(holder, Recipe) and (holder.merge_method == "moe" or "experts" in document.value):
        ways = ("experts",)
    if isinstance(holder, Recipe) and holder.shuffle:
        ways = ("shuffle", *(way for way in ways if (way,) in document.keys))
    written = [way for way in ways if getattr(holder, way)]
    if len(written) > 1:
        first, second = sorted(written, key=lambda way: document.key_place((*path, way)))[:2]
        what = f"found '{second}' beside '{first}', expected one of {', '.join(ways)}"
        yield Problem(document.key_place((*path, second)), "E110", what, "remove one of the two")
    elif not written:
        empty = [way for way in ways if (*path, way) in document.values]
        if any(
            problem.place in (document.place((*path, way)), document.key_place((*path, way)))
            for way in empty
            for problem in known
        ):
            return  # said already
        if empty:
            kind = "an empty mapping" if empty[0] == "modules" else "an empty list"
            what = f"found {kind} for '{empty[0]}', expected at least one entry"
            yield Problem(document.place((*path, empty[0])), "E103", what, _description((*path, empty[0])))
        else:
            yield Problem(
                document.place(path), "E102", f"the key '{ways[0]}' is missing", _description((*path, ways[0]))
            )


def _problems(document: Document, found: Any) -> Iterator[Problem]:
    """What a violation is about; several things where a mapping stands for a model."""
    path, value = tuple(found["loc"]), found["input"]
    if found["type"] != "string_type" or not isinstance(value, dict) or path[-1] not in _REFERENCES:
        yield _problem(document, found)
        return
    for inner, what, hint in flaws_of(value):
        place = document.key_place((*path, *inner)) if inner else document.place(path)
        yield Problem(place, "E106", what, hint)


def _problem(document: Document, found: Any) -> Problem:
    path: Path = tuple(part for part in found["loc"])
    name = str(path[-1]) if path else ""
    kind = found["type"]
    if kind == "extra_forbidden":
        return _unknown_key(document, path, name)
    if kind == "missing":
        return Problem(document.place(path[:-1]), "E102", f"the key '{name}' is missing", _description(path))
    where, text = document.place(path), shown(found["input"])
    if kind == "literal_error":
        what = f"found {text} for '{name}', expected {found['ctx']['expected']}"
        return Problem(where, "E104", what, _near(found) or _description(path))
    expected = _length(found) or _TYPE_WORDS.get(kind) or found["msg"].lower().replace("input should be ", "a number ")
    if isinstance(path[-1], int):
        what = f"found {text} in '{path[-2]}', expected {expected}"
        return Problem(where, "E103", what, _entry_hint(path, found["input"]))
    is_bare = kind == "string_type" and isinstance(found["input"], (bool, int, float))
    hint = "quote it if it is text" if is_bare else _description(path)
    return Problem(where, "E103", f"found {text} for '{name}', expected {expected}", hint)


def _length(found: Any) -> str:
    """How many entries a list must have, where that is more than one."""
    ctx = found.get("ctx", {})
    number = ctx.get("min_length", ctx.get("max_length", 0))
    return f"{number} entries" if found["type"] in ("too_short", "too_long") and number > 1 else ""


def _entry_hint(path: Path, value: Any) -> str:
    if isinstance(value, str) and path[-2] in ("experts", "shared_experts"):
        return f"write `- source_model: {value}`"
    if isinstance(value, str) and path[-2] in ("models", "sources"):
        return f"write `- model: {value}`"
    return _description(path[:-1])


def _near(found: Any) -> str:
    """What the value may be a misspelling of; another number is no misspelling."""
    options = [option.strip("' ") for option in found["ctx"]["expected"].replace(" or ", ",").split(",")]
    value = str(found["input"])
    if _letters(value) != value:
        options = [option for option in options if _letters(option) != _letters(value)]
    return near(value, options)


def _letters(word: str) -> str:
    return "".join(letter for letter in word if not letter.isdecimal())


_ENTRIES: dict[str, type[BaseModel]] = {
    "models": ModelEntry,
    "slices": SliceEntry,
    "sources": SourceEntry,
    "modules": ModuleEntry,
    "router": RouterEntry,
    "shuffle": ShuffleEntry,
    "tokenizer": TokenizerEntry,
    "tokens": TokenEntry,
    "source": TokenSource,
    "experts": ExpertEntry,
    "shared_experts": ExpertEntry,
    "rules": RuleEntry,
}
_CALLED: dict[type[BaseModel], str] = {
    Recipe: "a recipe",
    ModelEntry: "a model's entry",
    SliceEntry: "a slice",
    SourceEntry: "a source of a slice",
    ModuleEntry: "a module",
    RouterEntry: "a router",
    ShuffleEntry: "a shuffle",
    ShuffledModel: "a model of a shuffle",
    TokenizerEntry: "the tokenizer",
    TokenEntry: "a token's entry",
    TokenSource: "a token's source",
    ExpertEntry: "an expert",
    RuleEntry: "a rule",
}


_OF_PEER = {
    "layer_slices": "`mergec import` makes `slices: [{sources: [{model: MODEL, layer_range: [START, END]}]}]` of it",
    "genome": "import the best_config.yaml that mergekit-evolve writes",
    "random_seed": "write `seed: NUMBER`",
}
"""Keys of recipes of mergekit's other tools, and words for its options: what to write here."""


def _model_at(path: Path) -> type[BaseModel]:
    """What a key at the end of a path is a field of."""
    model: type[BaseModel] = Recipe
    for part in path[:-1]:
        if part in _ENTRIES and part in model.model_fields:
            model = ShuffledModel if model is ShuffleEntry else _ENTRIES[str(part)]
    return model


def _unknown_key(document: Document, path: Path, name: str) -> Problem:
    place = document.key_place(path)
    fields = _model_at(path).model_fields
    if name in _parameter_names():
        hint = "put it under 'parameters:'"
        return Problem(place, "E101", f"'{name}' is a parameter of a method and does not stand here", hint)
    if name == "residual_weight":
        return Problem(place, "E101", f"'{name}' has no effect in mergekit either", "remove it")
    hint = _OF_PEER.get(name, "") if len(path) == 1 else ""
    hint = hint or did_you_mean(name, [one.alias or key for key, one in fields.items()])
    return Problem(place, "E101", f"unknown key '{name}' in {_CALLED[_model_at(path)]}", hint)


def _parameter_names() -> set[str]:
    from mergec.ops.registry import methods

    return {name for method in methods().values() for name in method.parameters}


def _description(path: Path) -> str:
    field = _model_at(path).model_fields.get(str(path[-1])) if path else None
    return (field.description or "") if field else ""


def _drop(value: Any, path: Path) -> bool:
    """Remove an entry of nested values; false where what is left cannot be a recipe."""
    for part in path[:-1]:
        value = value[part]
    if isinstance(value, dict) and path[-1] in value and path[-1] not in ("models", "slices", "modules", "experts"):
        del value[path[-1]]
        field = _model_at(path).model_fields.get(str(path[-1]))
        return field is None or not field.is_required()
    return False
