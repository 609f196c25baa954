"""What mergekit reads as another value than mergec does, so that it is written as that value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mergec.recipe.document import Document, Path

_SHARES = "density", "select_topk"


class Respelt(NamedTuple):
    """A value to be written in place of the one at a path, and why."""

    path: Path
    value: Any
    what: str


def respelt(document: Document, in_yaml_1_1: Any) -> Iterator[Respelt]:
    """Scalars that mean something else in YAML 1.1, which mergekit reads, and shares of more than all."""
    yield from _scalars(document.value, in_yaml_1_1, (), False)
    yield from _shares(document.value, ())


def _shares(value: Any, path: Path) -> Iterator[Respelt]:
    """Densities above 1: mergekit takes all that there is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = (*path, key)
        is_share = key in _SHARES or (key == "value" and any(name in path for name in _SHARES))
        if is_share and "parameters" in here and isinstance(item, (int, float)) and item > 1:
            yield Respelt(here, 1.0, f"mergekit takes {item} as all there is: written as 1.0")
        yield from _shares(item, here)


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
