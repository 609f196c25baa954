"""Share: tensors that only some models have are refused, left out, or merged from the models that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import merged, write_recipe
from models import tensors_of
from recipes_fixtures import mergec, write_family
from safetensors.torch import load_file, save_file

import mergec as package

LONE, PAIR, EXTRA, BASELESS = (f"model.layers.0.self_attn.{one}.bias" for one in ("q", "k", "v", "o"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models base, a, b and c: `LONE` is in the base alone, `PAIR` in base, a and b, `EXTRA` in c alone."""
    write_family(tmp_path)
    give(tmp_path / "base", LONE, PAIR)
    give(tmp_path / "a", PAIR)
    give(tmp_path / "b", PAIR)
    give(tmp_path / "c", EXTRA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(model: Path, *names: str) -> None:
    seed = torch.Generator().manual_seed(len(str(model)) + ord(model.name[0]))
    more = {name: torch.rand(4, generator=seed) for name in names}
    save_file({**load_file(model / "model.safetensors"), **more}, model / "model.safetensors")


def made(here: Path, method: str, models: str = "abc", **rest: Any) -> dict[str, torch.Tensor]:
    rest = {"parameters": {"weight": 0.5}, "tensors": "union", **rest}
    merged(write_recipe(here, method, list(models), **rest), here / "out")
    return tensors_of(here / "out")


def notes(here: Path) -> list[str]:
    return [note for note in package.compile(here / "recipe.yml").notes if "bias" in note]


def test_a_union_merges_each_tensor_from_the_models_that_have_it(here: Path) -> None:
    found = made(here, "task_arithmetic", base_model="base")
    of_all = made(here, "task_arithmetic", base_model="base", tensors="intersection")
    base, a, b, c = (tensors_of(here / name) for name in ("base", "a", "b", "c"))
    assert torch.equal(found[LONE], base[LONE])
    assert torch.equal(found[EXTRA], c[EXTRA])
    expected = base[PAIR].double() + 0.5 * (a[PAIR].double() - base[PAIR]) + 0.5 * (b[PAIR].double() - base[PAIR])
    torch.testing.assert_close(found[PAIR].double(), expected, rtol=0, atol=1e-6)
    assert found.keys() - of_all.keys() == {LONE, PAIR, EXTRA}
    assert all(torch.equal(found[name], tensor) for name, tensor in of_all.items())


def test_the_plan_says_who_takes_part(here: Path) -> None:
    made(here, "task_arithmetic", base_model="base")
    assert notes(here) == [
        f"merged from 'base', 'a' and 'b' alone: 1 tensor: {PAIR}",
        f"copied from 'base' alone: 1 tensor: {LONE}",
        f"copied from 'c' alone: 1 tensor: {EXTRA}",
    ]
    made(here, "task_arithmetic", base_model="base", tensors="intersection")
    assert notes(here) == [
        f"base: not in every model, so not used: {PAIR}, {LONE}",
        f"a: not in every model, so not used: {PAIR}",
        f"b: not in every model, so not used: {PAIR}",
        f"c: not in every model, so not used: {EXTRA}",
    ]


def test_a_method_that_takes_one_model_is_applied_to_it(here: Path) -> None:
    parameters = {"weight": 0.5, "normalize": False}
    found = made(here, "linear", "abc", parameters=parameters)
    assert torch.equal(found[EXTRA], tensors_of(here / "c")[EXTRA] * 0.5)
    assert torch.equal(found[PAIR], sum(tensors_of(here / one)[PAIR] * 0.5 for one in "ab"))


def test_gradients_run_over_the_layers_of_the_whole_result(here: Path) -> None:
    for name in "ab":
        give(here / name, PAIR.replace("layers.0", "layers.1"))
    parameters = {"weight": [0, 1], "normalize": False}
    found = made(here, "linear", "abc", parameters=parameters)
    assert not found[PAIR].any()
    second = PAIR.replace("layers.0", "layers.1")
    assert torch.equal(found[second], sum(tensors_of(here / one)[second] for one in "ab"))


@pytest.mark.parametrize(
    ("method", "models", "rest", "what"),
    [
        ("ties", "abc", {"parameters": {"weight": 1, "density": 0.5}}, "ties takes deltas from 'base', which lacks it"),
        ("nuslerp", "ab", {}, "nuslerp takes deltas from 'base', which lacks it"),
    ],
)
def test_what_the_base_lacks_and_several_have_is_refused(
    here: Path, method: str, models: str, rest: dict[str, Any], what: str
) -> None:
    for name in "ab":
        give(here / name, BASELESS)
    rest = {"parameters": {"weight": 0.5}, "base_model": "base", "tensors": "union", **rest}
    write_recipe(here, method, list(models), **rest)
    called = mergec("check", "recipe.yml")
    assert called.code == 2
    assert f"error[E140]: only 'a' and 'b' have {BASELESS}, and {what}; hint: tensors: intersection" in called.err


def test_a_rule_takes_what_the_base_lacks(here: Path) -> None:
    for name in "ab":
        give(here / name, BASELESS)
    rules = [{"match": BASELESS, "copy": "a"}]
    found = made(here, "ties", base_model="base", rules=rules, parameters={"weight": 1, "density": 0.5})
    assert torch.equal(found[BASELESS], tensors_of(here / "a")[BASELESS])
    assert {LONE, PAIR, EXTRA} <= found.keys()


def test_too_few_for_the_method_are_refused(here: Path) -> None:
    write_recipe(here, "model_stock", ["a", "b", "c"], base_model="base", tensors="union")
    give(here / "a", BASELESS)
    give(here / "base", BASELESS)
    called = mergec("check", "recipe.yml")
    assert f"error[E140]: only 'base' and 'a' have {BASELESS}, and model_stock needs 2 models or more" in called.err


def test_slices_take_what_their_sources_have(here: Path) -> None:
    whole = [{"model": name, "layer_range": [0, 2]} for name in ("base", "a", "b", "c")]
    rest = {"base_model": "base", "tensors": "union", "parameters": {"weight": 0.5}, "slices": [{"sources": whole}]}
    merged(write_recipe(here, "task_arithmetic", [], **rest), here / "sliced")
    plain = made(here, "task_arithmetic", base_model="base")
    sliced = tensors_of(here / "sliced")
    assert sliced.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in sliced.items())
    del rest["tensors"]
    write_recipe(here, "task_arithmetic", [], **rest)
    called = mergec("check", "recipe.yml")
    assert called.code == 2
    assert f"'c' has the tensor {EXTRA}, which 'base' lacks; hint: `tensors: union` takes such tensors" in called.err


def test_a_threshold_of_the_whole_model_needs_the_same_models_everywhere(here: Path) -> None:
    parameters = {"weight": 0.5, "density": 0.5, "scope": "model"}
    write_recipe(here, "ties", ["a", "b", "c"], base_model="base", tensors="union", parameters=parameters)
    called = mergec("check", "recipe.yml")
    assert "recipe.yml:" in called.err
    assert "error[E118]" in called.err
    found = made(here, "ties", "ab", base_model="base", parameters=parameters)  # here one is copied, none merged
    assert torch.equal(found[LONE], tensors_of(here / "base")[LONE])


def test_other_models_are_refused_all_the_same(here: Path) -> None:
    tensors = {f"other.{number}": torch.ones(2) for number in range(9)}
    save_file(tensors, here / "c" / "model.safetensors")
    write_recipe(here, "linear", ["a", "c"], tensors="union", parameters={"weight": 1})
    called = mergec("check", "recipe.yml")
    assert "error[E320]: 'c' has 9 tensors" in called.err


def test_state_dicts_in_memory_are_merged_so_too(here: Path) -> None:
    a, b = {"x": torch.ones(2), "y": torch.ones(2)}, {"x": torch.zeros(2)}
    found = package.merge("linear", {"a": a, "b": b}, parameters={"weight": 1}, tensors="union")
    assert found["x"].tolist() == [0.5, 0.5]
    assert found["y"].tolist() == [1, 1]


@pytest.mark.parametrize("more", [{"random_order": "mergekit", "compat": "mergekit"}, {"merge_method": "emr"}])
def test_what_needs_whole_models_says_so(here: Path, more: dict[str, Any]) -> None:
    settings = {"base_model": "base", "tensors": "union", **more}
    write_recipe(here, settings.pop("merge_method", "dare_linear"), ["a", "b"], **settings)
    called = mergec("check", "recipe.yml")
    assert called.code == 2
    assert "found 'random_order' beside 'tensors'" in called.err or "of whole models, found 'tensors'" in called.err
