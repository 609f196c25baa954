"""Biases: the result's config says what biases it has, and what a config cannot say is warned of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tensors_of
from recipes_fixtures import CONFIG, SHAPES, mergec, write_model

from mergec.compiler.biases import agree

BIASES = {f"model.layers.{layer}.self_attn.q_proj.bias": (4,) for layer in range(2)}
# fmt: off
CASES: list[tuple[dict[str, Any], bool]] = [
    ({"merge_method": "linear", "models": [{"model": "plain"}, {"model": "biased"}], "tensors": "union"}, True),
    ({"merge_method": "linear", "models": [{"model": "biased"}, {"model": "plain"}], "tensors": "union"}, True),
    ({"merge_method": "linear", "models": [{"model": "biased"}, {"model": "plain"}], "tensors": "intersection"}, False),
    ({"merge_method": "linear", "models": [{"model": "biased"}], "rules": [{"match": "*.bias", "drop": True}]}, False),
    (
        {"merge_method": "linear", "models": [{"model": "plain"}], "rules": [{"match": "*.bias", "copy": "biased"}]},
        True,
    ),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model without biases and one with those of q, whose configs say so."""
    write_model(tmp_path / "plain", config=CONFIG | {"attention_bias": False})
    write_model(tmp_path / "biased", shapes=SHAPES | BIASES, config=CONFIG | {"attention_bias": True}, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("recipe", "expected"), CASES)
def test_the_config_says_whether_there_are_biases(recipe: dict[str, Any], expected: bool, here: Path) -> None:
    parameters = {"parameters": {"weight": 0.5}}
    Path("r.yml").write_text(json.dumps({**recipe, **parameters}))
    called = mergec("run", "r.yml", "out", "--device", "cpu")
    assert called.code == 0, called.err
    assert json.loads(Path("out/config.json").read_text())["attention_bias"] is expected
    assert (BIASES.keys() <= tensors_of(Path("out")).keys()) is expected
    donor = (recipe["models"][0]["model"] == "biased") is not expected
    assert ("config: attention_bias is" in mergec("plan", "r.yml").out) is donor


def test_layers_with_and_without_biases_are_warned_of(here: Path) -> None:
    sources = [{"sources": [{"model": one, "layer_range": [n, n + 1]}]} for n, one in enumerate(("plain", "biased"))]
    Path("r.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": sources}))
    assert mergec("run", "r.yml", "out").code == 0
    assert (
        "r.yml:1:18: warning[W731]: some layers have the biases of attention_bias, and 1 tensor of others are not "
        "there: model.layers.0.self_attn.q_proj.bias; hint: they are zeros when the result is loaded"
    ) in mergec("check", "r.yml").err
    assert json.loads(Path("out/config.json").read_text())["attention_bias"] is True
    assert torch.equal(
        tensors_of(Path("out"))["model.layers.1.self_attn.q_proj.bias"],
        tensors_of(Path("biased"))["model.layers.1.self_attn.q_proj.bias"],
    )


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({"text_config": {"attention_bias": False}}, [], {"text_config": {"attention_bias": True}}),
        ({"attention_bias": True}, [], {"attention_bias": True}),  # it means other tensors than these
        ({"use_bias": False}, [], {"use_bias": False}),
        ({"attention_bias": False}, ["vision_tower.layers.0.self_attn.q_proj.bias"], {"attention_bias": True}),
    ],
)
def test_fields_that_mean_something_else_are_left_alone(
    config: dict[str, Any], before: list[str], after: dict[str, Any]
) -> None:
    agree(config, before, ["model.layers.0.self_attn.q_proj.bias"])
    assert config == after
