"""Ids: what models are called from version to version; no two may be called the same."""

from __future__ import annotations

from collections.abc import Iterator

from mergec.errors import Problem
from mergec.recipe.document import Path
from mergec.recipe.schema import ExpertEntry, ModelEntry, Recipe


def shared_ids(recipe: Recipe) -> Iterator[Problem]:
    """A slot id that stands for two models; a reference is the id of a model that has none."""
    first = {recipe.slot(base): base for _, base in recipe.bases}
    named: list[tuple[Path, ModelEntry | ExpertEntry, str, str]]
    named = [(path, entry, "model", entry.model) for path, entry in recipe.entries]
    named += [(path, entry, "source_model", entry.source_model) for path, entry in recipe.all_experts]
    for path, entry, key, reference in named:
        known = first.setdefault(entry.slot, reference)
        if known != reference:
            place = recipe.document.place((*path, "id" if entry.id else key))
            what = f"'{entry.slot}' is the id of two models, '{known}' and '{reference}'"
            yield Problem(place, "E610", what, "give each model an id of its own")
