"""Warnings about recipes that compile and do not do what they seem to; and none about ordinary ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_family

from mergec.compiler.analyse import analyse
from mergec.compiler.lint import lint
from mergec.ops.registry import methods
from mergec.recipe.document import parse
from mergec.recipe.new import recipe_text

TIES = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters:\n  density: 0.5\n"
LAST = "  weight: 0.5\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_family(tmp_path)


def found(text: str) -> list[str]:
    return [str(problem) for problem in lint(analyse(parse(text, "r.yml")))]


CASES = {
    "a filter that matches nothing": (
        TIES + "  weight: [{filter: mpl, value: 0.4}, {value: 0.5}]\n",
        "r.yml:6:33: warning[W220]: the filter 'mpl' of 'weight' matches no tensor; hint: a filter is a part of a "
        "tensor's name; `mergec inspect MODEL` lists the names",
    ),
    "a dtype for adapters where there are none": (
        "lora_merge_dtype: float16\n" + TIES + LAST,
        "r.yml:1:1: warning[W340]: 'lora_merge_dtype' has no effect: no model of this recipe has an adapter; hint: "
        "remove it",
    ),
    "an entry behind one that takes everything": (
        TIES + "  weight: [{value: 0.5}, {filter: mlp, value: 0.4}]\n",
        "r.yml:6:47: warning[W221]: the entry of 'weight' with the filter 'mlp' is never reached: entries before it "
        "match the same tensors; hint: the first match wins: put narrow filters first",
    ),
    "a setting that every model overrides": (
        TIES.replace("a}", "a, parameters: {density: 0.4}}").replace("b}", "b, parameters: {density: 0.3}}") + LAST,
        "r.yml:5:12: warning[W222]: this value of 'density' is never used: every model has its own; hint: remove it, "
        "or the models' own",
    ),
    "a model of weight 0": (
        TIES.replace("a}", "a, parameters: {weight: [0, 0]}}") + LAST,
        "r.yml:3:42: warning[W223]: 'a' has no part in the result: its weight is 0 for every tensor; hint: give it a "
        "weight, or remove the model",
    ),
    "equal weights, normalised": (
        TIES + "  weight: 0.3\n",
        "r.yml:6:11: warning[W224]: the weight 0.3 has no effect: normalize divides by the sum of the weights, and "
        "all are equal; hint: with normalize: false each model counts 0.3 times; weight: 1 says what is done now",
    ),
    "a density of 1": (
        TIES.replace("0.5", "1") + LAST,
        "r.yml:5:12: warning[W225]: density is 1 for every model, so ties keeps every entry of every delta; what is "
        "left is the election of signs; hint: density: 0.5 keeps half of the entries",
    ),
    "a density that is left out": (
        TIES.replace("  density: 0.5\n", LAST).replace("ties", "dare_linear"),
        "r.yml:1:15: warning[W225]: density is 1, the default, for every model, so dare_linear keeps every entry of "
        "every delta; what is left is task_arithmetic; hint: density: 0.5 keeps half of the entries",
    ),
    "more knots than layers": (
        TIES.replace("0.5", "[0.5, 0.6, 0.5]") + LAST,
        "r.yml:5:12: warning[W226]: the gradient of 'density' has 3 knots over 2 layers, so some are never used; "
        "hint: give it 2 knots or fewer",
    ),
    "a gradient that ends elsewhere": (
        TIES.replace("0.5", "[0.2, 0.8]") + LAST,
        "r.yml:5:12: warning[W227]: lm_head.weight and model.norm.weight take the first knot of 'density', 0.2, "
        "though behind the last layer; hint: to choose, give 'density' an entry of its own for them: "
        "{filter: lm_head.weight, value: 0.8}",
    ),
    "the base among the models": (
        TIES.replace("[{model: a}", "[{model: base}, {model: a}") + LAST,
        "r.yml:3:18: warning[W228]: 'base' is the base_model: listed among the models it adds nothing; hint: remove "
        "it from 'models:'",
    ),
    "a parameter for another tool": (
        TIES + LAST + "  int8_mask: true\n",
        "r.yml:7:14: warning[W229]: 'int8_mask' has no effect here: accepted for mergekit's recipes: sign masks take "
        "one byte here anyway, no number changes; hint: it can be removed",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_nothing_is_said(case: str, here: Path) -> None:
    text, line = CASES[case]
    assert found(text) == [line]


SOUND = {
    "plain": TIES + LAST,
    "weights of 1": TIES + "  weight: 1\n",
    "three equal thirds": TIES.replace("b}", "b}, {model: c}") + "  weight: 0.33\n",
    "equal weights that are added": TIES + "  weight: 0.3\n  normalize: false\n",
    "weights that differ": TIES.replace("a}", "a, parameters: {weight: 0.7}}") + "  weight: 0.3\n",
    "a density of 1 for one model": TIES.replace("a}", "a, parameters: {density: 1}}") + LAST,
    "weight 0 for some tensors": TIES + "  weight: [{filter: mlp, value: 0}, {value: 0.5}]\n",
    "a gradient that ends as it begins": TIES.replace("0.5", "[0.5, 0.5]") + LAST,
    "a gradient for the layers alone": TIES + "  weight: [{filter: layers, value: [0.2, 0.8]}, {value: 0.5}]\n",
    "both ends of a path": "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: a}]\n"
    "parameters: {t: [{filter: self_attn, value: [0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]}\n",
}


@pytest.mark.parametrize("case", SOUND)
def test_ordinary_recipes_give_no_warning(case: str, here: Path) -> None:
    assert found(SOUND[case]) == []


@pytest.mark.parametrize("method", sorted(methods()))
def test_shipped_recipes_give_no_warning(method: str, here: Path) -> None:
    text = recipe_text(method).replace("path/to/base", "base")
    for number, model in enumerate("abc", start=1):
        text = text.replace(f"path/to/model-{number}", model)
    assert found(text) == []


def test_check_and_plan_print_warnings_and_succeed(here: Path) -> None:
    text, line = CASES["a density of 1"]
    (here / "r.yml").write_text(text)
    for command in ("check", "plan"):
        called = mergec(command, "r.yml")
        assert (called.code, called.err) == (0, line + "\n")
    found = mergec("check", "r.yml", "--json")
    assert (found.code, '"code": "W225"' in found.out) == (0, True)
