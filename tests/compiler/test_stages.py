"""Stages: what several recipes of one file make is what they make one after the other, without the files between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import mergec, safetensors_bytes, tensors_of, write_model

from mergec.compiler.analyse import analyse
from mergec.compiler.compile import compile_recipe
from mergec.compiler.text import explain_text
from mergec.errors import RecipeError
from mergec.planfile import plan_json, read_plan
from mergec.recipe.document import parse
from mergec.recipe.load import read_document

TIES = """\
name: skills
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: [0.3, 0.6], density: 0.6}
dtype: bfloat16
"""
DARE = """\
name: drawn
merge_method: dare_linear
base_model: base
models: [{model: c}, {model: a}]
parameters: {weight: 0.5, density: 0.5}
"""
LAST = """\
merge_method: slerp
base_model: skills
models: [{model: drawn}]
parameters: {t: [{filter: mlp, value: 0.3}, {value: 0.6}]}
dtype: float32
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "a", "b", "c"):
        write_model(tmp_path / name, seed=name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(recipe: str, out: str, *options: str) -> dict[str, bytes]:
    Path("r.yml").write_text(recipe)
    called = mergec("run", "r.yml", out, *options)
    assert called.code == 0, called.err
    return tensors_of(Path(out) / "model.safetensors")


def staged(*recipes: str) -> str:
    return "---\n".join(recipes)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_stages_make_what_recipes_make_one_after_the_other(family: Path, order: tuple[int, ...]) -> None:
    recipes = (TIES, DARE, LAST)
    made = run(staged(*(recipes[number] for number in order)), "at_once")
    run(TIES, "skills")
    run(DARE, "drawn")
    assert made == run(LAST, "last")
    assert json.loads(Path("at_once/config.json").read_text()) == json.loads(Path("last/config.json").read_text())
    assert Path("at_once/tokenizer.json").read_bytes() == Path("base/tokenizer.json").read_bytes()


def test_a_stage_may_need_a_stage_and_a_model_stand_in_both(family: Path) -> None:
    middle = "name: middle\nmerge_method: linear\nmodels: [{model: skills}, {model: a}]\nparameters: {weight: 1}\n"
    last = "merge_method: task_arithmetic\nbase_model: a\nmodels: [{model: middle}, {model: skills}]\n"
    last += "parameters: {weight: 0.5}\n"
    made = run(staged(TIES, middle, last), "at_once")
    run(TIES, "skills")
    run(middle, "middle")
    assert made == run(last, "last")


def test_a_stage_can_be_sliced(family: Path) -> None:
    sliced = "merge_method: passthrough\nslices:\n" + "".join(
        f"- sources: [{{model: {name}, layer_range: [0, 2]}}]\n" for name in ("skills", "a", "skills")
    )
    made = run(staged(TIES, sliced), "at_once")
    run(TIES, "skills")
    assert made == run(sliced, "last")
    assert json.loads(Path("at_once/config.json").read_text())["num_hidden_layers"] == 6


def test_a_stack_of_slices_can_be_a_stage(family: Path) -> None:
    stack = "name: stack\nmerge_method: passthrough\nslices:\n" + "".join(
        f"- sources: [{{model: {name}, layer_range: [{first}, 2]}}]\n" for name, first in (("a", 0), ("b", 1))
    )
    last = "merge_method: passthrough\nmodels: [{model: stack}]\nparameters: {scale: 0.5}\n"
    made = run(staged(stack, last), "at_once")
    run(stack, "stack")
    assert made == run(last, "last")


def test_integers_of_a_stage_are_copied(family: Path) -> None:
    shapes: dict[str, Any] = {"w": (4, 4), "ids": (3,)}
    for name in ("base", "a", "b"):
        write_model(family / name, seed=name, shapes=shapes, dtypes={"ids": "int64"})
    last = "merge_method: passthrough\nmodels: [{model: skills}]\n"
    made = run(staged(TIES.replace("[0.3, 0.6]", "0.5"), last), "at_once")
    assert made["ids"] == tensors_of(family / "base/model.safetensors")["ids"]


def test_what_changes_in_a_stage_is_computed_again_and_nothing_else(family: Path) -> None:
    recipe = staged(TIES, DARE, LAST)
    run(recipe, "out")
    edited = recipe.replace("weight: [0.3, 0.6]", "weight: [{filter: layers.1, value: 0.9}, {value: [0.3, 0.6]}]")
    Path("r.yml").write_text(edited)
    called = mergec("run", "r.yml", "out")
    assert "3 of 9 tensors are computed, 6 reused from out" in called.err + called.out
    assert tensors_of(Path("out/model.safetensors")) == run(edited, "clean")


def test_a_plan_of_stages_survives_json(family: Path) -> None:

    Path("r.yml").write_text(staged(TIES, DARE, LAST))
    plan = compile_recipe("r.yml")
    assert read_plan(plan_json(plan)) == plan


def test_settings_of_a_stage_can_be_set_from_outside(family: Path) -> None:
    recipe = staged(TIES, DARE, LAST)
    changed = run(recipe, "out", "--set", "stages.skills.parameters.density=0.2")
    assert changed == run(recipe.replace("density: 0.6", "density: 0.2"), "edited")


def test_a_tensor_of_stages_is_explained_with_its_stages(family: Path) -> None:
    Path("r.yml").write_text(staged(TIES, DARE, LAST))
    text = explain_text(
        analyse(read_document(Path("r.yml"))), compile_recipe("r.yml"), "model.layers.1.mlp.down_proj.weight"
    )
    assert "base_model  skills  bfloat16 [4, 6]  made by a stage of this recipe" in text
    assert "stage skills" in text
    assert "  weight      a  0.6     r.yml:5:22, gradient [0.3, 0.6] at t = 1" in text


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        (
            (TIES.replace("model: b}", "model: drawn}"), DARE.replace("model: c", "model: skills"), LAST),
            ["r.yml:11:18: error[E120]: stages need each other's results: skills -> drawn -> skills"],
        ),
        (
            (TIES.replace("model: b}", "model: skills}"), LAST.replace("drawn", "c")),
            ["r.yml:4:30: error[E120]: stages need each other's results: skills -> skills"],
        ),
        (
            (TIES.replace("model: b}", "model: last}"), "name: last\n" + LAST.replace("drawn", "c")),
            ["r.yml:4:30: error[E120]: 'last' is the result of this file, which nothing in it can be made of"],
        ),
        (
            (TIES.replace("ties", "emr").replace("parameters", "metadata"), LAST.replace("drawn", "c")),
            ["r.yml:2:15: error[E121]: emr makes an artifact, and a stage must make one dense model"],
        ),
        (
            (TIES.replace("density", "densty"), DARE.replace("model: c", "model: d"), LAST.replace("t:", "u:")),
            [
                "r.yml:5:34: error[E202]: ties has no parameter 'densty'",
                "r.yml:11:18: error[E300]: no model 'd'",
                "r.yml:17:14: error[E202]: slerp has no parameter 'u'",
            ],
        ),
    ],
)
def test_mistakes_of_all_stages_are_said_together(family: Path, recipes: tuple[str, ...], expected: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        analyse(parse(staged(*recipes), "r.yml"))
    found = [
        str(one).partition(" in the current")[0].partition("; hint")[0] for one in caught.value.problems if one.is_error
    ]
    assert found == expected


def test_a_misspelt_stage_is_suggested(family: Path) -> None:
    Path("r.yml").write_text(
        staged(TIES, LAST.replace("base_model: skills", "base_model: skils").replace("drawn", "c"))
    )
    called = mergec("check", "r.yml")
    assert "error[E300]: no model 'skils'" in called.err
    assert "hint: did you mean 'skills'?" in called.err


def test_a_stage_that_nothing_needs_is_said(family: Path) -> None:
    Path("r.yml").write_text(staged(TIES, DARE, LAST.replace("drawn", "c")))
    called = mergec("check", "r.yml")
    assert "r.yml:8:7: warning[W120]: nothing needs the stage 'drawn', so it is not made" in called.err


def test_an_adapter_may_be_added_to_a_stage(family: Path) -> None:
    factors = {
        f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_{part}.weight": ("float32", shape)
        for n in range(2)
        for part, shape in (("A", (2, 4)), ("B", (4, 2)))
    }
    (family / "adapter").mkdir()
    (family / "adapter/adapter_model.safetensors").write_bytes(safetensors_bytes(factors))
    (family / "adapter/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    plain = TIES.replace("dtype: bfloat16\n", "")
    added = "merge_method: linear\nmodels: [{model: MODEL}, {model: c}]\nparameters: {weight: 0.5}\n"
    Path("whole.yml").write_text(plain)
    assert mergec("run", "whole.yml", "whole").code == 0
    apart = run(added.replace("MODEL", "whole+adapter"), "apart")
    text = staged(plain, added.replace("MODEL", "skills+adapter"))
    assert run(text, "at once", "--workers", "2") == apart == run(text, "again", "--workers", "1")
    mapping = "{model: skills, lora: adapter}"
    assert run(staged(plain, added.replace("MODEL", mapping)), "mapping") == apart
    name = "model.layers.1.self_attn.q_proj.weight"
    Path("r.yml").write_text(text)
    assert f"{name} in the stage skills" in mergec("explain", "r.yml", name).out
    assert "skills+adapter" in mergec("plan", "r.yml").out
    called = mergec("check", "r.yml", "--set", "models.0.model=skills+nowhere")
    assert "error[E300]: no model 'nowhere'" in called.err
    called = mergec("check", "r.yml", "--set", f"models.0.model=skills+{'x' * 300}")
    assert "error[E300]: cannot look for the model 'skills+xxx" in called.err
    called = mergec("check", "r.yml", "--set", "models.0.model=skills+")
    assert "error[E340]: 'skills+' is not one model and one adapter" in called.err
