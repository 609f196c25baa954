"""The JSON Schema that editors use: it accepts what mergec accepts, and catches what an editor can catch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mergec.ops.registry import methods
from mergec.recipe.document import parse
from mergec.recipe.jsonschema import json_schema
from mergec.recipe.schema import Recipe

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("recipes/*.yml")) + sorted(ROOT.glob("examples/**/*.yml"))
SOUND: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a", "parameters": {"weight": [0.1, 0.9]}}, {"model": "b"}],
    "parameters": {"weight": [{"filter": "mlp", "value": 1}, {"value": [0, 1]}], "density": {"value": 0.5}},
    "dtype": "bfloat16",
    "tokenizer": {
        "source": "union",
        "tokens": {
            "<x>": {"source": "a", "force": True},
            "<y>": {"source": {"kind": "model_token", "model": "a", "token": "<x>"}},
            "<z>": {"source": {"kind": "zero"}},
        },
        "pad_to_multiple_of": 8,
    },
    "chat_template": "chatml",
    "seed": 3,
    "metadata": {"anything": [1, {"goes": "here"}]},
}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_of_the_repository_is_accepted(path: Path, validator: Any) -> None:
    value = parse(path.read_text(encoding="utf-8"), str(path)).value
    assert [error.message for error in validator.iter_errors(value)] == []


def test_there_are_recipes_to_accept() -> None:
    assert len(FILES) >= 12


def test_a_recipe_with_everything_is_accepted(validator: Any) -> None:
    assert validator.is_valid(SOUND)


def changed(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in (copy.deepcopy(SOUND) | values).items() if value is not ...}


@pytest.mark.parametrize(
    "wrong",
    [
        changed(merge_method="tise"),
        changed(merge_method=...),
        changed(models=...),
        changed(models=[]),
        changed(models=["a"]),
        changed(models=[{"parameters": {}}]),
        changed(models=[{"model": "a", "paramters": {}}]),
        changed(models=[{"model": 3}]),
        changed(paramters={}),
        changed(dtype="bf16"),
        changed(out_dtype="int8"),
        changed(compute_dtype="float16"),
        changed(seed=-1),
        changed(seed=1.5),
        changed(compat="mergkit"),
        changed(base_model=["base"]),
        changed(parameters=[]),
        changed(parameters={"weight": None}),
        changed(parameters={"weight": []}),
        changed(parameters={"weight": [1, {"value": 2}]}),
        changed(parameters={"weight": {"filter": "mlp"}}),
        changed(parameters={"weight": {"value": 1, "filtre": "mlp"}}),
        [SOUND],
        None,
    ],
)
def test_what_is_wrong_is_rejected(wrong: Any, validator: Any) -> None:
    assert not validator.is_valid(wrong)


def test_keys_and_parameters_are_described() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert all(one.get("description") for one in schema["properties"].values())
    assert schema["properties"]["merge_method"]["enum"] == [*methods(), "pipeline", "moe"]
    named = {rule["if"]["properties"]["merge_method"]["const"]: rule["then"] for rule in schema["allOf"]}
    for name, method in methods().items():
        described = named[name]["properties"]["parameters"]["properties"]
        assert {key: one["description"] for key, one in described.items()} == {
            p.name: p.description for p in method.parameters.values()
        }
        assert all(p.description for p in method.parameters.values())
