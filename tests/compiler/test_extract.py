"""Adapters extracted from fine-tuned models: PEFT loads them, and the error is what they miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import furthest
from checkpoints import contents, merged, write_recipe
from models import auto_class, tensors_of
from recipes_fixtures import mergec, write_family
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."


def extract(*arguments: object) -> dict[str, float]:
    """Run the command; the errors it prints, by kind of tensor."""
    called = mergec("extract-lora", *arguments, "--json", "--device", "cpu")
    assert called.code == 0, called.err
    last = json.loads(called.out.splitlines()[-1])
    return {**last["errors"], "all": last["all"]}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_full_rank_gives_the_model_back(architecture: str, family: Any, tmp_path: Path) -> None:
    made = family(architecture)
    errors = extract(made.base, made.a, tmp_path / "a", "--rank", 64, "--save-embeddings")
    assert max(errors.values()) < 1e-5
    merged(write_recipe(tmp_path, "passthrough", [f"{made.base}+a"]), tmp_path / "out")
    assert furthest(tensors_of(tmp_path / "out"), tensors_of(made.a)) < 1e-6


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_peft_loads_what_was_extracted(architecture: str, family: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    made = family(architecture)
    extract(made.base, made.a, tmp_path / "a", "--rank", 64, "--save-embeddings")
    loaded = auto_class(architecture).from_pretrained(made.base)
    found = PeftModel.from_pretrained(loaded, tmp_path / "a").merge_and_unload().state_dict()
    assert furthest(tensors_of(made.a), found) < 1e-6


def test_a_low_rank_is_the_best_there_is_and_its_error_is_what_is_missing(family: Any, tmp_path: Path) -> None:
    made = family("llama")
    errors = extract(made.base, made.a, tmp_path / "a", "--rank", 3)
    base, tuned = tensors_of(made.base), tensors_of(made.a)
    changed = missing = 0.0
    for name in base:
        if name.endswith("q_proj.weight"):
            values = torch.linalg.svdvals(tuned[name].double() - base[name].double())
            changed += float((values**2).sum())
            missing += float((values[3:] ** 2).sum())
    assert errors["q_proj"] == pytest.approx((missing / changed) ** 0.5, rel=1e-4)
    assert errors["embed_tokens"] == 1  # not in the adapter
    assert errors["input_layernorm"] == 0
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (3, {})


def test_ranks_that_a_matrix_does_not_have_are_smaller(family: Any, tmp_path: Path) -> None:
    made = family("llama")
    extract(made.base, made.a, tmp_path / "a", "--rank", 20)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["rank_pattern"]["model.layers.0.self_attn.k_proj"] == 16
    factors = load_file(tmp_path / "a/adapter_model.safetensors")
    assert factors[f"{PREFIX}model.layers.0.self_attn.k_proj.lora_A.weight"].shape == (16, 32)


def test_modules_are_chosen_by_regular_expressions(family: Any, tmp_path: Path) -> None:
    made = family("llama")
    extract(
        made.base, made.a, tmp_path / "a", "--rank", 2, "-i", "self_attn", "-e", r"layers\.1", "--dtype", "bfloat16"
    )
    factors = load_file(tmp_path / "a/adapter_model.safetensors")
    modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in factors}
    assert modules == {f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 2) for p in "qkvo"}
    assert {tensor.dtype for tensor in factors.values()} == {torch.bfloat16}


def test_bytes_are_equal_for_any_workers_and_a_second_run_computes_nothing(family: Any, tmp_path: Path) -> None:
    made = family("llama")
    for workers in (1, 2):
        extract(made.base, made.a, tmp_path / str(workers), "--rank", 4, "--workers", workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    called = mergec("extract-lora", made.base, made.a, tmp_path / "1", "--rank", 4)
    assert "up to date" in called.out
    assert mergec("verify", tmp_path / "1").code == 0


def test_what_cannot_be_extracted_is_said(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_family(tmp_path))
    none = mergec("extract-lora", "base", "a", "out", "-i", "nothing")
    assert none.code == 2
    assert "error[E348]: no matrix of 'a' is chosen; hint: mind --include-regex" in none.err
    transposed = mergec("extract-lora", family("gpt2").base, family("gpt2").a, "out")
    assert "error[E348]" in transposed.err
    assert "transposed" in transposed.err
    assert "no model 'bse'" in mergec("extract-lora", "bse", "a", "out").err
    assert "is no regular expression" in mergec("extract-lora", "base", "a", "out", "-i", "(").err
    fewer = {name: tensor for name, tensor in tensors_of(tmp_path / "a").items() if "norm" not in name}
    save_file(fewer, tmp_path / "a" / "model.safetensors")
    assert "hint: base and model must have the same tensors" in mergec("extract-lora", "base", "a", "out").err


def test_a_head_is_no_part_of_an_adapter_of_a_tied_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_family(tmp_path))
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    called = mergec("extract-lora", "base", "a", "out")
    assert called.code == 2
    assert "error[E348]: 'a' has a head of its own, and 'base' ties its to the input embedding" in called.err
    assert "--exclude-regex lm_head leaves it out" in called.err
    assert mergec("extract-lora", "base", "a", "out", "--exclude-regex", "lm_head").code == 0
    (tmp_path / "r.yml").write_text("merge_method: passthrough\nmodels: [{model: base+out}]\n")
    assert mergec("check", "r.yml").code == 0


def test_an_adapter_of_adapters_is_that_of_their_merge(family: Any, tmp_path: Path) -> None:
    """BASE+A and BASE+B merged and made an adapter again, without the merged model on disk."""
    made = family("llama")
    for name in "ab":
        extract(made.base, getattr(made, name), tmp_path / name, "--rank", 3)
    recipe = write_recipe(
        tmp_path,
        "task_arithmetic",
        [f"{made.base}+{tmp_path / name}" for name in "ab"],
        base_model=made.base,
        parameters={"weight": 0.5},
    )
    errors = extract(made.base, recipe, tmp_path / "both", "--rank", 6)  # no more than the sum of two of rank 3
    assert max(error for kind, error in errors.items() if kind.endswith("_proj")) < 1e-5
    merged(recipe, tmp_path / "whole")
    again = write_recipe(tmp_path, "passthrough", [f"{made.base}+both"])
    merged(again, tmp_path / "again")
    assert furthest(tensors_of(tmp_path / "again"), tensors_of(tmp_path / "whole")) < 1e-6


def test_a_recipe_that_looks_at_the_whole_model_is_refused(family: Any, tmp_path: Path) -> None:
    made = family("llama")
    recipe = write_recipe(
        tmp_path,
        "ties",
        [made.a, made.b],
        base_model=made.base,
        parameters={"weight": 1, "density": 0.5, "scope": "model"},
    )
    called = mergec("extract-lora", made.base, recipe, tmp_path / "out")
    assert called.code == 2
    assert "error[E348]" in called.err
    assert "takes numbers over the whole model" in called.err


def test_embeddings_become_factors_and_modules_are_saved_whole_where_asked(family: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    made = family("llama")
    errors = extract(made.base, made.a, tmp_path / "a", "--rank", 64, "--embed-lora", "--save-module", "lm_head")
    assert max(errors.values()) < 1e-5
    stored = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert f"{PREFIX}model.embed_tokens.lora_embedding_A" in stored
    assert stored[f"{PREFIX}lm_head.weight"].shape == tensors_of(made.a)["lm_head.weight"].shape
    loaded = auto_class("llama").from_pretrained(made.base)
    found = PeftModel.from_pretrained(loaded, tmp_path / "a").merge_and_unload().state_dict()
    assert furthest(tensors_of(made.a), found) < 1e-6
    called = mergec("extract-lora", made.base, made.a, tmp_path / "b", "--save-module", "lm_haed")
    assert called.err.strip() == "mergec: error[E348]: no module 'lm_haed' to save; hint: did you mean 'lm_head'?"
