"""Flow: plain values as YAML on one line, written as it will be read."""

from __future__ import annotations

import math
import re
from typing import Any

_PLAIN = re.compile(r"(?:\.{0,2}/)?[A-Za-z_][\w./@+-]*", re.ASCII)
_SPECIAL = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def flow(value: Any) -> str:
    """A value on one line, in YAML's flow style."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {flow(item)}' for key, item in value.items())}}}"
    return f"[{', '.join(map(flow, value))}]" if isinstance(value, list) else scalar(value)


def scalar(value: Any) -> str:
    """A scalar, quoted where it would be read as something else."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf"}.get(repr(value), ".nan")
    if not isinstance(value, str):
        return str(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _SPECIAL:
        return value
    return '"' + "".join(map(_character, value)) + '"'


def _character(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
