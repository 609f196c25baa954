"""Differences as programs read them: JSON-able values, which docs/diff.md describes."""

from __future__ import annotations

from typing import Any

from mergec.compiler.diff import Cause, Difference, Lone
from mergec.compiler.sides import Side
from mergec.errors import Place
from mergec.recipe.compare import ABSENT

DIFF_FORMAT = 1


def diff_json(found: Difference | Lone) -> dict[str, Any]:
    """A difference as JSON-able values."""
    if isinstance(found, Lone):
        return {
            "format": DIFF_FORMAT,
            "recipe": found.name,
            "same": False,
            "is": "added" if found.is_added else "removed",
        }
    rebuild = found.rebuild
    return {
        "format": DIFF_FORMAT,
        "old": _side(found.old),
        "new": _side(found.new),
        "same": found.is_same,
        "causes": [_cause(one) for one in found.causes],
        "changed": list(found.changed),
        "added": list(found.added),
        "removed": list(found.removed),
        "files": list(found.files),
        "inputs": list(found.inputs),
        "rebuild": {
            "computed": rebuild.computed._asdict(),
            "reused": rebuild.reused._asdict(),
            "read_bytes": rebuild.read_bytes,
            "clean_read_bytes": rebuild.clean_read_bytes,
        }
        if rebuild
        else None,
    }


def _side(side: Side) -> dict[str, Any]:
    return {"name": side.label, "plan": side.hash, "method": side.method}


def _cause(cause: Cause) -> dict[str, Any]:
    change = cause.change
    return {
        "path": change.label,
        "sort": change.sort,
        "old": _jsonable(change.old),
        "new": _jsonable(change.new),
        "old_place": _place(change.was_at),
        "new_place": _place(change.place),
        "changed": list(cause.changed),
        "values": [
            {"parameter": one.setting.parameter, "model": one.setting.slot or None, "old": one.old, "new": one.new}
            | {"tensors": list(one.tensors)}
            for one in cause.shifts
        ],
        "no_effect": [
            {"why": idle.why, "wording": idle.is_wording, "tensors": list(idle.tensors)} for idle in cause.idle
        ],
    }


def _jsonable(value: Any) -> Any:
    return None if value is ABSENT else value


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {"file": place.file, "line": place.line, "column": place.column}
