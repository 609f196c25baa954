"""The recipe language as JSON Schema, for editors: what can be told without the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergec.ops.registry import methods
from mergec.ops.step import Step, steps
from mergec.recipe.schema import SETTING_SCHEMA, Recipe


def json_schema() -> dict[str, Any]:
    """The language as JSON Schema, the methods' names and parameters included, for editors."""
    schema = Recipe.model_json_schema()
    known = methods()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mergec recipe"
    schema["properties"]["merge_method"]["enum"] = [*known, "pipeline", "moe"]
    schema["required"] = []
    schema["properties"]["steps"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": list(_step_schemas())},
        "description": Recipe.model_fields["steps"].description,
    }
    schema["properties"]["post"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": list(_post_schemas())},
        "description": Recipe.model_fields["post"].description,
    }
    schema["$defs"]["TokenEntry"]["properties"]["source"]["anyOf"].append({"type": "string", "minLength": 1})
    schema["oneOf"] = [_holds(key, "merge_method") for key in ("models", "slices", "modules", "shuffle")] + [
        _holds("experts")
    ]
    schema["$defs"]["ModuleEntry"]["oneOf"] = [_holds(key) for key in ("models", "slices")]
    schema["allOf"] = [
        {
            "if": {"properties": {"merge_method": {"const": name}}},
            "then": {
                "properties": {
                    "parameters": {
                        "properties": {p.name: _setting_schema(p.description) for p in method.parameters.values()}
                    }
                }
            },
        }
        for name, method in known.items()
    ]
    return schema


def _holds(key: str, *also: str) -> dict[str, Any]:
    """That a key is there and not empty, and that others are there."""
    return {"required": [key, *also], "properties": {key: {"minProperties" if key == "modules" else "minItems": 1}}}


def _step_schemas() -> Iterator[dict[str, Any]]:
    """One schema per form of a step: `diff`, `trim: largest`, `trim: {keep: largest, density: 0.5}`."""
    for name, ways in steps().items():
        for one in ways.values():
            if not one.choice:
                yield {"const": name, "description": one.doc}
            forms = [_step_form(one)]
            if one.choice:
                forms.append({"const": one.way})
            elif one.first:
                forms.append({"anyOf": SETTING_SCHEMA["anyOf"][:2], "description": one.here[one.first].description})
            yield {
                "type": "object",
                "properties": {name: {"anyOf": forms, "description": one.doc}},
                "required": [name],
                "additionalProperties": False,
            }


def _post_schemas() -> Iterator[dict[str, Any]]:
    """One schema per form of a pass: `svc`, `svc: {alpha: 0.2}`."""
    for way, one in steps()["post"].items():
        settings = {p.name: _setting_schema(p.description) for p in one.parameters.values()}
        form = {"type": "object", "properties": settings, "additionalProperties": False}
        yield {"const": way, "description": one.doc}
        yield {"type": "object", "properties": {way: form}, "required": [way], "additionalProperties": False}


def _step_form(one: Step) -> dict[str, Any]:
    choice = {one.choice: {"const": one.way}} if one.choice else {}
    settings = {p.name: _setting_schema(p.description) for p in one.parameters.values()}
    return {
        "type": "object",
        "properties": choice | settings,
        "required": list(choice),
        "additionalProperties": False,
    }


def _setting_schema(description: str) -> dict[str, Any]:
    return {**SETTING_SCHEMA, "description": description}
