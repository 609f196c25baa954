"""Bugs that tools like this one had, which no other test here has been for; tests/README.md lists all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import furthest
from checkpoints import write_recipe
from conftest import Checkpoint
from models import Family, auto_class, tensors_of
from recipes_fixtures import SHAPES, write_family, write_model
from safetensors.torch import load_file, save_file
from vocabularies import word_tokenizer, write_llama

import mergec
from mergec.ops.registry import methods

DENSE = [name for name, one in methods().items() if not one.makes_artifact]
SETTINGS = {"slerp": {"t": 0.4}, "nearswap": {"t": 0.01}, "passthrough": {}, "model_stock": {}, "karcher": {}}


def recipe_for(folder: Path, name: str, base: Path, tunes: list[Path], **more: Any) -> Path:
    """A recipe of as many of the models as a method takes, with a weight where it has one."""
    method = methods()[name]
    models = tunes[: method.models[1]] if method.models[1] else tunes
    parameters = SETTINGS.get(name, {"weight": 0.3} if "weight" in method.parameters else {})
    named = {"base_model": base} if method.base in ("origin", "required") else {}
    return write_recipe(folder, name, models, parameters=parameters, **named, **more)


def test_a_tensor_that_no_table_lists_is_in_the_result(tmp_path: Path) -> None:
    shapes = {**SHAPES, "model.layers.0.self_attn.q_norm.weight": (4,), "a.name.nobody.expects": (3, 5)}
    for name in "ab":
        write_model(tmp_path / name, shapes=shapes, seed=name)
    plan = mergec.compile(write_recipe(tmp_path, "linear", [tmp_path / n for n in "ab"], parameters={"weight": 1}))
    assert {one.name for one in plan.outputs} == set(shapes)


@pytest.mark.parametrize("name", DENSE)
def test_no_method_makes_more_or_fewer_entries_than_its_models_have(name: str, tmp_path: Path) -> None:
    write_family(tmp_path)
    tunes = [tmp_path / one for one in "abc"]
    plan = mergec.compile(recipe_for(tmp_path, name, tmp_path / "base", tunes))
    assert {one.name: one.shape for one in plan.outputs} == SHAPES


def test_an_architecture_that_nobody_knows(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = {f"trunk.{n}.mix.{part}": torch.randn(4, 4) for n in range(3) for part in ("left", "right")}
    models = [checkpoint(name, {key: one + n for key, one in tensors.items()}) for n, name in enumerate("ab")]
    recipe = write_recipe(tmp_path, "linear", models, parameters={"weight": [0.5, 1.0]})
    mergec.compile(recipe).run(tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert all(torch.allclose(found[name], one + 0.5, atol=1e-6) for name, one in tensors.items())


@pytest.mark.parametrize("base_is_tied", [True, False])
@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "slerp"])
def test_a_base_and_a_model_of_which_one_has_a_head_of_its_own(
    method: str, base_is_tied: bool, family: Callable[..., Family], tmp_path: Path
) -> None:
    made = family("qwen2", torch.float32)
    tensors = tensors_of(made.b)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.01
    other = tmp_path / "untied"
    other.mkdir()
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    config = json.loads((made.b / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    base, tune = (made.base, other) if base_is_tied else (other, made.a)
    parameters = {"t": 1.0} if method == "slerp" else {"weight": 1.0}
    mergec.compile(write_recipe(tmp_path, method, [tune], base_model=base, parameters=parameters)).run(tmp_path / "out")
    found, expected = tensors_of(tmp_path / "out"), tensors_of(tune)
    expected.setdefault("lm_head.weight", expected["model.embed_tokens.weight"])
    assert torch.allclose(found["lm_head.weight"], expected["lm_head.weight"], atol=1e-6)
    loaded, info = auto_class("qwen2").from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert torch.equal(loaded.state_dict()["lm_head.weight"], found["lm_head.weight"])


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and models whose words differ in number and order."""
    folder, known = tmp_path_factory.mktemp("words"), ["<unk>", "<s>", "</s>", *"abcdefgh"]
    for seed, (name, listed) in enumerate(
        {"base": known, "one": [*known, "i"], "two": known[::-1], "three": [*known, "j", "k"]}.items()
    ):
        write_llama(folder / name, word_tokenizer(listed), len(listed), seed)
    return folder


@pytest.mark.parametrize("source", ["union", "base", "truncate"])
@pytest.mark.parametrize("name", DENSE)
def test_every_method_takes_every_policy_of_vocabularies(name: str, source: str, words: Path, tmp_path: Path) -> None:
    tunes = [words / one for one in ("one", "two", "three")]
    base = {} if methods()[name].base in ("origin", "required") else {"base_model": words / "base"}
    if base and name not in ("nuslerp", "multislerp"):
        tunes = [words / "base", *tunes][: methods()[name].models[1] or 4]
    recipe = recipe_for(tmp_path, name, words / "base", tunes, tokenizer_source=source, **base)
    mergec.compile(recipe, workers=1).run(tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"]
    assert len(found["model.embed_tokens.weight"]) == len(found["lm_head.weight"]) == rows
    assert all(tensor.isfinite().all() for tensor in found.values())


def adapter(folder: Path, seed: int) -> Path:
    """An adapter of two matrices of the first layer, written by hand: fresh numbers for each seed."""
    torch.manual_seed(seed)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.randn(2, 32) * 0.1, f"{prefix}.lora_B.weight": torch.randn(32, 2) * 0.1}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("weights", [(1.0, -1.0), (-1.0, 0.0), (0.5, 2.0)])
def test_adapters_are_added_as_products_with_their_signs(
    weights: tuple[float, float], family: Callable[..., Family], tmp_path: Path
) -> None:
    base = family("llama", torch.float32).base
    folders = [adapter(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    models = [
        {"model": f"{base}+{folder}", "parameters": {"weight": weight}}
        for folder, weight in zip(folders, weights, strict=True)
    ]
    mergec.compile(write_recipe(tmp_path, "task_arithmetic", models, base_model=base)).run(tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj"
    expected = tensors_of(base)
    for folder, weight in zip(folders, weights, strict=True):
        factors = load_file(folder / "adapter_model.safetensors")
        a, b = (factors[f"base_model.model.{name}.lora_{one}.weight"] for one in "AB")
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + weight * 2 * b @ a
    assert furthest(tensors_of(tmp_path / "out"), expected) < 1e-6


def test_a_hundred_layers_are_stacked_in_their_order(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": (2, 2), "lm_head.weight": (2, 2)}
    shapes |= {f"model.layers.{number}.w": (1, 2) for number in range(101)}
    for name in "ab":
        write_model(tmp_path / name, shapes=shapes, config={"num_hidden_layers": 101}, seed=name, shards=3)
    halves = [{"sources": [{"model": str(tmp_path / n), "layer_range": [0, 101]}]} for n in "ab"]
    (tmp_path / "r.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": halves}))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    stored = {name: tensors_of(tmp_path / name) for name in "ab"}
    for layer in range(202):
        source = stored["ab"[layer // 101]][f"model.layers.{layer % 101}.w"]
        assert torch.equal(found[f"model.layers.{layer}.w"], source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 202


def test_the_same_layer_twice_is_written_twice(family: Callable[..., Family], tmp_path: Path) -> None:
    one = {"sources": [{"model": str(family("llama", torch.float32).a), "layer_range": [0, 1]}]}
    (tmp_path / "r.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": [one, one]}))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "out")
    model = auto_class("llama").from_pretrained(tmp_path / "out")
    first, second = (layer.mlp.up_proj.weight for layer in model.model.layers)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_a_search_that_asks_for_other_settings_gets_other_results(tmp_path: Path) -> None:
    """A loop that tells scores and asks for weights: each step has its own settings, and finds the best of them."""
    write_family(tmp_path)
    recipe = write_recipe(tmp_path, "linear", [tmp_path / "a", tmp_path / "b"], parameters={"weight": 1})
    wanted = tensors_of(tmp_path / "b")
    scores = {}
    for weight in (0.0, 0.5, 1.0):
        shares = {"a": 1 - weight, "b": weight}
        models = [{"model": str(tmp_path / name), "parameters": {"weight": share}} for name, share in shares.items()]
        overrides = {"models": models, "parameters": {}}
        mergec.compile(recipe, overrides=overrides).run(tmp_path / "out", device="cpu", force=True)
        scores[weight] = furthest(tensors_of(tmp_path / "out"), wanted)
    assert scores[0.0] > scores[0.5] > scores[1.0] == 0
