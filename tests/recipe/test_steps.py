"""Pipelines: named methods spelled out are the same plan; every mistake in `steps:` is answered in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from recipes_fixtures import mergec
from ruamel.yaml import YAML

from mergec.compiler.compile import compile_recipe
from mergec.errors import RecipeError
from mergec.keys import plan_hash, plan_keys
from mergec.ops.registry import find_method, methods
from mergec.ops.step import steps
from mergec.recipe.expand import expansion_lines
from mergec.recipe.jsonschema import json_schema
from mergec.recipe.new import recipe_text

NAMED = [name for name, method in methods().items() if method.steps is not None]


@pytest.fixture
def models(checkpoint: Any, tmp_path: Path) -> Path:
    for number, name in enumerate(["base", "a", "b"]):
        generator = torch.Generator().manual_seed(number)
        tensors = {f"layers.{i}.{part}": torch.randn(4, 6, generator=generator) for i in range(3) for part in "xyz"}
        checkpoint(name, tensors)
    return tmp_path


def written(folder: Path, recipe: Any, name: str = "recipe.yml") -> Path:
    path = folder / name
    path.write_text(recipe if isinstance(recipe, str) else json.dumps(recipe, indent=1))
    return path


def recipe_of(method: str, **rest: Any) -> dict[str, Any]:
    known = find_method(method)
    base = {"base_model": "base"} if known.base == "origin" else {}
    own = {"weight": [0.4, 0.8], "density": [{"filter": ".x", "value": 0.5}, {"value": 0.7}], "gamma": 0.1}
    each = {name: value for name, value in own.items() if name in known.parameters}
    entries = [{"model": "a", "parameters": each}, {"model": "b", "parameters": {**each, "weight": 0.3}}]
    return {"merge_method": method, **base, "models": entries, "seed": 3, **rest}


@pytest.mark.parametrize("compat", [None, "mergekit"])
@pytest.mark.parametrize("name", NAMED)
def test_a_named_method_and_its_steps_are_one_plan(models: Path, name: str, compat: str | None) -> None:
    rest = {"compat": compat} if compat else {}
    named = compile_recipe(written(models, recipe_of(name, **rest)))
    steps = YAML(typ="safe").load("\n".join(expansion_lines(find_method(name), {})))
    spelled = compile_recipe(written(models, {**recipe_of(name, **rest), **steps}, "spelled.yml"))
    assert plan_keys(spelled) == plan_keys(named)
    assert plan_hash(spelled) == plan_hash(named)
    jsonschema.validate({**recipe_of(name), **steps}, json_schema())


@pytest.mark.parametrize("name", NAMED)
def test_steps_keep_the_order_of_models_if_it_has_a_meaning(models: Path, name: str) -> None:
    recipe = recipe_of(name)
    recipe["models"].reverse()
    steps = YAML(typ="safe").load("\n".join(expansion_lines(find_method(name), {})))
    named, spelled, sorted_ = (
        plan_hash(compile_recipe(written(models, one))) for one in (recipe, recipe | steps, recipe_of(name))
    )
    assert named == spelled
    assert (named == sorted_) == find_method(name).commutative


SHARED: dict[str, Any] = {
    "normalize": [{"filter": ".y", "value": False}, {"filter": ".z", "value": True}],
    "elect": [{"filter": ".y", "value": "count"}, {"value": "sum"}],
    "rescale": "l1",
    "lambda": [0.5, 1.5],
    "int8_mask": True,
}


@pytest.mark.parametrize("rest", [{}, {"post": [{"svc": {"alpha": 0.3}}]}], ids=["", "post"])
@pytest.mark.parametrize("name", [name for name in NAMED if find_method(name).base == "origin"])
def test_explain_prints_the_steps_of_a_recipe_with_its_settings(models: Path, name: str, rest: dict[str, Any]) -> None:
    """Pasted over the keys they name, they make the same plan, wherever a setting stood and whatever it filters."""
    shared = {key: value for key, value in SHARED.items() if key in find_method(name).parameters}
    recipe = recipe_of(name, parameters=shared, **rest)
    explained = mergec("explain", written(models, recipe), "layers.1.y").out
    printed = explained.partition("\nas a pipeline\n")[2].partition("\n\n")[0]
    pasted = recipe | YAML(typ="safe").load(printed)
    named, spelled = (compile_recipe(written(models, one)) for one in (recipe, pasted))
    assert plan_hash(spelled) == plan_hash(named)
    assert plan_hash(spelled) != plan_hash(compile_recipe(written(models, recipe_of(name))))


def test_a_setting_in_a_step_holds_for_that_step_alone(models: Path) -> None:
    recipe = recipe_of("ties", merge_method="pipeline")
    steps = ["diff", {"trim": {"keep": "largest", "density": 0.25}}, {"rescale": False}, {"elect": {"by": "count"}}]
    recipe |= {"steps": [*steps, {"fuse": {"how": "agreeing", "normalize": True, "weight": 0.5}}]}
    for entry in recipe["models"]:
        entry["parameters"] = {"weight": 0.3}  # the election's: the fuse has its own
    same = recipe_of("ties", parameters={"density": 0.25, "elect": "count"})
    for entry in same["models"]:
        entry["parameters"] = {"weight": 0.5}
    texts = [
        [node.op for node in compile_recipe(written(models, one)).nodes if node.op not in ("weigh", "elect")]
        for one in (recipe, same)
    ]
    assert texts[0] == texts[1]
    weights = [node.attr("weight") for node in compile_recipe(written(models, recipe)).nodes if node.op == "weigh"]
    assert set(weights) == {0.3, 0.5}


def test_two_random_trims_draw_anew(models: Path) -> None:
    trims = [{"trim": {"keep": "random", "density": 0.5}}] * 2
    recipe = recipe_of("task_arithmetic", merge_method="pipeline", steps=["diff", *trims, {"fuse": "sum"}])
    nodes = compile_recipe(written(models, recipe)).nodes
    assert {node.attr("stream") for node in nodes if node.op == "drop"} == {"trim.random.1", "trim.random.2"}


HEAD = "merge_method: pipeline\nbase_model: base\nmodels:\n- model: a\n- model: b\nparameters: {weight: 1}\n"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("", ["1:15 E660 merge_method is 'pipeline', and the recipe has no 'steps'; `mergec new pipeline`"]),
        ("steps: [dif, {fuse: sum}]", ["7:9 E661 unknown step 'dif'; did you mean 'diff'?"]),
        ("steps: [diff, 5, {fuse: sum}]", ["7:15 E661 found 5 in 'steps', expected a step; write `- diff`"]),
        ("steps: [{fuse: sum}]", ["7:10 E662 fuse: sum takes deltas, found models and a base; put 'diff' before it"]),
        (
            "steps: [diff]",
            [
                "6:14 E202 no step of the pipeline has a parameter 'weight'; it belongs to elect",
                "7:9 E662 the steps end with deltas, expected the merged tensor; put 'fuse' after it",
            ],
        ),
        (
            "steps: [diff, {fuse: agreeing}]",
            ["7:16 E662 fuse: agreeing takes deltas with an elected sign, found deltas"],
        ),
        (
            "steps: [diff, {fuse: some}]",
            ["7:22 E205 found 'some' for 'how', expected one of: agreeing, sum, largest, matrices, average"],
        ),
        (
            "steps: [diff, trim, {fuse: sum}]",
            ["7:15 E201 trim needs a 'keep', and the step gives none; one of: largest"],
        ),
        (
            "steps: [diff, {trim: {keep: largest, densty: 0.5}}, {fuse: sum}]",
            ["7:38 E202 trim: largest has no parameter 'densty'; did you mean 'density'?"],
        ),
        (
            "steps: [diff, {trim: {keep: largest, density: 2}}, {fuse: sum}]",
            ["7:47 E205 found 2 for 'density', expected a number in [0, 1]"],
        ),
        ("steps: [diff, {fuse: sum}, diff]", ["7:28 E662 diff takes models and a base, found the merged tensor"]),
    ],
)
def test_mistakes_in_steps_are_answered_in_their_place(models: Path, steps: str, expected: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        compile_recipe(written(models, HEAD + steps + "\n"))
    errors = [problem for problem in caught.value.problems if problem.is_error]
    found = [f"{p.place.line}:{p.place.column} {p.code} {p.what}; {p.hint}" for p in errors]
    assert len(found) == len(expected)
    for one, start in zip(found, expected, strict=True):
        assert one.startswith(start), one


def test_steps_without_the_pipeline_are_refused(models: Path) -> None:
    with pytest.raises(RecipeError, match="'steps' belongs to merge_method: pipeline, found merge_method: ties"):
        compile_recipe(written(models, HEAD.replace("pipeline", "ties") + "steps: [diff]\n"))


def test_the_recipe_to_start_from_is_a_pipeline(models: Path) -> None:
    text = recipe_text("pipeline").replace("path/to/base", "base")
    text = text.replace("path/to/model-1", "a").replace("path/to/model-2", "b")
    same = recipe_of("ties", dtype="bfloat16", tokenizer_source="base", seed=0)
    for entry in same["models"]:
        entry["parameters"] = {"weight": 0.5, "density": 0.5}
    assert plan_keys(compile_recipe(written(models, text))) == plan_keys(compile_recipe(written(models, same)))


def test_the_vocabulary_lists_every_step_with_its_parameters() -> None:
    page = mergec("methods", "pipeline").out
    for ways in steps().values():
        for one in ways.values():
            assert f"\n{one.label:<16}  {one.takes.words} -> {one.leaves.words}\n" in page
            assert all(parameter.description in page for parameter in one.parameters.values())
