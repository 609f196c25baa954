"""Names: folded without losing one, sorted as people count, and layers found where there are layers."""

from __future__ import annotations

import doctest
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergec.compiler import names
from mergec.compiler.names import (
    Layer,
    fold,
    has_vocabulary,
    is_embedding,
    is_head,
    layer_counts_of,
    layers_of,
    natural,
)


def expand(text: str) -> set[str]:
    """Every name a folded one stands for."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices: list[list[str]] = [[part] for part in parts]
    for number in range(1, len(parts), 2):
        runs = [run.split("-") for run in parts[number].split(",")]
        choices[number] = [str(i) for run in runs for i in range(int(run[0]), int(run[-1]) + 1)]
    return {"".join(choice) for choice in itertools.product(*choices)}


PART = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["w", "mlp", "layers", "bias", "h1", "q_proj", "01", "007", "x2y", "\u0661"]),
)
NAMES = st.sets(st.lists(PART, min_size=1, max_size=5).map(".".join), max_size=60)


@given(NAMES)
def test_a_folded_list_stands_for_exactly_its_names(tensors: set[str]) -> None:
    found = [expand(text) for text in fold(sorted(tensors))]
    assert set().union(*found) == tensors
    assert sum(map(len, found)) == len(tensors)


def test_a_regular_model_folds_to_one_line_per_kind_of_tensor() -> None:
    tensors = [f"model.layers.{i}.experts.{j}.w1.weight" for i in range(32) for j in range(8)]
    assert fold(tensors) == ["model.layers.{0-31}.experts.{0-7}.w1.weight"]


def test_a_gap_is_shown() -> None:
    assert fold(["h.0.w", "h.1.w", "h.2.w", "h.5.w"]) == ["h.{0-2,5}.w"]


def test_irregular_products_are_split_and_not_rounded_up() -> None:
    tensors = {"a.0.0", "a.0.1", "a.1.0", "b"}
    assert set().union(*map(expand, fold(sorted(tensors)))) == tensors


def test_documented_examples_hold() -> None:
    assert doctest.testmod(names).failed == 0


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20, unique=True))
def test_layers_sort_by_number_and_not_by_digit(numbers: list[int]) -> None:
    found = sorted((f"model.layers.{number}.w" for number in numbers), key=natural)
    assert found == [f"model.layers.{number}.w" for number in sorted(numbers)]


@given(NAMES)
def test_natural_order_is_total_so_that_no_set_order_shows(tensors: set[str]) -> None:
    assert len({natural(name) for name in tensors}) == len(tensors)
    assert sorted(tensors, key=natural) == sorted(sorted(tensors, reverse=True), key=natural)


LLAMA = ["input_layernorm.weight", "mlp.up_proj.weight", "self_attn.q_proj.weight", "self_attn.o_proj.weight"]
STACKS = {
    "llama": ("model.layers", LLAMA),
    "gpt2": ("h", ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "mlp.c_fc.weight"]),
    "gpt2 with a prefix": ("transformer.h", ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight"]),
    "bert": ("bert.encoder.layer", ["attention.self.query.weight", "attention.self.query.bias", "output.dense.weight"]),
    "mixtral": ("model.layers", [*LLAMA, *(f"block_sparse_moe.experts.{i}.w1.weight" for i in range(8))]),
    "a vision tower": ("vision_tower.encoder.layers", LLAMA),
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("count", [2, 3, 12, 126])
def test_every_tensor_of_a_stack_knows_its_layer(name: str, count: int) -> None:
    stack, tails = STACKS[name]
    tensors = [f"{stack}.{i}.{tail}" for i in range(count) for tail in tails]
    found = layers_of([*tensors, "model.embed_tokens.weight", "lm_head.weight"])
    assert set(found) == set(tensors)
    assert found[f"{stack}.{count - 1}.{tails[0]}"] == Layer(stack, count - 1, count)
    assert {found[f"{stack}.0.{tail}"].t for tail in tails} == {0.0}
    assert {found[f"{stack}.{count - 1}.{tail}"].t for tail in tails} == {1.0}


def test_numbers_inside_a_layer_are_no_stack() -> None:
    """An expert's number, or T5's sub-layer, must not be taken for the layer's."""
    tensors = [f"model.layers.{i}.experts.{j}.w{k}.weight" for i in range(4) for j in range(8) for k in (1, 2, 3)]
    found = layers_of(tensors)
    assert found["model.layers.1.experts.7.w3.weight"] == Layer("model.layers", 1, 4)


def test_encoder_and_decoder_are_stacks_of_their_own() -> None:
    attention = ["q", "k", "v", "o"]
    tensors = [f"encoder.block.{i}.layer.0.SelfAttention.{x}.weight" for i in range(3) for x in attention]
    tensors += [
        f"decoder.block.{i}.layer.{j}.Attention.{x}.weight" for i in range(5) for j in (0, 1) for x in attention
    ]
    tensors += ["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    found = layers_of(tensors)
    assert found["encoder.block.2.layer.0.SelfAttention.q.weight"] == Layer("encoder.block", 2, 3)
    assert found["decoder.block.4.layer.1.Attention.q.weight"] == Layer("decoder.block", 4, 5)
    assert found[tensors[-1]] == Layer("encoder.block", 0, 3)


@pytest.mark.parametrize(
    "tensors",
    [
        ["features.0.weight", "features.1.weight", "features.1.bias", "features.3.weight"],
        ["stem.0.weight", "stem.1.weight", "stem.1.bias"],
        [f"stages.{i}.{tail}" for i in (1, 2, 3) for tail in LLAMA],
        ["classifier.0.weight", "classifier.0.bias"],
        ["layer1.w", "layer2.w"],
    ],
    ids=["gaps", "stem", "not from 0", "one", "glued"],
)
def test_numbered_modules_that_are_no_layers_are_left_alone(tensors: list[str]) -> None:
    assert layers_of(tensors) == {}


def test_a_config_that_counts_the_layers_settles_it() -> None:
    tensors = ["h.0.w", "h.1.w"]
    assert layers_of(tensors) == {}
    assert layers_of(tensors, [2])["h.1.w"] == Layer("h", 1, 2)


def test_a_stack_of_one_layer_is_at_its_end() -> None:
    assert layers_of(["h.0.w"], [1])["h.0.w"].t == 1.0


def test_layer_counts_are_found_in_nested_configs_and_flags_are_not_counts() -> None:
    config = {"num_hidden_layers": 4, "vision_config": {"n_layer": 6}, "layer_scale": True, "layer_types": ["full"]}
    assert layer_counts_of(config) == {4, 6}
    assert layer_counts_of(None) == set()


@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.lm_head.weight", "embed_out.weight"])
def test_heads_are_known(name: str) -> None:
    assert is_head(name)
    assert has_vocabulary(name)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "transformer.wte.weight", "shared.weight"])
def test_embeddings_are_known(name: str) -> None:
    assert is_embedding(name)
    assert not is_head(name)


@pytest.mark.parametrize("name", ["my_lm_head.weight", "lm_head.bias", "model.layers.0.wte.bias", "xwte.weight"])
def test_names_that_only_look_alike_are_not(name: str) -> None:
    assert not has_vocabulary(name)
