"""Text to Recipe: every violation of the language becomes a problem with its place and a way out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from mergec.errors import Place, Problem, RecipeError, did_you_mean
from mergec.recipe.document import Document, Path, parse, parse_value
from mergec.recipe.schema import ModelEntry, Recipe

# keys of mergekit's language that are not read yet, with what to do instead
_LATER = {
    "slices": "give whole models under 'models:'",
    "modules": "give whole models under 'models:'",
    "tokenizer": "use 'tokenizer_source: base' or one of the models",
    "chat_template": "the tokenizer's donor brings its own template; choose it with 'tokenizer_source'",
}
_TYPE_WORDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least one entry",
}


def read_document(path: FilePath, overrides: Sequence[tuple[str, str]] = ()) -> Document:
    """Parse a recipe file and apply `--set` overrides, given as (dotted path, YAML text)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError([Problem(Place(str(path), 1, 1), "E008", "no such file", _near_files(path))]) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError([Problem(Place(str(path), 1, 1), "E008", f"cannot read the recipe: {why}")]) from None
    return with_overrides(parse(text, str(path)), overrides)


def with_overrides(document: Document, overrides: Sequence[tuple[str, str]]) -> Document:
    for dotted, value in overrides:
        document = document.with_value(dotted, parse_value(value))
    return document


def _near_files(path: FilePath) -> str:
    try:
        recipes = [p.name for p in path.parent.iterdir() if p.suffix in (".yml", ".yaml")]
    except OSError:
        return ""
    return did_you_mean(path.name, recipes) if recipes else "`mergec new ties` prints a recipe to start from"


def read_recipe(document: Document) -> tuple[Recipe | None, list[Problem]]:
    """The recipe a document holds and everything that violates the schema.

    Keys that are wrong on their own are left out so that the rest can still be checked; None where a key without
    which nothing can be checked is wrong.
    """
    value = copy.deepcopy(dict(document.value))
    problems: list[Problem] = []
    for _ in range(2):
        try:
            recipe = Recipe.model_validate(value)
        except ValidationError as error:
            problems += [_problem(document, found) for found in error.errors(include_url=False)]
            if not all(_drop(value, found["loc"]) for found in error.errors(include_url=False)):
                return None, problems
        else:
            object.__setattr__(recipe, "_document", document)
            return recipe, problems
    return None, problems


def _problem(document: Document, found: Any) -> Problem:
    path: Path = tuple(part for part in found["loc"])
    name = str(path[-1]) if path else ""
    kind = found["type"]
    if kind == "extra_forbidden":
        return _unknown_key(document, path, name)
    if kind == "missing":
        if name == "models" and document.value.keys() & _LATER.keys():
            what = "a recipe needs 'models'"
        else:
            what = f"the key '{name}' is missing"
        return Problem(document.place(path[:-1]), "E102", what, _description(path))
    where, shown = document.place(path), _shown(found["input"])
    if kind == "literal_error":
        return Problem(where, "E104", f"found {shown} for '{name}', expected {found['ctx']['expected']}", _near(found))
    expected = _TYPE_WORDS.get(kind) or found["msg"].lower().removeprefix("input should be ")
    return Problem(where, "E103", f"found {shown} for '{name}', expected {expected}", _description(path))


def _near(found: Any) -> str:
    if not isinstance(found["input"], str):
        return ""
    options = [option.strip("' ") for option in found["ctx"]["expected"].replace(" or ", ",").split(",")]
    return did_you_mean(found["input"], options)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"
    return {"a dict": "a mapping"}.get(text, text if len(text) < 60 else text[:57] + "...")


def _model_at(path: Path) -> type[BaseModel]:
    return ModelEntry if path[:1] == ("models",) and len(path) > 1 else Recipe


def _unknown_key(document: Document, path: Path, name: str) -> Problem:
    place = document.key_place(path)
    fields = _model_at(path).model_fields
    if len(path) == 1 and name in _LATER:
        return Problem(place, "E105", f"'{name}' of mergekit's language is not supported yet", _LATER[name])
    if name in _parameter_names():
        hint = "put it under 'parameters:'"
        return Problem(place, "E101", f"'{name}' is a parameter of a method and does not stand here", hint)
    where = "a model's entry" if _model_at(path) is ModelEntry else "a recipe"
    return Problem(place, "E101", f"unknown key '{name}' in {where}", did_you_mean(name, fields))


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
    if isinstance(value, dict) and path[-1] in value and path not in (("merge_method",), ("models",)):
        del value[path[-1]]
        return path[-1] != "model"
    return False
