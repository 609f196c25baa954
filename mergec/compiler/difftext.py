"""Differences as people read them: text for a terminal, Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mergec.compiler.diff import Amount, Cause, Difference, Lone, Shift
from mergec.compiler.names import fold
from mergec.compiler.text import table
from mergec.errors import UsageError, count, did_you_mean, size_text
from mergec.recipe.compare import ABSENT, rewordings

_MOST_LAYERS = 10


class Show(NamedTuple):
    """What is shown: counts alone; tensors like a pattern one by one; all values that settings have; rewordings."""

    stat: bool = False
    tensors: str | None = None
    parameters: bool = False
    wording: bool = False


PLAIN = Show()


def diff_text(found: Difference | Lone, show: Show = PLAIN) -> str:
    """Headline, cause, effect, what has no effect, and what a rebuild takes.

    Raises UsageError (E405) for a pattern that no tensor is like.
    """
    if isinstance(found, Lone):
        return f"{found.name}  recipe {_lone(found)}"
    if show.stat:
        return f"{found.old.label} -> {found.new.label}  {_counts(found)}"
    effect = _effect(found) if show.tensors is None else _one_by_one(found, show.tensors)
    values = [line for one in found.causes for line in _shifts(found, one, show.parameters)]
    wording = _wording(found) if show.wording else []
    values = ["values", *values] if values else []
    sections = [_headline(found), _causes(found), effect, values, _idle(found), wording, _rebuild(found)]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _headline(found: Difference) -> list[str]:
    old, new = (side.hash[:12] for side in (found.old, found.new))
    hashes = f"plan {old}" if old == new else f"plan {old} -> {new}"
    said = "  same result" if found.is_same else ""
    return [f"{found.old.label} -> {found.new.label}  {hashes}{said}"]


def _counts(found: Difference) -> str:
    """How many tensors change, of how many, and their bytes."""
    if found.is_same:
        return "same result"
    tensors = found.new.tensors
    size, total = sum(tensors[name].bytes for name in found.changed), sum(one.bytes for one in tensors.values())
    words = [
        f"{len(found.changed):,} of {count(len(tensors), 'tensor')} change, {size_text(size)} of {size_text(total)}"
    ]
    words += [f"{len(names):,} {what}" for what, names in (("added", found.added), ("removed", found.removed)) if names]
    words += [f"{count(len(found.files), 'other file')}"] if found.files else []
    return ", ".join(words)


def _causes(found: Difference) -> list[str]:
    inputs = ["inputs that changed", *(f"  {name}" for name in found.inputs)] if found.inputs else []
    rows: list[Sequence[str]]
    rows = [(one.change.label, one.change.owner or "", _values(one), _places(one)) for one in _real(found)]
    if not any(row[1] for row in rows):
        rows = [(label, *rest) for label, _, *rest in rows]
    return [*inputs, "cause", *table(rows)] if rows else inputs


def _real(found: Difference) -> list[Cause]:
    """Causes that are more than another wording."""
    return [one for one in found.causes if one.changed or not any(idle.is_wording for idle in one.idle)]


def _values(cause: Cause) -> str:
    change = cause.change
    if change.sort == "order":
        return "changed"
    if change.sort in ("model", "step", "slice"):
        added = change.old is ABSENT
        name = "" if change.sort == "model" else change.new if added else change.old
        return f"{'added' if added else 'removed'} {name}".rstrip()
    old, new = change.old, change.new
    if len(change.knots) == 1:
        (knot,) = change.knots
        return f"knot {knot + 1} of {len(old)}: {plain(old[knot])} -> {plain(new[knot])}"
    return f"{plain(old)} -> {plain(new)}"


def plain(value: Any) -> str:
    """A value of a recipe in one line; numbers as short as they can be written."""
    if value is ABSENT:
        return "(not set)"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    return str(value)


def _places(cause: Cause) -> str:
    return " -> ".join(str(place) for place in (cause.change.was_at, cause.change.place) if place)


def _effect(found: Difference) -> list[str]:
    if found.is_same:
        return ["no tensor changes"] if _real(found) else []
    lines = [f"effect: {_counts(found)}", *_folded(found.changed)] if found.changed else []
    for what, names in (("added", found.added), ("removed", found.removed)):
        if names:
            lines += [f"{count(len(names), 'tensor')} {what}", *_folded(names)]
    if found.files:
        lines.append(f"files beside the weights that differ: {', '.join(found.files)}")
    return lines


def _folded(names: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in fold(names))


def _one_by_one(found: Difference, pattern: str) -> list[str]:
    """The tensors like a pattern, a line each: what it is, and the settings by which it changes."""
    every = [*found.new.tensors, *found.removed]
    names = [name for name in every if fnmatchcase(name, pattern)]
    if not names:
        raise UsageError("E405", f"neither result has a tensor like '{pattern}'", did_you_mean(pattern, every[:5000]))
    rows = []
    for name in names:
        one = found.new.tensors.get(name) or found.old.tensors[name]
        shifts = [shift for cause in found.causes for shift in cause.shifts if name in shift.tensors]
        why = ", ".join(
            f"{_called(shift)} {plain(_short(shift.old))} -> {plain(_short(shift.new))}" for shift in shifts
        )
        rows.append((name, f"{one.dtype} {list(one.shape)}", _state(found, name), why))
    return [f"tensors like {pattern}", *table(rows)]


def _state(found: Difference, name: str) -> str:
    states = {"changes": found.changed, "added": found.added, "removed": found.removed}
    return next((state for state, names in states.items() if name in names), "as it was")


def _called(shift: Shift) -> str:
    return f"{shift.setting.parameter} of {shift.setting.slot}" if shift.setting.slot else shift.setting.parameter


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _shifts(found: Difference, cause: Cause, every: bool) -> Iterator[str]:
    """What a setting is, layer by layer, where it is not one value; with `every` also where it is."""
    by_setting: dict[Any, list[Shift]] = {}
    for shift in cause.shifts:
        by_setting.setdefault(shift.setting, []).append(shift)
    for shifts in by_setting.values():
        layers = _layers(found, shifts)
        if len(layers) > 1 and len(shifts) > 1:
            yield f"  {_called(shifts[0])}"
            columns = [
                ("layer", "was", "is"),
                *((str(n), plain(_short(a)), plain(_short(b))) for n, a, b in _some(layers)),
            ]
            yield from (f"  {line}" for line in table(list(zip(*columns, strict=True))))
        elif every:
            for one in shifts:
                yield f"  {_called(one)}: {plain(one.old)} -> {plain(one.new)}"
                yield from (f"    {line}" for line in fold(one.tensors))


def _layers(found: Difference, shifts: Sequence[Shift]) -> list[tuple[int, Any, Any]]:
    """The older and newer value in each layer; none where they are not one in a layer, or there are several stacks."""
    layers = found.new.analysis.layers if found.new.analysis else {}
    values: dict[int, tuple[Any, Any]] = {}
    stacks = set()
    for one in shifts:
        for name in one.tensors:
            layer = layers.get(name)
            if layer is not None:
                stacks.add(layer.stack)
                if values.setdefault(layer.index, (one.old, one.new)) != (one.old, one.new):
                    return []
    return [(index, *values[index]) for index in sorted(values)] if len(stacks) == 1 else []


def _some(layers: list[tuple[int, Any, Any]]) -> list[tuple[int, Any, Any]]:
    """At most ten of them, evenly, the first and the last among them."""
    last = len(layers) - 1
    picked = sorted({round(i * last / (_MOST_LAYERS - 1)) for i in range(_MOST_LAYERS)})
    return layers if len(layers) <= _MOST_LAYERS else [layers[i] for i in picked]


def _idle(found: Difference) -> list[str]:
    lines = []
    for one in found.causes:
        for idle in one.idle:
            if not idle.is_wording:
                where = f" on {count(len(idle.tensors), 'tensor')}" if idle.tensors else ""
                lines.append(f"  {one.change.label}{where}: {idle.why}")
                lines += [f"    {line}" for line in fold(idle.tensors)]
    return ["no effect", *lines] if lines else []


def _wording(found: Difference) -> list[str]:
    """What is written otherwise and is the same."""
    if found.old.analysis is None or found.new.analysis is None:
        return []
    old, new = (side.analysis.recipe.document for side in (found.old, found.new) if side.analysis)
    rows = [
        (f"{one.change.label}: {idle.why}", str(one.change.place or one.change.was_at))
        for one in found.causes
        for idle in one.idle
        if idle.is_wording
    ]
    rows += [(what, str(place)) for what, place in rewordings(old, new)]
    return ["text only", *table(rows)] if rows else []


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


def diff_markdown(found: Difference | Lone) -> str:
    """The same as Markdown for a comment on a pull request: the cause as a table, the tensors folded away."""
    if isinstance(found, Lone):
        return f"### {_code(found.name)}: recipe {_lone(found)}\n"
    lines = [f"### {_code(found.new.label)}: {_counts(found)}", ""]
    causes = _real(found)
    if causes:
        lines += ["| setting | model | change | where |", "|---|---|---|---|"]
        for one in causes:
            where = str(one.change.place or one.change.was_at)
            cells = (one.change.label, one.change.owner or "", _values(one), where)
            lines.append(f"| {' | '.join(_code(cell) if cell else '' for cell in cells)} |")
        lines.append("")
    lines += [f"Inputs that changed: {', '.join(map(_code, found.inputs))}", ""] if found.inputs else []
    effect = [
        *_effect(found)[1 if found.changed else 0 :],
        *(s for c in found.causes for s in _shifts(found, c, False)),
    ]
    if effect and not found.is_same:
        lines += ["<details><summary>tensors</summary>", "", "```text", *effect, "```", "", "</details>", ""]
    for cause in causes:
        for idle in cause.idle:
            on = f" on {count(len(idle.tensors), 'tensor')}" if idle.tensors else ""
            lines.append(f"- {_code(cause.change.label)} has no effect{on}: {idle.why}")
    rebuild = _rebuild(found)
    return "\n".join([*lines, *([""] if lines[-1] else []), *rebuild]).rstrip() + "\n"


def _code(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    clean = text.replace("|", "\\|")
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{clean}{pad}{fence}"
