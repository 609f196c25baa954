"""Singular value calibration, and passes after any merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from oracle import METHODS
from oracle_matrix import calibrated
from recipes_fixtures import mergec as command

import mergec
from mergec.compiler.compile import compile_recipe
from mergec.keys import plan_hash, plan_keys
from mergec.ops.calibrate import calibrate_singular
from mergec.recipe.jsonschema import json_schema

HEAD = "base_model: base\nmodels:\n- {model: a, parameters: {weight: 0.4}}\n- {model: b, parameters: {weight: 0.7}}\n"


def test_degenerate_inputs_stay_finite() -> None:
    a, b, zero = *harness.family((2, 3), models=1), torch.zeros(2, 3)
    for merged, deltas in ((zero, (a, b)), (a, (zero, zero)), (a, (a, zero))):
        assert calibrate_singular.kernel(merged, *deltas, alpha=0.0).isfinite().all()


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "tsv", "dare_ties", "model_stock"])
def test_a_pass_calibrates_what_a_method_made(method: str) -> None:
    """Matrices alone: other tensors stay what the method made of them."""
    tensors = [one.double() for one in harness.family((12, 20))]
    base, models = {"w": tensors[0], "b": tensors[0][0]}, [{"w": one, "b": one[0]} for one in tensors[1:]]
    plain = mergec.merge(method, models, base=base, parameters={"weight": 0.5} if method != "model_stock" else {})
    post: list[Any] = [{"svc": {"alpha": 0.2}}]
    given = {"weight": 0.5} if method != "model_stock" else {}
    found = mergec.merge(method, models, base=base, parameters=given, post=post)
    assert torch.equal(found["b"], plain["b"])
    arrays = [one.numpy() for one in tensors]
    expected = calibrated(arrays[0], plain["w"].numpy(), arrays[1:], 0.2)
    torch.testing.assert_close(found["w"], torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    assert method in METHODS


@pytest.fixture
def models(checkpoint: Any, tmp_path: Path) -> Path:
    for number, name in enumerate(["base", "a", "b"]):
        generator = torch.Generator().manual_seed(number)
        names = [f"layers.{i}.{part}" for i in range(3) for part in "xy"]
        checkpoint(name, {one: torch.randn(4, 6, generator=generator) for one in names})
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yml"
    path.write_text(text)
    return path


def test_a_pass_and_a_step_are_one_plan(models: Path) -> None:
    named = f"merge_method: ties\n{HEAD}parameters: {{density: 0.5}}\npost: [svc: {{alpha: 0.3}}]\n"
    spelled = (
        f"merge_method: pipeline\n{HEAD}parameters: {{density: 0.5, normalize: true}}\n"
        "steps: [diff, trim: largest, rescale: false, elect, fuse: agreeing, post: {by: svc, alpha: 0.3}]\n"
    )
    plans = [compile_recipe(written(models, text)) for text in (named, spelled)]
    assert plan_keys(plans[0]) == plan_keys(plans[1])
    assert plan_hash(plans[0]) == plan_hash(plans[1])
    other = compile_recipe(written(models, named.replace("0.3}]", "0.4}]")))
    assert not set(plan_keys(other).values()) & set(plan_keys(plans[0]).values())


def test_settings_of_a_pass_are_filtered_and_explained(models: Path) -> None:
    setting = "as_matrix: [{filter: .y, value: false}, {value: true}]"
    text = f"merge_method: task_arithmetic\n{HEAD}post:\n- svc: {{{setting}}}\n"
    plan = compile_recipe(written(models, text))
    classes = {output.name: plan.kinds[output.kind].kind_class for output in plan.outputs}
    assert set(classes.values()) == {"map", "whole"}
    assert all((kind == "whole") == (".x" in name) for name, kind in classes.items())
    explained = command("explain", models / "recipe.yml", "layers.0.y").out
    assert "post[0].as_matrix" in explained
    assert "- post" not in explained  # `post:` stays where it is


def test_the_schema_knows_passes(models: Path) -> None:
    import jsonschema

    recipe = json.loads(json.dumps({"merge_method": "ties", "base_model": "b", "models": [{"model": "a"}]}))
    jsonschema.validate({**recipe, "post": ["svc", {"svc": {"alpha": 0.5}}]}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, "post": [{"svc": {"beta": 0.5}}]}, json_schema())
