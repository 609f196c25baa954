"""Prefixes: one architecture saved with and without the first word of its names, such as `transformer.` of GPT-2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mergec.compiler.models import Model
from mergec.compiler.names import is_head


def called_alike(models: Mapping[str, Model]) -> dict[str, Model]:
    """Models by the names of the first one, where all of a model's tensors differ from them by one first word only.

    Base models on the hub are often saved as `h.0.attn...`, and what was trained of them as `transformer.h.0.attn...`.
    """
    result = dict(models)
    for model in list(models.values())[1:]:
        first = next(iter(models.values()))
        renamed = names_by_prefix(model.tensors, first.tensors)
        if renamed:
            sources = {renamed.get(name, name): source for name, source in model.tensors.items()}
            one, other = next(iter(renamed.items()))
            note = f"{model.reference}: tensors are called as in {first.reference}, {other} for {one}"
            result[model.reference] = replace(model, sources=sources, notes=(*model.notes, note))
    return result


def names_by_prefix(found: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """New names for all tensors but heads, if a first word that is added or taken off makes them those expected.

    >>> names_by_prefix(["h.0.w", "wte"], ["transformer.h.0.w", "transformer.wte", "lm_head.weight"])
    {'h.0.w': 'transformer.h.0.w', 'wte': 'transformer.wte'}
    >>> names_by_prefix(["h.0.w"], ["layers.0.w"])
    {}
    """
    ours, theirs = ([name for name in names if not is_head(name)] for names in (found, expected))
    if not ours or set(ours) & set(theirs):
        return {}
    added, taken = theirs[0].partition(".")[0] if theirs else "", ours[0].partition(".")[0]
    for renamed in (
        {name: f"{added}.{name}" for name in ours},
        {name: name.removeprefix(f"{taken}.") for name in ours},
    ):
        if set(renamed.values()) == set(theirs):
            return renamed
    return {}
