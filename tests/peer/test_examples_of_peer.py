"""The recipes that mergekit ships and documents, in structure, over tiny models: each runs, and gives its numbers.

Method, keys, gradients, filters and dtypes are as there; models are those of the families here, ranges of layers fit
them. What draws at random keeps everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from dense import write_dense
from differential import assert_same, run_ours, run_peer, tolerance
from models import Family, auto_class, tensors_of
from peer_matrix import quiet
from peer_recipes import Run, assert_equal, merge, model
from recipes_fixtures import mergec as command
from vocabularies import word_tokenizer, write_llama

import mergec

pytest.importorskip("mergekit")

EXAMPLES = {
    "linear": """
models:
  - {model: A, parameters: {weight: 1.0}}
  - {model: B, parameters: {weight: 0.3}}
  - {model: C, parameters: {weight: 0.5}}
merge_method: linear
dtype: float16
""",
    "gradient-slerp": """
slices:
  - sources:
      - {model: A, layer_range: [0, 3]}
      - {model: B, layer_range: [0, 3]}
merge_method: slerp
base_model: A
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5 # for the rest
dtype: float16
""",
    "ties": """
models:
  - model: A
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: B
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: C
    parameters:
      density: 0.33
      weight:
        - {filter: mlp, value: 0.5}
        - value: 0
merge_method: ties
base_model: BASE
parameters: {normalize: true, int8_mask: true}
dtype: float32
""",
    "bio-merge": """
models:
  - {model: A, parameters: {density: 0.5, weight: 0.5}}
  - {model: B, parameters: {density: 0.5, weight: 0.5}}
merge_method: ties
base_model: BASE
parameters: {normalize: false, int8_mask: true}
dtype: float32
""",
    "orcamini-platy": """
slices:
  - sources:
    - {model: A, layer_range: [0, 2]}
  - sources:
    - {model: B, layer_range: [1, 3]}
merge_method: passthrough
dtype: float16
""",
    "gpt2-small": """
slices:
  - sources:
    - {model: A, layer_range: [0, 2]}
merge_method: passthrough
dtype: float16
""",
    "a base and empty parameters": """
models:
  - {model: A, parameters: {density: [0.8, 0.3, 0.1], weight: [1.0, 0.8, 0.5]}}
  - {model: B, parameters: {density: [0.1, 0.4, 0.1], weight: [0.2, 0.8, 0.1]}}
merge_method: ties
base_model: BASE
parameters:
dtype: float32
""",
    "models without settings": """
models:
  - model: A
  - model: B
merge_method: linear
parameters: {weight: 0.5}
dtype: float32
""",
    "dare with a seed": """
models:
  - model: BASE # no parameters: the base
  - {model: A, parameters: {density: 1.0, weight: 0.4}}
  - {model: B, parameters: {density: 1.0, weight: 0.3}}
merge_method: dare_ties
base_model: BASE
parameters: {int8_mask: true}
dtype: float32
""",
}


def fitted(text: str, family: Family) -> dict[str, object]:
    for name, folder in {"BASE": family.base, "A": family.a, "B": family.b, "C": family.c}.items():
        text = text.replace(f"model: {name}", f"model: {json.dumps(str(folder))}")
    found: dict[str, object] = yaml.safe_load(text)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_the_peers_numbers(name: str, family: Callable[..., Family], run: Run) -> None:
    made = family("gpt2" if name.startswith("gpt2") else "llama", torch.float32)
    recipe = fitted(EXAMPLES[name], made)
    run(recipe).same(recipe)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_without_compat(name: str, family: Callable[..., Family], tmp_path: Path) -> None:
    made = family("gpt2" if name.startswith("gpt2") else "llama", torch.float32)
    (tmp_path / "r.yml").write_text(yaml.safe_dump(fitted(EXAMPLES[name], made)))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "out")
    assert auto_class("gpt2" if name.startswith("gpt2") else "llama").from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_is_imported_is_the_same_merge(
    name: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    made = fitted(EXAMPLES[name], family("gpt2" if name.startswith("gpt2") else "llama", torch.float32))
    (tmp_path / "old.yml").write_text(yaml.safe_dump(made))
    called = command("import", tmp_path / "old.yml", "-o", tmp_path / "new.yml")
    assert called.code == 0, called.err
    mergec.compile(tmp_path / "new.yml").run(tmp_path / "new")
    run_ours(made, tmp_path / "ours")
    assert_equal(tensors_of(tmp_path / "new"), tensors_of(tmp_path / "ours"))


def test_arcee_fusion_as_shipped(llama: Family, tmp_path: Path) -> None:
    recipe = {**merge("arcee_fusion", model(llama.a), model(llama.b), base=llama.a), "dtype": "bfloat16"}
    run_ours(recipe, tmp_path / "out")
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_merges_of_multimodal_models_run_whole(method: str, family: Callable[..., Family], tmp_path: Path) -> None:
    made = family("llava", torch.float32)
    gradients = {"density": [1, 0.7, 0.1]} if method == "ties" else {}
    models = [model(made.a, weight=1.0, **gradients), model(made.b, weight=1.0)]
    run_ours(merge(method, *models, base=made.base if method == "ties" else None), tmp_path / "out")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(made.a).keys()
    _, info = auto_class("llava").from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())


def test_speech_models_are_merged_by_encoder_and_decoder(family: Callable[..., Family], tmp_path: Path) -> None:
    made = family("whisper", torch.float32)
    parts = {
        "encoder": {"models": [model(made.a, weight=0.7), model(made.b, weight=0.3)]},
        "decoder": {"models": [model(made.a, weight=0.5), model(made.b, weight=0.5)]},
    }
    run_ours({"merge_method": "linear", "modules": parts, "dtype": "float32"}, tmp_path / "out")
    found, a, b = (tensors_of(folder) for folder in (tmp_path / "out", made.a, made.b))
    for name, share in {"model.encoder.layers.0.fc1.weight": 0.7, "model.decoder.layers.0.fc1.weight": 0.5}.items():
        assert torch.allclose(found[name], share * a[name] + (1 - share) * b[name], atol=1e-6)


def test_a_merge_of_merges_in_one_file(llama: Family, tmp_path: Path) -> None:
    """What `mega.yml` and the page of mergekit-multi show: a slerp, trimmed with another model."""
    slerp = {**fitted(EXAMPLES["gradient-slerp"], llama), "name": "gradient-slerp", "dtype": "float32"}
    ties = {**fitted(EXAMPLES["ties"], llama), "compat": "mergekit"}
    first, *rest = ties["models"]  # type: ignore[misc]
    ties["models"] = [{**first, "model": "gradient-slerp"}, *rest]
    (tmp_path / "r.yml").write_text(yaml.safe_dump_all([{**slerp, "compat": "mergekit"}, ties]))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "ours")
    with quiet():
        run_peer({key: value for key, value in slerp.items() if key != "name"}, tmp_path / "slerp")
        last = {**ties, "models": [{**first, "model": str(tmp_path / "slerp")}, *rest]}
        run_peer({key: value for key, value in last.items() if key != "compat"}, tmp_path / "peer")
    assert_same(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer"), {}, tolerance(last))


def test_prompt_formats_of_two_chat_models(tmp_path: Path) -> None:
    """The example of its page on tokenizers: a union with tokens that are one model's, some forced."""
    words = ["<unk>", *"abcdef"]
    chatml = write_llama(tmp_path / "chatml", word_tokenizer(words, ["<|im_start|>", "<|im_end|>"]), 9, 0)
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    other = write_llama(tmp_path / "other", word_tokenizer(words, headers), 10, 1)
    tokens = {token: {"source": str(chatml)} for token in ("<|im_start|>", "<|im_end|>")}
    tokens |= {token: {"source": str(other), "force": True} for token in headers}
    recipe = merge("linear", model(chatml, weight=0.5), model(other, weight=0.5), base=chatml)
    run_ours(
        {**recipe, "tokenizer": {"source": "union", "tokens": tokens}, "chat_template": "chatml"}, tmp_path / "out"
    )
    with quiet():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {*headers, "<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys()
    assert "<|im_start|>" in tokenizer.chat_template
    forced = tensors_of(tmp_path / "out")["lm_head.weight"][tokenizer.get_vocab()["<|eot_id|>"]]
    assert torch.allclose(forced, tensors_of(other)["lm_head.weight"][9])


@pytest.mark.parametrize("gate", ["random", "cheap_embed", "hidden"])
def test_mixtures_of_its_page(gate: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        write_dense(tmp_path / name, "llama", seed)
        word_tokenizer(["<unk>", "<s>", "</s>", *"abcdefg"], bos_token="<s>", eos_token="</s>").save_pretrained(
            tmp_path / name
        )
    experts = [
        {"source_model": str(tmp_path / name), "positive_prompts": prompts}
        for name, prompts in {"one": ["a b", "c"], "two": ["d e f"]}.items()
    ]
    recipe = {"base_model": str(tmp_path / "base"), "gate_mode": gate, "dtype": "bfloat16", "experts": experts}
    if gate == "random":
        recipe["experts"] = [{"source_model": str(tmp_path / "base")}] * 8
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "out")
    loaded = auto_class("llama").from_pretrained(tmp_path / "out")
    assert loaded.config.num_local_experts == (8 if gate == "random" else 2)
