"""Models with adapters: the tensors that PEFT makes, found from the factors, and every tensor accounted for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import furthest, write_adapter
from checkpoints import linear, merged, write_recipe
from models import Family, tensors_of
from safetensors.torch import load_file, save_file

import mergec
from mergec.errors import RecipeError
from mergec.keys import plan_keys

Families = Callable[..., Family]

LAYERS = ["q_proj", "v_proj", "down_proj"]


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {"r": 4, "lora_alpha": 8, "target_modules": LAYERS}),
        ("llama", {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": LAYERS}),
        (
            "llama",
            {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": LAYERS,
                "rank_pattern": {"layers.1.self_attn.q_proj": 6, "down_proj": 2},
                "alpha_pattern": {"v_proj": 1, r"layers\.[02].*down_proj": 5},
            },
        ),
        ("llama", {"r": 4, "use_dora": True, "target_modules": LAYERS}),
        ("llama", {"r": 4, "target_modules": LAYERS, "modules_to_save": ["lm_head", "norm"]}),
        ("llama", {"r": 3, "target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
        ("qwen2", {"r": 4, "target_modules": LAYERS, "bias": "all"}),
        ("qwen2", {"r": 4, "target_modules": ["q_proj"], "bias": "lora_only"}),
        ("qwen2", {"r": 4, "target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
        ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(sorted(value)),
)
def test_a_model_with_an_adapter_is_what_peft_makes_of_it(
    architecture: str, config: dict[str, Any], family: Families, tmp_path: Path
) -> None:
    base = family(architecture).base
    expected = write_adapter(base, tmp_path / "adapter", architecture, **config)
    merged(write_recipe(tmp_path, "passthrough", [f"{base}+{tmp_path}/adapter"]), tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert set(found) == set(tensors_of(base))
    assert furthest(found, expected) < 2e-6
    assert furthest(found, tensors_of(base)) > 0.01


def test_an_adapter_in_a_merge_is_a_model(family: Families, tmp_path: Path) -> None:
    """The same numbers as with models that were made of the adapters before."""
    base = family("llama").base
    for number, name in enumerate("ab"):
        made = write_adapter(base, tmp_path / name, r=4, lora_alpha=8 + number, target_modules=LAYERS[number:])
        plain = tmp_path / f"whole-{name}"
        plain.mkdir()
        save_file(made, plain / "model.safetensors")
        (plain / "config.json").write_bytes((base / "config.json").read_bytes())
    settings = {"base_model": base, "parameters": {"weight": 0.7, "density": 0.6}}
    merged(write_recipe(tmp_path, "ties", ["whole-a", "whole-b"], **settings), tmp_path / "expected")
    recipe = write_recipe(tmp_path, "ties", [f"{base}+a", f"{base}+b"], **settings)
    merged(recipe, tmp_path / "found")
    assert furthest(tensors_of(tmp_path / "found"), tensors_of(tmp_path / "expected")) < 1e-3
    same = [
        float((left - right).abs().max()) < 2e-6
        for left, right in zip(
            tensors_of(tmp_path / "found").values(), tensors_of(tmp_path / "expected").values(), strict=True
        )
    ]
    assert sum(same) > len(same) * 0.8  # rounding may move an entry across a threshold


def test_the_arithmetic_is_float32_with_one_rounding(family: Families, tmp_path: Path) -> None:
    base = family("llama", torch.bfloat16).base
    write_adapter(base, tmp_path / "adapter", r=4, lora_alpha=8)
    name = "model.layers.1.self_attn.q_proj"
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    left, right = (factors[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "BA")
    exact = tensors_of(base)[f"{name}.weight"].double() + 2 * left @ right
    made = {}
    for label, settings in {
        "stored": {},
        "wide": {"out_dtype": "float32"},
        "rounded": {"out_dtype": "float32", "lora_merge_dtype": "bfloat16"},
        "mergekit": {"out_dtype": "float32", "compat": "mergekit"},
    }.items():
        merged(write_recipe(tmp_path, "passthrough", [f"{base}+adapter"], **settings), tmp_path / label)
        made[label] = tensors_of(tmp_path / label)[f"{name}.weight"]
    assert torch.equal(made["stored"], made["wide"].to(torch.bfloat16))
    assert float((made["wide"] - exact).abs().max()) < 1e-7
    assert torch.equal(made["rounded"], made["stored"].float())
    assert torch.equal(made["mergekit"], made["rounded"])
    assert not torch.equal(made["wide"], made["rounded"])


def test_an_adapter_alone_is_added_to_the_model_it_names(family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "adapter", r=4)
    expected = merged(write_recipe(tmp_path, "passthrough", [f"{base}+adapter"]), tmp_path / "expected")
    found = merged(write_recipe(tmp_path, "passthrough", ["adapter"]), tmp_path / "found")
    assert found["model.safetensors"] == expected["model.safetensors"]
    assert found["config.json"] == expected["config.json"]
    assert "adapter_config.json" not in found
    models = mergec.compile(tmp_path / "recipe.yml").models
    assert [(model.role, model.reference, model.origin) for model in models] == [
        ("models[0]", "adapter", str(tmp_path / "adapter")),
        ("base of adapter", str(base), str(base)),
    ]


def test_an_adapter_is_in_keys_digests_and_the_plan(family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4)
    recipe = linear(tmp_path, f"{base}+a", base)
    plan = mergec.compile(recipe)
    name = "model.layers.0.self_attn.q_proj.weight"
    keys = plan_keys(plan)
    assert {file.path for file in plan.files} == {
        str(base / "model.safetensors"),
        str(tmp_path / "a/adapter_model.safetensors"),
    }
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 5}))
    other = plan_keys(mergec.compile(recipe))
    assert {tensor for tensor in keys if keys[tensor] != other[tensor]} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)
    }
    sources = next(output for output in plan.outputs if output.name == name).sources
    assert sum(ref.file.endswith("adapter_model.safetensors") for ref in sources) == 2


def test_an_archive_of_torch_is_read_as_an_adapter(family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4)
    expected = merged(write_recipe(tmp_path, "passthrough", [f"{base}+a"]), tmp_path / "expected")
    weights = tmp_path / "a/adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "a/adapter_model.bin")
    weights.unlink()
    found = merged(write_recipe(tmp_path, "passthrough", [f"{base}+a"]), tmp_path / "found")
    assert found["model.safetensors"] == expected["model.safetensors"]


def test_the_tokenizer_of_an_adapter_goes_with_it(family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4)
    (tmp_path / "a/tokenizer.json").write_text("{}")
    (tmp_path / "a/chat_template.jinja").write_text("{{ x }}")
    found = merged(write_recipe(tmp_path, "passthrough", [f"{base}+a"]), tmp_path / "out")
    assert found["chat_template.jinja"] == b"{{ x }}"
    assert found["tokenizer.json"] == b"{}"


def test_a_plus_in_a_path_is_a_letter(family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    (tmp_path / "my+base").symlink_to(base)
    write_adapter(base, tmp_path / "an+adapter", r=4)
    expected = merged(write_recipe(tmp_path, "passthrough", ["my+base"]), tmp_path / "plain")
    assert tensors_of(tmp_path / "plain").keys() == tensors_of(base).keys()
    found = merged(write_recipe(tmp_path, "passthrough", ["my+base+an+adapter"]), tmp_path / "out")
    assert found["model.safetensors"] != expected["model.safetensors"]


def test_names_of_a_bare_model_are_found(family: Families, tmp_path: Path) -> None:
    """GPT-2 is published without the first word of its names."""
    base = family("gpt2").base
    expected = write_adapter(base, tmp_path / "a", "gpt2", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    bare = tmp_path / "bare"
    bare.mkdir()
    save_file(
        {name.removeprefix("transformer."): t for name, t in tensors_of(base).items()}, bare / "model.safetensors"
    )
    (bare / "config.json").write_bytes((base / "config.json").read_bytes())
    merged(write_recipe(tmp_path, "passthrough", ["bare+a"]), tmp_path / "out")
    found = {f"transformer.{name}": tensor for name, tensor in tensors_of(tmp_path / "out").items()}
    assert furthest(found, expected) < 2e-6


@pytest.mark.parametrize("method", ["ties", "fr"])  # rows, and whole matrices
def test_bytes_do_not_depend_on_tiles_or_workers(method: str, family: Families, tmp_path: Path) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4, use_dora=True, target_modules=[*LAYERS, "lm_head"])
    settings = {"weight": 1, "density": 0.5} if method == "ties" else {}
    recipe = write_recipe(tmp_path, method, [f"{base}+a", family("llama").a], base_model=base, parameters=settings)
    found = []
    for tile, workers in ((1 << 18, 2), (40, 1)):
        plan = mergec.compile(recipe, workers=workers)
        plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=tile))
        plan.run(tmp_path / f"out {workers}", device="cpu")
        found.append((tmp_path / f"out {workers}" / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def message(recipe: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        mergec.compile(recipe)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"peft_type": "IA3"}, "E341", "one of the kind IA3"),
        ({"layer_replication": [[0, 2]]}, "E341", "replicated layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "E341", "changes the base model"),
        ({"r": 5}, "E343", "its config says rank 5"),
        ({"r": "four"}, "E340", "r is 'four'"),
        ({"rank_pattern": {"(": 3}}, "E340", "'(' is no pattern"),
        ({"use_dora": True}, "E344", "has no lora_magnitude_vector"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(
    change: dict[str, Any], code: str, part: str, family: Families, tmp_path: Path
) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4)
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    text = message(write_recipe(tmp_path, "passthrough", [f"{base}+a"]))
    assert f"error[{code}]" in text
    assert part in text


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("rename", "code", "part"),
    [
        ({f"{FIRST}.lora_A.weight": ""}, "E344", f"has {FIRST}.lora_B.weight, expected A and B of"),
        ({f"{FIRST}.lora_A.weight": f"{FIRST}.lora_C.weight"}, "E341", "a tensor of no known kind"),
        (
            {f"{FIRST}.lora_{part}.weight": f"{FIRST.replace('.0.', '.7.')}.lora_{part}.weight" for part in "AB"},
            "E342",
            "is for model.layers.7.self_attn.q_proj.weight, which the model does not have",
        ),
        (
            {f"{FIRST}.lora_{part}.weight": f"{FIRST.replace('q_', 'k_')}.lora_{part}.weight" for part in "AB"},
            "E343",
            "has factors of a [32, 32] matrix",
        ),
    ],
)
def test_a_tensor_that_fits_nowhere_is_an_error(
    rename: dict[str, str], code: str, part: str, family: Families, tmp_path: Path
) -> None:
    base = family("llama").base
    write_adapter(base, tmp_path / "a", r=4)
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = {rename.get(name, name): tensor for name, tensor in load_file(file).items()}
    tensors.pop("", None)
    save_file(tensors, file)
    text = message(write_recipe(tmp_path, "passthrough", [f"{base}+a"]))
    assert f"error[{code}]" in text
    assert part in text


def test_a_tied_head_is_not_adapted_behind_the_models_back(family: Families, tmp_path: Path) -> None:
    base = family("qwen2").base
    write_adapter(base, tmp_path / "a", "qwen2", r=4, target_modules=["q_proj", "lm_head"])
    expected = "changes lm_head.weight, which the model's config ties to its input embedding; hint: merge the adapter"
    assert expected in message(write_recipe(tmp_path, "passthrough", [f"{base}+a"]))
