"""What mergekit reads as another value than mergec does, or in a form that mergec has not: found, and said plainly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mergec.recipe.document import Document, Path
from mergec.recipe.peer.differences import named_models


class Respelt(NamedTuple):
    """A value to be written in place of the one at a path, and why."""

    path: Path
    value: Any
    what: str
    hint: str = ""


def respelt(document: Document, in_yaml_1_1: Any) -> Iterator[Respelt]:
    """Models given as mappings, and scalars that mean something else in YAML 1.1, which mergekit reads."""
    for path, value in named_models(document.value):
        if isinstance(value, dict) and (reference := _reference(value)):
            what = f"the model is given as a mapping, here it is text: {reference}"
            override = "override_architecture" in value
            hint = (
                "the architecture is read from the weights' names, override_architecture is dropped" if override else ""
            )
            yield Respelt(path, reference, what, hint)
    yield from _scalars(document.value, in_yaml_1_1, (), False)


def _reference(value: dict[str, Any]) -> str:
    """`{model: {path, revision}, lora: ...}` as `path@revision+lora@revision`; "" where it would be read otherwise."""
    parts = [_path(value[key]) for key in ("model", "lora") if value.get(key) is not None]
    return "+".join(parts) if all(parts) and value.get("model") is not None else ""


def _path(value: Any) -> str:
    if isinstance(value, str):
        return value if "+" not in value else ""
    path, revision = (value.get("path"), value.get("revision")) if isinstance(value, dict) else (None, None)
    if not isinstance(path, str) or "+" in path or "@" in path:
        return ""
    return f"{path}@{revision}" if revision else path


def _scalars(ours: Any, theirs: Any, path: Path, is_setting: bool) -> Iterator[Respelt]:
    """Settings and layers that differ: `yes` is true there, `010` is 8."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            inside = is_setting or key in ("parameters", "layer_range")
            yield from _scalars(value, theirs.get(key, value), (*path, key), inside and key != "filter")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from _scalars(one, other, (*path, number), is_setting)
    elif is_setting and isinstance(theirs, (bool, int, float)) and repr(ours) != repr(theirs) and ours != theirs:
        yield Respelt(path, theirs, f"mergekit reads YAML 1.1, in which {ours} is {_text(theirs)}: written so")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
