"""References: how a recipe names a model - as text, or as a mapping of path, revision and adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergec.errors import did_you_mean

_WHOLE = ("model", "lora")
_PART = ("path", "revision")
_ARCHITECTURE = "tensors are known by their names, so that no architecture is looked up: remove it"

Flaw = tuple[tuple[str, ...], str, str]
"""What is wrong with a mapping: the path of the key in it, what was found, a hint."""


def reference_text(value: Any) -> Any:
    """A mapping `{model: {path, revision}, lora: {path, revision}}` as `path@revision+lora@revision`; text as it is.

    What is wrong is left to `flaws_of`, and such a value is given back as it came.
    """
    if not isinstance(value, dict) or any(flaws_of(value)):
        return value
    return "+".join(_part(value[key]) for key in _WHOLE if value.get(key) is not None)


def flaws_of(value: dict[Any, Any]) -> Iterator[Flaw]:
    """Everything that is wrong with a mapping that stands for a model."""
    for key in value:
        if key == "override_architecture":
            yield (key,), "'override_architecture' has no meaning here", _ARCHITECTURE
        elif key not in _WHOLE:
            yield (str(key),), f"unknown key '{key}' in a model's reference", did_you_mean(str(key), _WHOLE)
    if value.get("model") is None:
        yield (), "a model's reference has no 'model'", "write `model: {model: {path: PATH}}`, or the path as text"
    for name in _WHOLE:
        yield from _flaws_of_part(name, value.get(name))


def _flaws_of_part(name: str, part: Any) -> Iterator[Flaw]:
    if part is None or _is_text(part):
        return
    if not isinstance(part, dict):
        yield (name,), f"'{name}' of a model's reference is neither text nor a mapping", "write {path: PATH}"
        return
    for key in part:
        if key not in _PART:
            yield (name, str(key)), f"unknown key '{key}' in a model's reference", did_you_mean(str(key), _PART)
    if not _is_text(part.get("path")):
        yield (name,), f"'{name}' of a model's reference has no 'path'", "write {path: PATH}"
    if part.get("revision") is not None and not _is_text(part["revision"]):
        yield (name, "revision"), "a revision is text", "quote it: a commit, a branch or a tag"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _part(part: str | dict[str, str]) -> str:
    if isinstance(part, str):
        return part.strip()
    revision = part.get("revision")
    return f"{part['path'].strip()}@{revision.strip()}" if revision else part["path"].strip()
