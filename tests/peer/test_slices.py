"""Slices run by mergekit and by mergec: equal names, numbers of layers and numbers, wherever settings stand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from differential import Recipe, assert_same, fitted, run_ours, run_peer, tolerance
from huggingface_hub.errors import StrictDataclassError
from models import Family, auto_class, tensors_of

pytest.importorskip("mergekit")


def source(model: str, first: int, end: int, **parameters: Any) -> Recipe:
    return {"model": model, "layer_range": [first, end], "parameters": parameters}


def sliced(method: str, *slices: Recipe, **rest: Any) -> Recipe:
    return {"merge_method": method, "slices": list(slices), **rest}


FILTER = [{"filter": "FILTER", "value": 0.25}, {"value": 1.0}]
CASES: dict[str, Recipe] = {
    "layers of two models, one after the other": sliced(
        "passthrough", {"sources": [source("a", 0, 1)]}, {"sources": [source("b", 1, 2)]}
    ),
    "layers that overlap": sliced("passthrough", {"sources": [source("a", 0, 2)]}, {"sources": [source("b", 0, 2)]}),
    "layers again, scaled by a filter": sliced(
        "passthrough",
        {"sources": [source("a", 0, 2)]},
        {"sources": [source("a", 0, 2, scale=[{"filter": "FILTER", "value": 0.0}, {"value": 1.0}])]},
    ),
    "slerp, gradients over a slice": sliced(
        "slerp",
        {"sources": [source("base", 0, 2), source("a", 0, 2)]},
        base_model="base",
        parameters={"t": [{"filter": "FILTER", "value": [0, 0.5, 0.3, 0.7, 1]}, {"value": [0.2, 0.8]}]},
    ),
    "slices of one layer take the last knot": sliced(
        "slerp",
        {"sources": [source("base", 0, 1), source("a", 1, 2)]},
        {"sources": [source("base", 1, 2), source("a", 0, 1)], "parameters": {"t": [0.4, 0.6]}},
        base_model="base",
        parameters={"t": [0.1, 0.9]},
    ),
    "a base for each slice": sliced(
        "slerp",
        {"sources": [source("base", 0, 1), source("a", 0, 1)], "base_model": "base", "parameters": {"t": 0.3}},
        {"sources": [source("b", 1, 2), source("a", 1, 2)], "base_model": "b", "parameters": {"t": 0.7}},
    ),
    "a source's settings before its slice's, these before the recipe's": sliced(
        "linear",
        {"sources": [source("a", 0, 1, weight=FILTER), source("b", 0, 1)], "parameters": {"weight": 0.7}},
        {"sources": [source("a", 1, 2), source("c", 1, 2, weight=0.2)]},
        parameters={"weight": 0.4, "normalize": False},
    ),
    "a slice's filter that does not match falls through": sliced(
        "linear",
        {
            "sources": [source("a", 0, 2), source("b", 0, 2, weight=[{"filter": "FILTER", "value": 0.9}])],
            "parameters": {"weight": [{"filter": "norm", "value": 0.3}]},
        },
        parameters={"weight": [0.1, 0.6]},
    ),
    "ties": sliced(
        "ties",
        {"sources": [source("base", 0, 2), source("a", 0, 2, density=0.4), source("b", 0, 2)]},
        base_model="base",
        parameters={"weight": 0.5, "density": 0.7},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_slices_give_the_peers_numbers(
    architecture: str, case: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    models = family(architecture, torch.float32)
    recipe = fitted(CASES[case], architecture, models)
    with contextlib.suppress(StrictDataclassError):  # over a config that lists layers; the weights are there
        run_peer(recipe, tmp_path / "peer")
    run_ours(recipe, tmp_path / "ours")
    unit = tolerance({**recipe, "models": [{}]})
    assert_same(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer"), {}, unit)
    loaded, info = auto_class(architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert loaded.config.num_hidden_layers == sum(end - first for first, end in map(layers, recipe["slices"]))
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def layers(one: Recipe) -> list[int]:
    found: list[int] = one["sources"][0]["layer_range"]
    return found
