"""Configs of mixtures: what a dense model's config leaves out means the same in the mixture's."""

from __future__ import annotations

from typing import Any

import pytest

from mergec.compiler.families import FAMILIES, Counts

SPARSE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
KEPT = ("num_key_value_heads", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "hidden_act")
KEPT += ("tie_word_embeddings", "attention_dropout", "hidden_size", "vocab_size", "num_hidden_layers")
PAIRS = [(family, one) for family in FAMILIES if family.name != "DeepSeek MoE" for one in family.takes]


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@pytest.mark.parametrize(("family", "model_type"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_what_is_left_out_means_the_same(family: Any, model_type: str) -> None:
    from transformers import AutoConfig

    dense = AutoConfig.for_model(model_type, **SPARSE)
    made = family.config({"model_type": model_type, **SPARSE}, Counts(4, 2, len(family.shared) - 1), has_bias=False)
    mixed = AutoConfig.for_model(made.pop("model_type"), **made)
    assert {key: getattr(mixed, key) for key in KEPT} == {key: getattr(dense, key) for key in KEPT}
    assert head_dim(mixed) == head_dim(dense)
    assert (getattr(mixed, "sliding_window", None) or None) == (
        dense.sliding_window if model_type == "mistral" else None
    )
    assert mixed.num_experts_per_tok == 2
    assert getattr(mixed, "num_local_experts", None) or mixed.num_experts == 4
