"""Where a recipe names models, and which; mappings for models as the text that means the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergec.recipe.document import Document, Path
from mergec.recipe.peer.language import KEYS
from mergec.recipe.reference import reference_text


def named_models(recipe: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """What stands wherever a recipe names a model to be merged, with its path, the base first."""
    yield ("base_model",), recipe.get("base_model")
    modules = recipe.get("modules")
    named = modules.items() if isinstance(modules, dict) else ()
    for path, holder in [((), recipe), *((("modules", name), one) for name, one in named)]:
        if not isinstance(holder, Mapping):
            continue
        yield from _entries(holder.get("models"), (*path, "models"))
        slices = holder.get("slices")
        for number, one in enumerate(slices if isinstance(slices, list) else ()):
            if isinstance(one, dict):
                yield (*path, "slices", number, "base_model"), one.get("base_model")
                yield from _entries(one.get("sources"), (*path, "slices", number, "sources"))


def _entries(entries: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield (*path, number, "model"), entry.get("model")


def references(document: Document) -> Iterator[tuple[Path, str]]:
    """Every model that a recipe names, as text, with its path."""
    for path, value in named_models(document.value):
        text = text_of(value)
        if isinstance(text, str):
            yield path, text


def text_of(value: Any) -> Any:
    """A model as text, whatever else stands in its mapping; what names none as it is."""
    if not isinstance(value, dict):
        return value
    return reference_text({key: item for key, item in value.items() if key in KEYS["reference"]})
