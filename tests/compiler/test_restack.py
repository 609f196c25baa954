"""Restack: whatever a config says about layers, it says about those that the result has."""

from __future__ import annotations

from typing import Any

import pytest

from mergec.compiler.inventory import Stacked
from mergec.compiler.restack import restack

TYPES = ["full", "sliding", "full", "sliding"]


def stacked(*origins: tuple[str, int], stack: str = "model.layers", before: int = 4) -> Stacked:
    return Stacked(stack, before, origins)


def restacked(config: dict[str, Any], made: Stacked, **others: dict[str, Any]) -> dict[str, Any]:
    original = dict(config)
    restack(config, made, {"a": original, **others})
    return config


def test_counts_and_lists_follow_the_layers() -> None:
    config = {"num_hidden_layers": 4, "layer_types": TYPES, "hidden_size": 4, "max_window_layers": 4}
    made = restacked(config, stacked(("a", 0), ("a", 1), ("a", 1), ("a", 2), ("a", 3)))
    assert made == {
        "num_hidden_layers": 5,
        "layer_types": ["full", "sliding", "sliding", "full", "sliding"],
        "hidden_size": 4,
        "max_window_layers": 4,
    }


def test_each_layer_keeps_what_its_own_model_says_of_it() -> None:
    other = {"layer_types": ["other"] * 4}
    made = restacked({"num_hidden_layers": 4, "layer_types": TYPES}, stacked(("a", 0), ("b", 3)), b=other)
    assert made["layer_types"] == ["full", "other"]


def test_layers_that_are_listed_by_number_get_their_new_numbers() -> None:
    config = {"num_hidden_layers": 4, "mlp_only_layers": [0, 3]}
    made = restacked(config, stacked(("a", 3), ("a", 1), ("a", 0), ("a", 3)))
    assert made["mlp_only_layers"] == [0, 2, 3]


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ("model.language_model.layers", {"text_config": 2, "vision_config": 4}),
        ("model.vision_tower.layers", {"text_config": 4, "vision_config": 2}),
    ],
)
def test_the_config_of_another_tower_is_left_alone(stack: str, expected: dict[str, int]) -> None:
    config = {key: {"num_hidden_layers": 4} for key in expected}
    made = restacked(config, stacked(("a", 0), ("a", 1), stack=stack))
    assert {key: part["num_hidden_layers"] for key, part in made.items()} == expected


@pytest.mark.parametrize(("stack", "expected"), [("encoder.block", (2, 4)), ("decoder.block", (4, 2))])
def test_encoder_and_decoder_are_counted_apart(stack: str, expected: tuple[int, int]) -> None:
    made = restacked({"num_layers": 4, "num_decoder_layers": 4}, stacked(("a", 0), ("a", 1), stack=stack))
    assert (made["num_layers"], made["num_decoder_layers"]) == expected


def test_a_config_that_says_nothing_of_layers_is_noted() -> None:
    config: dict[str, Any] = {"hidden_size": 4}
    (note,) = restack(config, stacked(("a", 0)), {"a": config})
    assert note == "model.layers has 1 layer now, and no entry of the config says how many there were"
