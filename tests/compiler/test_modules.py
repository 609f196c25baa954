"""Modules: every tensor of a multimodal or an encoder-decoder model is in the module a user would say it is in."""

from __future__ import annotations

import pytest

from mergec.compiler.modules import modules_of
from mergec.errors import Place

LLAVA = [
    "model.language_model.embed_tokens.weight",
    "model.language_model.layers.0.mlp.up_proj.weight",
    "model.language_model.norm.weight",
    "model.vision_tower.vision_model.encoder.layers.0.fc1.weight",
    "model.vision_tower.vision_model.post_layernorm.weight",
    "model.multi_modal_projector.linear_1.weight",
    "lm_head.weight",
]
QWEN_VL = [
    "visual.blocks.0.attn.qkv.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]
T5 = ["shared.weight", "encoder.block.0.w", "encoder.final_layer_norm.weight", "decoder.block.0.w", "lm_head.weight"]


def split(names: list[str], *modules: str) -> tuple[list[str], list[str]]:
    found, problems = modules_of(names, {name: Place("r.yml", n, 1) for n, name in enumerate(modules)})
    return [found.get(name, "-") for name in names], [problem.code for problem in problems]


@pytest.mark.parametrize(
    ("names", "modules", "expected"),
    [
        (
            LLAVA,
            ("text_decoder", "vision_tower", "multi_modal_projector"),
            [*["text_decoder"] * 3, *["vision_tower"] * 2, "multi_modal_projector", "text_decoder"],
        ),
        (LLAVA, ("vision_tower", "default"), [*["default"] * 3, *["vision_tower"] * 2, "default", "default"]),
        (QWEN_VL, ("text_decoder", "vision_model"), ["vision_model", *["text_decoder"] * 3]),
        (T5, ("encoder", "decoder"), ["decoder", "encoder", "encoder", "decoder", "decoder"]),
        (T5, ("shared", "encoder", "decoder"), ["shared", "encoder", "encoder", "decoder", "decoder"]),
        (T5, ("encoder.block", "default"), ["default", "encoder.block", *["default"] * 3]),
    ],
)
def test_modules_are_found_by_name(names: list[str], modules: tuple[str, ...], expected: list[str]) -> None:
    assert split(names, *modules) == (expected, [])


def test_what_no_module_takes_is_not_lost_in_silence() -> None:
    found, codes = split(LLAVA, "text_decoder", "vision_tower")
    assert (found[5], codes) == ("-", ["E117"])


def test_a_module_of_no_tensor_is_an_error() -> None:
    assert split(LLAVA, "default", "audio_tower")[1] == ["E116"]
