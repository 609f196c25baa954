"""Nested configs: every part is found with its path, and the size of the vocabulary is said wherever it was."""

from __future__ import annotations

from typing import Any

from mergec.compiler.nested import at, parts, set_rows

CONFIG: dict[str, Any] = {
    "vocab_size": 8,
    "text_config": {"vocab_size": 7, "rope_config": {"theta": 1}},
    "vision_config": {"vocab_size": 5},
    "talker_config": {"text_config": {"vocab_size": 8}},
    "quantization_config": "none",
}


def test_a_config_and_all_inside_it_are_parts_with_their_paths() -> None:
    found = dict(parts(CONFIG))
    assert found[()] is CONFIG
    assert found["talker_config", "text_config"] is CONFIG["talker_config"]["text_config"]
    assert set(found) == {
        (),
        ("text_config",),
        ("text_config", "rope_config"),
        ("vision_config",),
        ("talker_config",),
        ("talker_config", "text_config"),
    }


def test_what_another_config_lacks_is_empty_there() -> None:
    assert at(CONFIG, ("text_config", "rope_config")) == {"theta": 1}
    assert at(CONFIG, ("quantization_config", "rope_config")) == {}
    assert at({}, ("text_config",)) == {}


def test_rows_are_said_at_the_top_of_text_and_where_the_number_before_was() -> None:
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIG.items()}
    config["talker_config"] = {"text_config": {"vocab_size": 8}}
    set_rows(config, 8, 10)
    assert config["vocab_size"] == config["text_config"]["vocab_size"] == 10
    assert config["talker_config"]["text_config"]["vocab_size"] == 10
    assert config["vision_config"]["vocab_size"] == 5
    unsaid = {"text_config": {"hidden_size": 2}}
    set_rows(unsaid, 8, 10)
    assert unsaid == {"text_config": {"hidden_size": 2}}
