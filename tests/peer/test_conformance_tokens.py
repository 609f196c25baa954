"""The cases with vocabularies (9, 10, 25) and with mixtures of experts (34): by both tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from dense import write_dense
from differential import Recipe, assert_same, run_ours, tolerance
from models import tensors_of
from peer_matrix import quiet
from peer_recipes import Results, Run, merge, model
from tokenizers import AddedToken
from torch import Tensor
from vocabularies import ids_of, word_tokenizer, write_llama

pytest.importorskip("mergekit")

WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(17))]
CHAT = (AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True))
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "base", word_tokenizer(WORDS, eos_token="</s>"), 20, 0)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """The base's words and two added tokens."""
    return write_llama(tmp_path / "chat", word_tokenizer(WORDS, CHAT, eos_token="</s>"), 22, 1)


def by_token(tensors: Mapping[str, Tensor], ids: Mapping[str, int]) -> dict[str, Tensor]:
    """Tensors of a row per token as one for each token, so that the numbers of tokens do not matter."""
    rows = {f"{name} {token}": tensors[name][number] for name in ROWS for token, number in ids.items()}
    return {name: tensor for name, tensor in tensors.items() if name not in ROWS} | rows


def same_by_token(found: Results, recipe: Recipe) -> dict[str, int]:
    ids, theirs = (ids_of(found.folder.parent / name) for name in ("ours", "peer"))
    assert ids.keys() == theirs.keys()
    ours, peer = by_token(found.ours, ids), by_token(found.peer, theirs)
    assert_same(ours, peer, {}, tolerance({**recipe, "models": [recipe]}))
    assert vocab_size(found.folder) == len(found.ours[ROWS[0]]) == len(found.ours[ROWS[1]])
    return ids


def vocab_size(folder: Path) -> int:
    size: int = json.loads((folder / "config.json").read_text())["vocab_size"]
    return size


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "task_arithmetic", "dare_ties"])
def test_case_09_a_union_with_two_more_tokens(method: str, base: Path, chat: Path, run: Run) -> None:
    settings = {"slerp": {"t": 0.4}}.get(method, {"weight": 0.6})
    whole = {"density": 1.0} if method in ("ties", "dare_ties") else {}
    models = [model(base), model(chat)] if method in ("linear", "slerp") else [model(chat)]
    recipe = merge(method, *models, base=base, parameters={**settings, **whole}, tokenizer_source="union")
    found = run(recipe)
    ids = same_by_token(found, recipe)
    assert len(ids) == 22
    if method == "linear":  # of the only model that has it
        row = tensors_of(chat)[ROWS[0]][ids_of(chat)["<|im_start|>"]]
        assert torch.allclose(found.ours[ROWS[0]][ids["<|im_start|>"]], row)


def test_case_10_the_bases_tokens_of_a_wider_model(base: Path, tmp_path: Path, run: Run) -> None:
    wide = write_llama(tmp_path / "wide", word_tokenizer(WORDS, eos_token="</s>"), 32, 2)
    models = [model(base, weight=0.5), model(wide, weight=0.5)]
    recipe = merge("linear", *models, base=base, tokenizer_source="base")
    found = run(recipe)
    same_by_token(found, recipe)
    assert vocab_size(found.folder) == 20


def test_case_25_tokens_that_are_forced_borrowed_and_padded(base: Path, chat: Path, run: Run) -> None:
    borrowed = {"kind": "model_token", "model": str(chat), "token_id": 20}
    tokens = {
        "w3": {"source": str(chat), "force": True},
        "w4": {"source": {**borrowed, "token_id": 21}, "force": True},
        "<tool>": {"source": {"kind": "model_token", "model": str(chat), "token": "<|im_end|>"}},
        "<pad>": {"source": {"kind": "zero"}},
    }
    tokenizer = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 16}
    models = [model(base, weight=0.5), model(chat, weight=0.5)]
    recipe = merge("linear", *models, base=base, tokenizer=tokenizer)
    found = run(recipe)
    ids, rows = same_by_token(found, recipe), found.ours[ROWS[0]]
    assert len(rows) == 32
    theirs = tensors_of(chat)[ROWS[0]]
    for token, row in {"w3": 6, "w4": 21, "<tool>": 21}.items():
        assert torch.allclose(rows[ids[token]], theirs[row]), token
    assert not rows[ids["<pad>"]].any()


@pytest.mark.parametrize("gate", ["random", "cheap_embed"])  # of hidden states the peer's are bfloat16: test_moe.py
def test_case_34_a_mixture_with_its_router_unless_that_is_random(gate: str, tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mergekit.scripts.moe import main
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("base", "a", "b")):
        write_dense(tmp_path / name, "llama", seed)
        tokenizer = word_tokenizer(WORDS, eos_token="</s>", bos_token="<s>", pad_token="</s>")
        tokenizer.save_pretrained(tmp_path / name)
    experts = [
        {"source_model": str(tmp_path / "a"), "residual_scale": 0.5, "positive_prompts": ["w1 w2", "w3"]},
        {"source_model": str(tmp_path / "b"), "positive_prompts": ["w4 w5 w6"], "negative_prompts": ["w7"]},
    ]
    recipe = {"base_model": str(tmp_path / "base"), "gate_mode": gate, "dtype": "float32", "experts": experts}
    run_ours(recipe, tmp_path / "ours")
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    with quiet():
        consent = "--i-understand-this-is-not-useful-without-training"
        called = CliRunner().invoke(main, [str(tmp_path / "r.yml"), str(tmp_path / "peer"), consent])
        assert called.exit_code == 0, called.output
        made = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("ours", "peer")]
    routers = {name for name in made[0] if "mlp.gate.weight" in name}
    assert routers
    left_out = routers if gate == "random" else set()
    ours, peer = ({name: one for name, one in state.items() if name not in left_out} for state in made)
    assert_same(ours, peer, {}, tolerance({"merge_method": "karcher"}))
