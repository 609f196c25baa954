"""Vocabularies by mergekit and by mergec: the same rows for the same tokens, whatever their numbers.

New tokens of a union are numbered in the recipe's order here, in the order of a set there, so rows are compared by
token. `compat: mergekit` has a row per token, as the peer.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import write_adapter
from differential import Recipe, run_ours, run_peer
from models import tensors_of
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor
from vocabularies import ids_of, word_tokenizer, write_llama

pytest.importorskip("mergekit")

WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(27))]
HEADS = ("model.embed_tokens.weight", "lm_head.weight")
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"parameters": {"weight": 1.0}},
    "task_arithmetic": {"parameters": {"weight": 0.4}},
    "ties": {"parameters": {"weight": 0.6, "density": 0.5}},
    "slerp": {"parameters": {"t": 0.3}},
    "dare_ties": {"parameters": {"weight": 0.5, "density": 1.0}},
    "model_stock": {},
    "nuslerp": {"parameters": {"weight": 0.5}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with two rows of padding; `a` has these rows for two tokens more, `b` other words in another order."""
    made = tmp_path_factory.mktemp("vocabularies")
    chat = [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    write_llama(made / "base", word_tokenizer(WORDS, eos_token="</s>"), 32, 0)
    write_llama(made / "a", word_tokenizer(WORDS, chat, eos_token="</s>"), 32, 1)
    write_llama(made / "b", word_tokenizer([*WORDS[:3], "new", *WORDS[26:2:-1]], chat[1:]), 29, 2)
    return made


def recipe_for(method: str, folder: Path, **more: Any) -> Recipe:
    labels = ["b"] if method == "slerp" else ["a", "b"]
    models = [{"model": str(folder / label)} for label in labels]
    return {"merge_method": method, "base_model": str(folder / "base"), "models": models, **METHODS[method], **more}


def both(recipe: Recipe, out: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The vocabulary tensors of mergec and of the peer by token, all others as they are."""
    results = []
    for run, name in ((run_ours, "ours"), (run_peer, "peer")):
        run(recipe, out / name)
        ids, tensors = ids_of(out / name), tensors_of(out / name)
        rows = [ids[token] for token in sorted(ids)]
        assert json.loads((out / name / "config.json").read_text())["vocab_size"] == len(tensors[HEADS[0]])
        results.append((ids.keys(), {name: one[rows] if name in HEADS else one for name, one in tensors.items()}))
    assert results[0][0] == results[1][0]
    return results[0][1], results[1][1]


def assert_near(ours: dict[str, Tensor], peer: dict[str, Tensor], slack: float = 1e-7) -> None:
    assert ours.keys() == peer.keys()
    for name, expected in peer.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=slack, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("source", ["union", "base", "b"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_source(method: str, source: str, folder: Path, tmp_path: Path) -> None:
    named = str(folder / source) if source == "b" else source
    assert_near(*both(recipe_for(method, folder, tokenizer_source=named), tmp_path))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp"])
def test_models_of_several_dtypes(method: str, dtype: str | None, folder: Path, tmp_path: Path) -> None:
    """Rows that models lend each other are of the dtype that holds all of theirs, or are cast as the recipe says."""
    for label, kind in (("base", torch.bfloat16), ("a", torch.float32), ("b", torch.bfloat16)):
        shutil.copytree(folder / label, tmp_path / label)
        tensors = {name: one.to(kind) for name, one in tensors_of(folder / label).items()}
        save_file(tensors, tmp_path / label / "model.safetensors", {"format": "pt"})
    more = {"dtype": dtype} if dtype else {}
    ours, peer = both(recipe_for(method, tmp_path, tokenizer_source="union", **more), tmp_path)
    for name, expected in peer.items():
        assert ours[name].dtype == expected.dtype, name
        slack = 2e-3 if expected.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(ours[name], expected, rtol=1e-2 if slack > 1e-3 else 1e-5, atol=slack)


def test_rules_for_tokens(folder: Path, tmp_path: Path) -> None:
    a, b = str(folder / "a"), str(folder / "b")
    tokens = {
        "w3": {"source": a, "force": True},
        "fresh": {"source": {"kind": "model_token", "model": a, "token": "<|im_start|>"}},
        "by number": {"source": {"kind": "model_token", "model": b, "token_id": 3}},
        "nought": {"source": {"kind": "zero"}},
        "new": {"source": {"kind": "model_token", "model": a, "token": "w1"}, "force": True},
    }
    tokenizer = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 16}
    ours, peer = both(recipe_for("linear", folder, tokenizer=tokenizer), tmp_path)
    assert_near(ours, peer)
    rows = [tensors_of(tmp_path / name)[HEADS[0]] for name in ("ours", "peer")]
    assert rows[0].shape == rows[1].shape == (48, 16)
    torch.testing.assert_close(rows[0][-5:], rows[1][-5:])


@pytest.mark.parametrize("modules", [["embed_tokens", "lm_head", "q_proj"], ["q_proj"]])
def test_rows_that_an_adapter_changes(modules: list[str], folder: Path, tmp_path: Path) -> None:
    """A chat adapter of a model with two tokens more; the peer has PEFT write the whole model first."""
    write_adapter(folder / "a", tmp_path / "adapter", r=3, lora_alpha=6, target_modules=modules)
    models = [{"model": one} for one in (f"{folder}/a+{tmp_path}/adapter", str(folder / "b"))]
    recipe = recipe_for("linear", folder, models=models, tokenizer={"source": "union"})
    ours, peer = both(recipe, tmp_path)
    assert_near(ours, peer, 1e-6)
