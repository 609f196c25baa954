"""Tiny dense models of the types that mixtures of experts are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from vocabularies import word_tokenizer

VOCABULARY, HIDDEN, INNER, LAYERS = 96, 32, 48, 3
PARTS = ("gate_proj", "up_proj", "down_proj")


def dense_config(model_type: str, **changed: Any) -> Any:
    import transformers

    names = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": model_type.startswith("qwen"),
    }
    if model_type == "qwen3":
        sizes["head_dim"] = 16
    return getattr(transformers, names[model_type])(**{**sizes, **changed})


def write_dense(folder: Path, model_type: str, seed: int, dtype: torch.dtype = torch.float32, **changed: Any) -> Path:
    """A model with random numbers in every tensor, its config as transformers writes it."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(dense_config(model_type, **changed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def write_family(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, **changed: Any) -> Path:
    """The models base, a and b of one type; the base has a tokenizer that knows w0, w1, ... from number 3 on."""
    for seed, name in enumerate(("base", "a", "b")):
        write_dense(folder / name, model_type, seed, dtype, **changed)
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(VOCABULARY - 3))]
    word_tokenizer(words, bos_token="<s>", eos_token="</s>").save_pretrained(folder / "base")
    return folder


def write_moe(path: Path, experts: list[Any], **rest: Any) -> Path:
    """A recipe of a mixture; experts are references, or entries. JSON is YAML."""
    entries = [one if isinstance(one, dict) else {"source_model": one} for one in experts]
    path.write_text(json.dumps({"base_model": "base", "gate_mode": "random", "experts": entries, **rest}, indent=1))
    return path
