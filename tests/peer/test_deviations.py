"""Where mergec differs from mergekit on purpose: what both do, side by side, as docs/deviations.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from differential import run_ours, run_peer
from models import Family, tensors_of
from peer_matrix import quiet
from peer_recipes import Run, merge, model, save_model, source, stack
from vocabularies import ids_of, word_tokenizer, write_llama

import mergec

pytest.importorskip("mergekit")


def test_what_stands_behind_the_layers_sees_all_sources_of_the_last_slice(llama: Family, run: Run) -> None:
    """The peer cuts the sources of the last slice to as many as the first one has."""
    last = [source(llama.a, 1, 3), source(llama.b, 1, 3)]
    found = run(stack("linear", [source(llama.a, 0, 1)], last, parameters={"weight": 0.5}))
    a, b = tensors_of(llama.a), tensors_of(llama.b)
    for name in ("lm_head.weight", "model.norm.weight"):
        assert torch.allclose(found.ours[name], (a[name] + b[name]) / 2), name
        assert torch.equal(found.peer[name], a[name]), name


def test_weights_that_cancel_are_refused_and_the_peer_divides_by_them(llama: Family, tmp_path: Path) -> None:
    recipe = merge("linear", model(llama.a, weight=0.5), model(llama.b, weight=-0.5))
    with quiet():
        run_peer(recipe, tmp_path / "peer")
    assert not tensors_of(tmp_path / "peer")["model.norm.weight"].isfinite().any()
    with pytest.raises(mergec.RecipeError, match="E206"):
        run_ours(recipe, tmp_path / "ours")


def test_a_number_that_is_none_is_refused_and_the_peer_passes_it_on(llama: Family, tmp_path: Path) -> None:
    tensors = tensors_of(llama.a)
    tensors["model.norm.weight"][0] = float("nan")
    save_model(llama.a, tensors, tmp_path / "broken")
    recipe = merge("linear", model(tmp_path / "broken", weight=0.5), model(llama.b, weight=0.5))
    with quiet():
        run_peer(recipe, tmp_path / "peer")
    assert tensors_of(tmp_path / "peer")["model.norm.weight"][0].isnan()
    with pytest.raises(Exception, match=r"model\.norm\.weight"):
        run_ours(recipe, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_second_run_with_fewer_shards_leaves_no_model_of_the_first(llama: Family, tmp_path: Path) -> None:
    """The peer leaves shards and index of the run before, and reads them in place of the new model."""
    from mergekit import config, options
    from mergekit import merge as peer

    for weight, size in ((1.0, 20_000), (0.5, 10**9)):
        recipe = merge("passthrough", model(llama.a, scale=weight))
        (tmp_path / "r.yml").write_text(json.dumps(recipe))
        mergec.compile(tmp_path / "r.yml", shard_bytes=size).run(tmp_path / "ours")
        with quiet():
            settings = options.MergeOptions(out_shard_size=size, write_model_card=False, quiet=True)
            peer.run_merge(config.MergeConfiguration.model_validate(recipe), str(tmp_path / "peer"), settings)
    assert [file.name for file in (tmp_path / "ours").glob("model*")] == ["model.safetensors"]
    assert (tmp_path / "peer" / "model.safetensors.index.json").exists()


def test_the_donor_is_the_first_model(llama: Family, tmp_path: Path) -> None:
    """The peer takes one by the order of a set of strings, another in every process."""
    for number, name in enumerate("abc"):
        save_model(llama.a, tensors_of(llama.tunes[number]), tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "bos_token_id": 10 + number}))
    recipe = merge("linear", *(model(tmp_path / name, weight=1.0) for name in "abc"))
    run_ours(recipe, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["bos_token_id"] == 10


def test_layers_that_are_stacked_keep_a_config_that_loads(family: Callable[..., Family], tmp_path: Path) -> None:
    """Of a config that lists its layers the peer writes none."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    made = family("qwen2", torch.float32)
    recipe = stack("passthrough", [source(made.a, 0, 3)], [source(made.b, 2, 3)])
    with quiet(), pytest.raises(StrictDataclassError):
        run_peer(recipe, tmp_path / "peer")
    run_ours(recipe, tmp_path / "ours")
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "ours").config.layer_types) == 4


def test_biases_that_a_config_asks_for_are_merged(llama: Family, run: Run, tmp_path: Path) -> None:
    """The peer's definition of llama has none, so its result has none, and transformers makes them up."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(llama.a, attention_bias=True, mlp_bias=True)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        made = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.02)
        made.save_pretrained(tmp_path / name)
    found = run(merge("linear", *(model(tmp_path / name, weight=0.5) for name in ("one", "two"))))
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert found.ours.keys() == one.keys()
    name = "model.layers.0.self_attn.o_proj.bias"
    assert torch.allclose(found.ours[name], (one[name] + two[name]) / 2, atol=1e-7)
    assert one.keys() - found.peer.keys() == {name for name in one if name.endswith(".bias")}
    _, info = AutoModelForCausalLM.from_pretrained(found.folder, output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())


def test_a_token_that_only_another_slices_model_has_gets_its_row(run: Run, tmp_path: Path) -> None:
    """The peer looks among the models of the slice that the embedding is merged from, and finds none."""
    words = ["<unk>", "<s>", "</s>", "w1"]
    for seed, added in enumerate(([], ["<x>"], ["<z>"])):
        write_llama(tmp_path / f"v{seed}", word_tokenizer([*words, *added]), 4 + len(added), seed)
    v0, v1, v2 = (tmp_path / f"v{seed}" for seed in range(3))
    slices = [[source(v0, 0, 1), source(one, 0, 1)] for one in (v1, v2)]
    found = run(stack("linear", *slices, parameters={"weight": 0.5}, base=v0, tokenizer_source="union"))
    row = ids_of(found.folder)["<z>"]
    embedding = "model.embed_tokens.weight"
    assert torch.equal(found.ours[embedding][row], tensors_of(v2)[embedding][4])
    assert not found.peer[embedding][ids_of(found.folder.parent / "peer")["<z>"]].any()
