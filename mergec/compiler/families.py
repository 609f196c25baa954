"""Families: the kinds of mixtures that others load - what they are made of, their tensors' names, their configs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Config: TypeAlias = dict[str, Any]

MATRICES = ("gate_proj", "up_proj", "down_proj")
"""The matrices of a dense model's MLP, the last of which writes to the residual stream."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# What a dense model's config stands for where it lacks a key, and a mixture's would stand for something else.
_DEFAULTS: Mapping[str, Config] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}


class Counts(NamedTuple):
    """How many experts a layer has, how many of them a token is sent to, and how many are shared."""

    experts: int
    per_token: int
    shared: int


@dataclass(frozen=True)
class Family:
    """A kind of mixture.

    `takes` are the types of dense models that it is made of, `shared` how many shared experts it has, `biases` the
    projections of attention that may have one. `block` is what a layer's mixture is called, `parts` what the matrices
    of its experts are. `says` is what its config has beside the base's. A family that `routes_shared` weighs its
    shared expert by a router of its own.
    """

    name: str
    takes: tuple[str, ...]
    says: Callable[[Config, Counts], Config]
    shared: tuple[int, ...] = (0,)
    biases: tuple[str, ...] = ()
    block: str = "mlp"
    parts: Mapping[str, str] = field(default_factory=lambda: {part: part for part in MATRICES})
    shared_name: str = ""
    routes_shared: bool = False

    def expert(self, layer: str, number: int, part: str) -> str:
        """The name of a matrix of an expert; `layer` is the layer's name, such as model.layers.3."""
        return f"{layer}.{self.block}.experts.{number}.{self.parts[part]}.weight"

    def shared_expert(self, layer: str, part: str) -> str:
        return f"{layer}.{self.block}.{self.shared_name}.{self.parts[part]}.weight"

    def router(self, layer: str) -> str:
        return f"{layer}.{self.block}.gate.weight"

    def shared_router(self, layer: str) -> str:
        return f"{layer}.{self.block}.{self.shared_name}_gate.weight"

    def config(self, base: Mapping[str, Any], counts: Counts, has_bias: bool) -> Config:
        """The config of a mixture: the base's own, as far as it is not about MLPs, and what the family adds.

        `has_bias` says whether the base's attention has biases.
        """
        config: Config = copy.deepcopy(dict(base))
        for key, value in {"rms_norm_eps": 1e-6, **_DEFAULTS[base["model_type"]]}.items():
            config.setdefault(key, value)
        for key in ("auto_map", "pretraining_tp", "mlp_bias"):
            config.pop(key, None)
        config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
        if "rope_parameters" not in config:
            config.setdefault("rope_theta", 10000.0)
        config["attention_bias"] = has_bias
        said = {"num_experts_per_tok": counts.per_token, **self.says(config, counts)}
        return config | said


def _mixtral(base: Config, counts: Counts) -> Config:
    del base["attention_bias"]  # it has no biases, and no key that could say so
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": counts.experts,
        "sliding_window": base.get("sliding_window"),
    }


def _deepseek(base: Config, counts: Counts) -> Config:
    home = "deepseek-ai/deepseek-moe-16b-base"
    return {
        "architectures": ["DeepseekForCausalLM"],
        "model_type": "deepseek",
        "n_routed_experts": counts.experts,
        "n_shared_experts": counts.shared or None,
        "first_k_dense_replace": 0,
        "moe_layer_freq": 1,
        "scoring_func": "softmax",
        "norm_topk_prob": True,
        "moe_intermediate_size": base["intermediate_size"],
        "auto_map": {
            "AutoConfig": f"{home}--configuration_deepseek.DeepseekConfig",
            "AutoModel": f"{home}--modeling_deepseek.DeepseekModel",
            "AutoModelForCausalLM": f"{home}--modeling_deepseek.DeepseekForCausalLM",
        },
    }


def _qwen(base: Config, counts: Counts) -> Config:
    """What mixtures of both generations of Qwen say."""
    return {
        "num_experts": counts.experts,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "moe_intermediate_size": base["intermediate_size"],
    }


def _qwen2(base: Config, counts: Counts) -> Config:
    window = base.get("sliding_window") if base["model_type"] == "mistral" else None
    everywhere = ["sliding_attention"] * base["num_hidden_layers"]
    return {
        **_qwen(base, counts),
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": base["intermediate_size"],
        "qkv_bias": base.pop("attention_bias"),
        **({"use_sliding_window": True, "layer_types": everywhere} if window else {}),
    }


def _qwen3(base: Config, counts: Counts) -> Config:
    return {**_qwen(base, counts), "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}


FAMILIES = (
    Family(
        "Mixtral",
        ("llama", "mistral"),
        _mixtral,
        block="block_sparse_moe",
        parts={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    ),
    Family("DeepSeek MoE", ("llama", "mistral"), _deepseek, (0, 1), _ATTENTION, shared_name="shared_experts"),
    Family(
        "Qwen MoE",
        ("llama", "mistral", "qwen2"),
        _qwen2,
        (1,),
        _ATTENTION[:3],
        shared_name="shared_expert",
        routes_shared=True,
    ),
    Family("Qwen3 MoE", ("qwen3",), _qwen3, (0,), _ATTENTION),
)
"""In the order in which one is chosen where several will do."""
DENSE = tuple(dict.fromkeys(model_type for family in FAMILIES for model_type in family.takes))
