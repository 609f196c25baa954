"""Configs that disagree: with each other in what weights compute, and with the biases that the result has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergec.compiler.analysis import Analysis
from mergec.compiler.biases import BIASES
from mergec.compiler.names import few, natural
from mergec.errors import Problem, count

# What the same weights compute something else with; shapes, layers and vocabularies are checked elsewhere.
_MEANING = (
    *("max_position_embeddings", "n_positions", "sliding_window", "partial_rotary_factor"),
    *("num_attention_heads", "num_key_value_heads", "n_head", "num_heads", "head_dim"),
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    *("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    *("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
    *("num_experts_per_tok", "norm_topk_prob"),
)


def disagreements(analysis: Analysis) -> Iterator[Problem]:
    """A warning for each model whose config says otherwise than that of the model which gives the result its config."""
    donor = analysis.models[analysis.recipe.references[0]]
    if donor.checkpoint.config is None:
        return
    expected = meaning(donor.checkpoint.text_config)
    for model in analysis.models.values():
        found = meaning(model.checkpoint.text_config) if model.checkpoint.config is not None else expected
        differ = [key for key in expected if key in found and found[key] != expected[key]]
        if differ:
            said = few([f"{key} {found[key]} (in '{donor.reference}' {expected[key]})" for key in differ])
            what = f"the config of '{model.reference}' differs in what weights compute: {said}"
            hint = f"the result has the config of '{donor.reference}'; another base_model brings its own"
            yield Problem(model.place, "W730", what, hint)


def uneven_biases(analysis: Analysis) -> Iterator[Problem]:
    """A warning where some layers have biases that others lack, which a config can only say of all layers."""
    for key, pattern in BIASES.items():
        weights = [name.removesuffix(".weight") for name in analysis.layers if name.endswith(".weight")]
        biases = [f"{module}.bias" for module in weights if pattern.search(f"{module}.bias")]
        kinds = {_kind(bias) for bias in biases if bias in analysis.layers}
        lacking = sorted((b for b in biases if b not in analysis.layers and _kind(b) in kinds), key=natural)
        if lacking:
            absent = f"{count(len(lacking), 'tensor')} of others are not there: {few(lacking)}"
            hint = "they are zeros when the result is loaded; a rule that drops the others makes all layers alike"
            place = analysis.recipe.document.place(("merge_method",))
            yield Problem(place, "W731", f"some layers have the biases of {key}, and {absent}", hint)


def _kind(bias: str) -> str:
    """Which projection of a layer a bias is of."""
    return bias.split(".")[-2]


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that say what weights compute; those of rotations by one name, wherever they stand."""
    said = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    rotations: Mapping[str, Any] = next((one for one in said if isinstance(one, Mapping)), {})
    kind = rotations.get("rope_type", rotations.get("type", "default"))
    theta = config.get("rope_theta", rotations.get("rope_theta"))
    scaling = {key: value for key, value in rotations.items() if key not in ("rope_theta", "rope_type", "type")}
    found = {key: config[key] for key in _MEANING if config.get(key) is not None}
    found |= {"rope_theta": float(theta)} if isinstance(theta, int | float) else {}
    by_kind = any(isinstance(value, Mapping) for value in scaling.values())  # rotations for each kind of layer
    return found | {"rotations": {"type": kind, **scaling} if kind != "default" or by_kind else "unscaled"}
