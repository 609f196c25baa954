"""Biases: the fields of a config that say whether layers have them, as the tensors of the result have it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_ELSEWHERE = r"^(?!.*(?:vision|visual|audio))"  # towers of other kinds have configs of their own
BIASES = {
    "attention_bias": re.compile(_ELSEWHERE + r".*\.(?:self_attn|attn|attention)\.[qkv]_proj\.bias$"),
    "mlp_bias": re.compile(_ELSEWHERE + r".*\.mlp\.(?:gate|up|down)_proj\.bias$"),
}
"""The biases that a field of a config is about, by their names."""


def agree(config: dict[str, Any], before: Iterable[str], names: Iterable[str]) -> list[str]:
    """Make a config, in place, say of the result's tensors what it said of those `before`; notes on what was changed.

    Fields that did not fit the tensors before are left alone: there they mean something else.
    """
    notes = []
    before, names = list(before), list(names)
    for part in (config, config.get("text_config")):
        for key, pattern in BIASES.items():
            said = part.get(key) if isinstance(part, dict) else None
            had, has = (any(map(pattern.search, some)) for some in (before, names))
            if isinstance(part, dict) and said is had and has != had:
                part[key] = has
                notes.append(f"config: {key} is {str(has).lower()}, as the result {'has' if has else 'lacks'} biases")
    return notes
