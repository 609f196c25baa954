"""Differences as people and programs read them: text for a terminal, JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mergec.compiler.diff import Amount, Cause, Difference, Lone
from mergec.compiler.names import fold
from mergec.compiler.text import table
from mergec.errors import Place, count, size_text
from mergec.recipe.compare import ABSENT

DIFF_FORMAT = 1


def diff_text(found: Difference | Lone) -> str:
    """Headline, cause, effect, what has no effect, and what a rebuild takes."""
    if isinstance(found, Lone):
        return f"{found.name}  recipe {_lone(found)}"
    sections = [_headline(found), _causes(found), _effect(found), _idle(found), _rebuild(found)]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _headline(found: Difference) -> list[str]:
    old, new = (side.hash[:12] for side in (found.old, found.new))
    hashes = f"plan {old}" if old == new else f"plan {old} -> {new}"
    said = "  same result" if found.is_same else ""
    return [f"{found.old.label} -> {found.new.label}  {hashes}{said}"]


def _causes(found: Difference) -> list[str]:
    inputs = ["inputs that changed", *(f"  {name}" for name in found.inputs), ""] if found.inputs else []
    causes = [one for one in found.causes if one.changed or not any(idle.is_wording for idle in one.idle)]
    rows = [(one.change.label, one.change.owner or "", *_values(one), _places(one)) for one in causes]
    if not any(row[1] for row in rows):
        rows = [(label, *rest) for label, _, *rest in rows]
    return inputs + (["cause", *table(rows)] if rows else [])


def _values(cause: Cause) -> tuple[str, ...]:
    change = cause.change
    if change.sort == "order":
        return ("changed",)
    if change.sort in ("model", "step", "slice"):
        added = change.old is ABSENT
        return (f"{'added' if added else 'removed'} {change.new if added else change.old}".rstrip(),)
    old, new = change.old, change.new
    if len(change.knots) == 1:
        (knot,) = change.knots
        return (f"knot {knot + 1} of {len(old)}: {plain(old[knot])} -> {plain(new[knot])}",)
    return (f"{plain(old)} -> {plain(new)}",)


def plain(value: Any) -> str:
    """A value of a recipe in one line; numbers as short as they can be written."""
    if value is ABSENT:
        return "(not set)"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    return str(value)


def _places(cause: Cause) -> str:
    return " -> ".join(str(place) for place in (cause.change.was_at, cause.change.place) if place)


def _effect(found: Difference) -> list[str]:
    if found.is_same:
        return ["no tensor changes"] if found.causes else []
    tensors = found.new.tensors
    lines = []
    if found.changed:
        size, total = sum(tensors[name].bytes for name in found.changed), sum(one.bytes for one in tensors.values())
        head = f"effect: {len(found.changed):,} of {count(len(tensors), 'tensor')} change"
        lines += [f"{head}, {size_text(size)} of {size_text(total)}", *_folded(found.changed)]
    for what, names in (("added", found.added), ("removed", found.removed)):
        if names:
            lines += [f"{count(len(names), 'tensor')} {what}", *_folded(names)]
    if found.files:
        lines.append(f"files beside the weights: {', '.join(found.files)}")
    return lines


def _folded(names: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in fold(names))


def _idle(found: Difference) -> list[str]:
    lines = []
    for one in found.causes:
        for idle in one.idle:
            if idle.is_wording:
                continue
            where = f" on {count(len(idle.tensors), 'tensor')}" if idle.tensors else ""
            lines.append(f"  {one.change.label}{where}: {idle.why}")
            lines += [f"    {line}" for line in fold(idle.tensors)[:3]]
    return ["no effect", *lines] if lines else []


def _rebuild(found: Difference) -> list[str]:
    rebuild = found.rebuild
    if rebuild is None or not rebuild.computed.tensors:
        return []
    computed, reused = _amount(rebuild.computed), _amount(rebuild.reused)
    read = f"reads {size_text(rebuild.read_bytes)} (from nothing {size_text(rebuild.clean_read_bytes)})"
    return [f"rebuild: {computed} computed, {reused} reused, {read}"]


def _amount(amount: Amount) -> str:
    return f"{count(amount.tensors, 'tensor')} of {size_text(amount.bytes)}"


def _lone(found: Lone) -> str:
    return "added" if found.is_added else "removed"


def diff_json(found: Difference | Lone) -> dict[str, Any]:
    """The same as JSON-able values; docs/diff.md describes them."""
    if isinstance(found, Lone):
        return {"format": DIFF_FORMAT, "recipe": found.name, "same": False, "is": _lone(found)}
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


def _side(side: Any) -> dict[str, Any]:
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
        "no_effect": [
            {"why": idle.why, "wording": idle.is_wording, "tensors": list(idle.tensors)} for idle in cause.idle
        ],
    }


def _jsonable(value: Any) -> Any:
    return None if value is ABSENT else value


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {"file": place.file, "line": place.line, "column": place.column}
