"""Restack: a config as it must be for layers that were put together from slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergec.compiler.inventory import Stacked
from mergec.compiler.nested import at, parts
from mergec.errors import count

# Lists that name layers by number, in place of one entry per layer.
_NO_COUNTS = ("max_window_layers", "first_k_dense_replace")  # numbers of layers, but not how many there are
_NUMBERING = ("_layers", "_idxs", "_indices", "_layer_ids", "_indexes")


def restack(config: dict[str, Any], stacked: Stacked, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Make a config, in place, say how many layers there are now and, for each, what its own model says of it.

    Counts of layers, lists with an entry per layer (`layer_types`) and lists of layers' numbers (`mlp_only_layers`)
    are found by the number of layers the first model has in that stack. Returns notes on what was changed.
    """
    changed = []
    for path, part in parts(config):
        sources = [(at(configs[reference], path), layer) for reference, layer in stacked.origins]
        if not _is_of(path, part, stacked):
            continue
        for key, value in part.items():
            new = _restacked(key, part, stacked, sources)
            if new is not None and new != value:
                part[key] = new
                changed.append(key)
    number = count(len(stacked.origins), "layer")
    if not changed and len(stacked.origins) != stacked.before:
        return [f"{stacked.stack} has {number} now, and no entry of the config says how many there were"]
    return [f"config: {', '.join(changed)} as for {number} in {stacked.stack}"] if changed else []


def _is_of(path: tuple[str, ...], part: Mapping[str, Any], stacked: Stacked) -> bool:
    """Whether a part of a config is about the stack: its words do not say that it is about another tower."""
    words = [word for word in ("vision", "audio", "text", "encoder", "decoder") if path and word in path[-1]]
    stack = stacked.stack.lower()
    if words and words != ["text"]:
        return any(word[:3] in stack for word in words)
    return not (words and any(word in stack for word in ("vis", "audio")))


def _restacked(
    key: str, part: Mapping[str, Any], stacked: Stacked, sources: list[tuple[Mapping[str, Any], int]]
) -> Any:
    """What a key of a part of the config must say now; None where it is not about layers."""
    value = part[key]
    if type(value) is int:
        is_count = value == stacked.before and _counts_layers(key, part, stacked.stack)
        return len(stacked.origins) if is_count else None
    if not isinstance(value, list):
        return None
    if key.endswith(_NUMBERING) and all(type(item) is int and 0 <= item < stacked.before for item in value):
        return [new for new, (config, layer) in enumerate(sources) if layer in config.get(key, value)]
    if len(value) == stacked.before:
        return [_entry(config.get(key, value), layer, value) for config, layer in sources]
    return None


def _entry(own: Any, layer: int, otherwise: list[Any]) -> Any:
    return own[layer] if isinstance(own, list) and layer < len(own) else otherwise[layer]


def _counts_layers(key: str, part: Mapping[str, Any], stack: str) -> bool:
    """Whether a key is how many layers a stack has; where a decoder has a key of its own, others are the encoder's."""
    if "layer" not in key or key in _NO_COUNTS:
        return False
    is_decoder = "decoder" in stack and any("decoder" in other and "layer" in other for other in part)
    return ("decoder" in key) == is_decoder
