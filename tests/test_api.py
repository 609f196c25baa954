"""The Python interface: plans that run themselves, and merges of state dicts in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mergec
from mergec.keys import plan_hash
from mergec.ops.registry import methods

SHAPES = {
    "model.embed_tokens.weight": (11, 6),
    "model.layers.0.mlp.up_proj.weight": (40, 60),
    "model.layers.1.mlp.up_proj.weight": (40, 60),
    "model.norm.weight": (6,),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "slerp": {"t": [0.2, 0.7]},
    "passthrough": {"scale": 0.5},
    "model_stock": {},
    "linear": {"weight": 0.5},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.2},
    "della_linear": {"weight": 0.5, "density": 0.5, "epsilon": 0.2},
    "task_arithmetic": {"weight": [0.2, 0.9]},
}


def state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in SHAPES.items()}


STATES = {name: state(seed) for seed, name in enumerate(("base", "a", "b", "c"))}


@pytest.mark.parametrize("name", methods())
def test_a_merge_in_memory_equals_the_merge_of_files_bit_for_bit(name: str, tmp_path: Path) -> None:
    method = methods()[name]
    labels = "abc"[: method.models[1] or 3]
    common = {"weight": 0.5, "density": 0.5, "t": 0.3, "select_topk": 0.4}
    settings = SETTINGS.get(name, {key: value for key, value in common.items() if key in method.parameters})
    for label, tensors in STATES.items():
        (tmp_path / label).mkdir()
        save_file(tensors, tmp_path / label / "model.safetensors")
    listed = "".join(f"  - model: {label}\n" for label in labels)
    origin = "base_model: base\n" if method.base != "input" else ""
    (tmp_path / "r.yml").write_text(f"merge_method: {name}\n{origin}models:\n{listed}parameters: {settings}\nseed: 5\n")
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "out")
    base = STATES["base"] if method.base != "input" else None
    merged = mergec.merge(name, {label: STATES[label] for label in labels}, base=base, parameters=settings, seed=5)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for file in (tmp_path / "out").glob("*/*.safetensors"):  # the parts of an artifact, called as in a plan
        folder = "shared" if file.parent.name == "shared" else f"experts/{file.stem}"
        written |= {f"{folder}/{key}": tensor for key, tensor in load_file(file).items()}
    assert merged.keys() == written.keys()
    assert all(torch.equal(merged[key], written[key]) for key in written)


def test_inputs_are_left_alone() -> None:
    before = {name: tensor.clone() for name, tensor in STATES["a"].items()}
    mergec.merge("linear", [STATES["a"], STATES["b"]], parameters={"weight": 0.5})
    assert all(torch.equal(before[name], tensor) for name, tensor in STATES["a"].items())


def test_settings_of_single_models_and_filters() -> None:
    merged = mergec.merge(
        "linear",
        {"a": STATES["a"], "b": STATES["b"]},
        parameters={"weight": [{"filter": "norm", "value": 0}, {"value": 1}], "normalize": False},
        model_parameters={"b": {"weight": 0}},
    )
    assert not merged["model.norm.weight"].any()
    assert torch.equal(merged["model.embed_tokens.weight"], STATES["a"]["model.embed_tokens.weight"])


def test_out_dtype_and_shapes() -> None:
    merged = mergec.merge("slerp", [STATES["a"]], base=STATES["base"], parameters={"t": 0.5}, out_dtype="float32")
    assert {name: tuple(tensor.shape) for name, tensor in merged.items()} == SHAPES
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


def test_integers_are_copied_from_the_base() -> None:
    ids, others = {"position_ids": torch.arange(7)}, {"position_ids": torch.arange(7) + 1}
    merged = mergec.merge("task_arithmetic", [others], base=ids, parameters={"weight": 1})
    assert torch.equal(merged["position_ids"], ids["position_ids"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"method": "tis"}, r"E200.*unknown merge method 'tis'; hint: did you mean 'ties'\?"),
        ({"parameters": {"weight": 1, "densty": 1}}, r"E202.*did you mean 'density'\?"),
        ({"parameters": {}}, r"E201.*ties needs a 'weight' for 'a'"),
        ({"base": None}, r"E210.*no 'base_model'"),
        ({"models": {"a": {"w": torch.zeros(3)}}}, "E320"),
        ({"models": {"a": {**STATES["a"], "model.norm.weight": torch.zeros(7)}}}, r"E323.*\[7\].*\[6\]"),
        ({"model_parameters": {"z": {"weight": 1}}}, "E101.*model that is not there: z"),
        ({"models": {"base": STATES["a"]}}, "E212.*the base's own name"),
        ({"out_dtype": "bfloat"}, r"E104.*did you mean 'bfloat16'\?"),
    ],
)
def test_mistakes_are_recipe_errors(call: dict[str, Any], message: str) -> None:
    sound = {"method": "ties", "models": {"a": STATES["a"]}, "base": STATES["base"], "parameters": {"weight": 1.0}}
    with pytest.raises(mergec.RecipeError, match=message):
        mergec.merge(**{**sound, **call})


def test_compile_takes_overrides_and_reports_all_that_is_wrong(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        save_file(STATES[label], tmp_path / label / "model.safetensors")
    recipe = tmp_path / "r.yml"
    recipe.write_text("merge_method: linear\nmodels:\n- model: a\n- model: b\nparameters: {weight: 1}\n")
    plain = mergec.compile(recipe)
    other = mergec.compile(recipe, overrides={"models.1.parameters.weight": 3}, workers=1)
    assert plan_hash(plain) != plan_hash(other)
    assert other.memory.workers == 1
    with pytest.raises(mergec.RecipeError) as caught:
        mergec.compile(recipe, overrides={"parameters.weight": "x", "models.0.model": "z"})
    assert {problem.code for problem in caught.value.problems} == {"E205", "E300"}
