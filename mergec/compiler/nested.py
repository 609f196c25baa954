"""Nested: a config and the configs inside it, such as a multimodal model's `text_config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Keys: TypeAlias = tuple[str, ...]


def parts(config: dict[str, Any], path: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """A config and all that are nested in it, each with its path."""
    yield path, config
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            yield from parts(value, (*path, key))


def at(config: Mapping[str, Any], path: Keys) -> Mapping[str, Any]:
    """What stands at a path of another config; empty where there is no config."""
    for key in path:
        found = config.get(key)
        config = found if isinstance(found, dict) else {}
    return config


def set_rows(config: dict[str, Any], before: int | None, rows: int) -> None:
    """Make a config, in place, say that the vocabulary has so many rows, for `before`.

    It is said at the top, of text, and wherever the number before was said.
    """
    for path, part in parts(config):
        said = part.get("vocab_size")
        if type(said) is int and (path in ((), ("text_config",)) or said == before):
            part["vocab_size"] = rows
