"""Compare: what two recipes say differently, value by value, each with its place in both texts.

A recipe is flattened to *items*: a key that says what a value is about, whatever its place in the text. Models are
known by their slot ids, entries of a setting by their filters, steps by their names; so an entry that moves is the
same item. Order is an item of its own where it can have a meaning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from mergec.errors import Place
from mergec.recipe.document import Document, Path
from mergec.recipe.layout import comments
from mergec.recipe.reference import reference_text

Key: TypeAlias = tuple[str, ...]
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()


Sort: TypeAlias = Literal["key", "setting", "model", "step", "slice", "order"]


@dataclass(frozen=True)
class Item:
    """A value of a recipe: what it is called, the value, the path it stands at, and what sort of value it is."""

    label: str
    value: Any
    path: Path
    sort: Sort = "key"
    document: Document | None = None
    """The stage that it stands in; None for the result's own document."""


@dataclass(frozen=True)
class Change:
    """An item that two recipes have with different values, or that one of them lacks (`ABSENT`).

    `was_at` and `place` are where its older and newer value stand, None where it is absent; `knots` are those of a
    gradient that differ, counted from 0, where both have the same number of them, and if it is one, the places are
    that knot's. `entries` are the places of the whole values.
    """

    key: Key
    label: str
    sort: Sort
    old: Any
    new: Any
    was_at: Place | None
    place: Place | None
    entries: tuple[Place | None, Place | None]
    knots: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What is set, in one word: a parameter's name, or the key of a recipe."""
        return next((part for part in reversed(self.key) if not part.startswith(("[", "@"))), "")

    @property
    def owner(self) -> str | None:
        """The slot id of the model whose own it is, if it is of one."""
        return next((part[1:] for part in reversed(self.key) if part.startswith("@")), None)


def compare(old: Document, new: Document) -> list[Change]:
    """Every difference of values between two recipes, in the order of the newer text; wording does not count."""
    before, now = dict(_flatten(old)), dict(_flatten(new))
    gone = _outermost(key for key in before if key not in now and before[key].sort != "order")
    fresh = _outermost(key for key in now if key not in before and now[key].sort != "order")
    changes = [_change(key, before[key], ABSENT, old, new) for key in gone]
    changes += [_change(key, ABSENT, now[key], old, new) for key in fresh]
    changes += [
        _change(key, before[key], now[key], old, new)
        for key in before
        if key in now and not is_same(before[key].value, now[key].value)
    ]
    return sorted(changes, key=lambda one: (one.place is None, _position(one.place or one.was_at), one.key))


def is_same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, however they are written: 1 is 1.0, and neither is true."""
    if isinstance(one, (_Named, _Order)):
        return bool(one == other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _position(place: Place | None) -> tuple[int, int]:
    return (place.line, place.column) if place else (0, 0)


def _outermost(keys: Iterable[Key]) -> list[Key]:
    """Keys without those that are inside of others: a model that is added brings all of its settings."""
    found = set(keys)
    return [key for key in found if not any(key[:length] in found for length in range(1, len(key)))]


def _change(key: Key, old: Any, new: Any, before: Document, now: Document) -> Change:
    entries = was_at, place = (
        (old.document or before).place(old.path) if old is not ABSENT else None,
        (new.document or now).place(new.path) if new is not ABSENT else None,
    )
    values = [ABSENT if one is ABSENT else one.value for one in (old, new)]
    knots: tuple[int, ...] = ()
    is_setting = (new if old is ABSENT else old).sort == "setting"
    if is_setting and all(isinstance(value, list) for value in values) and len(values[0]) == len(values[1]):
        knots = tuple(i for i, pair in enumerate(zip(*values, strict=True)) if not is_same(*pair))
    if len(knots) == 1:
        was_at = (old.document or before).place((*old.path, knots[0]))
        place = (new.document or now).place((*new.path, knots[0]))
    item = old if new is ABSENT else new
    return Change(key, item.label, item.sort, values[0], values[1], was_at, place, entries, knots)


def _flatten(document: Document) -> Iterator[tuple[Key, Item]]:
    """A recipe's items, and those of its stages by the stages' names."""
    yield from _mapping(document.value, (), (), "")
    for stage in document.stages:
        name = stage.value["name"]
        for key, item in _mapping(stage.value, (f"[stage {name}]",), (), ""):
            yield key, replace(item, label=f"{name}: {item.label}", document=stage)


def _mapping(value: Mapping[str, Any], key: Key, path: Path, label: str) -> Iterator[tuple[Key, Item]]:
    for name, inner in value.items():
        here, at = (*key, name), (*path, name)
        called = f"{label}.{name}" if label else name
        if name == "parameters":
            yield from _settings(inner or {}, key, at, label)
        elif name in ("models", "sources") and _is_list_of_mappings(inner):
            yield from _models(inner, (*key, f"[{name}]"), at, called)
        elif name in ("experts", "shared_experts") and _is_list_of_mappings(inner):
            yield from _models(inner, (*key, f"[{name}]"), at, called, "source_model")
        elif name == "slices" and _is_list_of_mappings(inner):
            for number, one in enumerate(inner):
                yield (*key, f"[slice {number}]"), Item(f"{called}[{number}]", _Named(""), (*at, number), "slice")
                yield from _mapping(one, (*key, f"[slice {number}]"), (*at, number), f"{called}[{number}]")
        elif name == "modules" and isinstance(inner, dict):
            for module, one in inner.items():
                yield (*here, module), Item(f"{called}.{module}", _Named(""), (*at, module), "slice")
                yield from _mapping(one or {}, (*here, module), (*at, module), f"{called}.{module}")
        elif name == "rules" and _is_list_of_mappings(inner):
            yield from _rules(inner, here, at)
        elif name in ("steps", "post") and isinstance(inner, list):
            yield from _steps(inner, here, at, name)
        elif name in ("router", "tokenizer") and isinstance(inner, dict):
            yield from _mapping(inner, here, at, called)
        elif name == "tokenizer_source":  # short for the source of `tokenizer`
            yield (*key, "tokenizer", "source"), Item(called, inner, at)
        elif name == "tokens" and isinstance(inner, dict):
            for token, entry in inner.items():
                yield (*here, token), Item(f"{called}.{token}", entry or {}, (*at, token))
            if len(inner) > 1:
                yield (*here, "[order]"), Item(f"order of {called}", _Order(inner), at)
        else:
            yield here, Item(called, reference_text(inner) if name == "base_model" else inner, at)


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_SETTINGS = ("noise_scale", "residual_scale")


def _models(
    entries: list[dict[str, Any]], key: Key, path: Path, label: str, word: str = "model"
) -> Iterator[tuple[Key, Item]]:
    """The entries of a list by their slot ids; `word` is the key that names an entry's model."""
    seen: Counter[str] = Counter()
    order = []
    for number, entry in enumerate(entries):
        name = reference_text(entry.get(word))
        slot = str(entry.get("id") or name)
        seen[slot] += 1
        here = (*key, f"@{slot}" if seen[slot] == 1 else f"@{slot} #{seen[slot]}")
        at, called = (*path, number), f"{label}[{number}]"
        order.append(here[-1])
        yield here, Item(called, _Named(str(name)), (*at, word), "model")
        if entry.get("id"):
            yield (*here, word), Item(f"{called}.{word}", name, (*at, word))
        for part, inner in entry.items():
            if part == "parameters":
                yield from _settings(inner or {}, here, (*at, part), called)
            elif part in _SETTINGS and word == "source_model":
                yield from _setting(inner, (*here, part), (*at, part), f"{called}.{part}")
            elif part not in (word, "id"):
                yield (*here, part), Item(f"{called}.{part}", inner, (*at, part))
    yield (*key, "[order]"), Item(f"order of {label}", _Order(order), path, "order")


def _rules(entries: list[dict[str, Any]], key: Key, path: Path) -> Iterator[tuple[Key, Item]]:
    seen: Counter[str] = Counter()
    order = []
    for number, entry in enumerate(entries):
        pattern = str(entry.get("match"))
        seen[pattern] += 1
        here, at, called = (*key, f"[{pattern} {seen[pattern]}]"), (*path, number), f"rule '{pattern}'"
        order.append(here[-1])
        yield here, Item(called, _Named(pattern), at, "slice")
        for name, inner in entry.items():
            if name == "parameters":
                yield from _settings(inner or {}, here, (*at, name), called)
            elif name != "match":
                yield (*here, name), Item(f"{called}.{name}", inner, (*at, name))
    yield (*key, "[order]"), Item("order of rules", _Order(order), path, "order")


class _Named(str):
    """A model's name as the value of its entry: equal to any other, for what it is called is an item of its own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named)

    __hash__ = str.__hash__


class _Order(list[str]):
    """An order, equal to another if what both hold is in the same order."""

    def __eq__(self, other: object) -> bool:
        both = set(self) & set(other) if isinstance(other, _Order) else set()
        return isinstance(other, _Order) and [x for x in self if x in both] == [x for x in other if x in both]

    __hash__ = None


def _steps(entries: list[Any], key: Key, path: Path, label: str) -> Iterator[tuple[Key, Item]]:
    seen: Counter[str] = Counter()
    order = []
    for number, entry in enumerate(entries):
        name, inner = next(iter(entry.items())) if isinstance(entry, dict) and entry else (str(entry), None)
        seen[name] += 1
        here = (*key, f"[{name} {seen[name]}]")
        at = (*path, number, name) if isinstance(entry, dict) else (*path, number)
        order.append(here[-1])
        yield here, Item(f"{label}[{number}]", _Named(name), at, "step")
        if isinstance(inner, dict):
            yield from _settings(inner, here, at, f"{label}[{number}] {name}")
        elif inner is not None:
            yield (*here, name), Item(f"{label}[{number}] {name}", inner, at, "setting")
    yield (*key, "[order]"), Item(f"order of {label}", _Order(order), path, "order")


def _settings(value: Mapping[str, Any], key: Key, path: Path, label: str) -> Iterator[tuple[Key, Item]]:
    for name, setting in value.items():
        called = f"{label}.{name}" if label and not label.startswith(("steps", "post")) else f"{label} {name}".strip()
        yield from _setting(setting, (*key, name), (*path, name), called)


def _setting(value: Any, key: Key, path: Path, label: str) -> Iterator[tuple[Key, Item]]:
    """The entries of a setting by their filters; knots that are all equal are one value."""
    entries = value if isinstance(value, list) and any(isinstance(one, dict) for one in value) else [value]
    order = []
    for number, entry in enumerate(entries):
        at = path if entries is not value else (*path, number)
        pattern, inner = "", entry
        if isinstance(entry, dict):
            pattern, inner, at = str(entry.get("filter") or "*"), entry.get("value"), (*at, "value")
        pattern = "" if pattern == "*" else pattern
        tag = f"[filter {pattern}]" if pattern else "[all]"
        if tag in order:
            tag = f"[again {number} {pattern}]"
        order.append(tag)
        if isinstance(inner, list) and inner and all(is_same(one, inner[0]) for one in inner):
            inner = inner[0]
        called = f"{label} (filter '{pattern}')" if pattern else label
        yield (*key, tag), Item(called, inner, at, "setting")
    if len(order) > 1:
        yield (*key, "[order]"), Item(f"order of the entries of {label}", _Order(order), path, "order")


def rewordings(old: Document, new: Document) -> list[tuple[str, Place]]:
    """What is written otherwise and says the same: comments, the order of keys, the spelling of values."""
    found = []
    for words, others, what, document in (
        (comments(new.text), comments(old.text), "comment added", new),
        (comments(old.text), comments(new.text), "comment removed", old),
    ):
        for text in Counter(words) - Counter(others):
            found.append((f"{what}: {text}", _place_of(text, document)))
    for path, place in new.values.items():
        before, now = _at(old.value, path), _at(new.value, path)
        if path not in old.values or not is_same(before, now):
            continue
        if isinstance(now, dict) and list(before) != list(now):
            found.append((f"order of keys: {', '.join(now)}", place))
        elif not isinstance(now, (dict, list)):
            texts = [_written(one, one.place(path)) for one in (old, new)]
            if texts[0] != texts[1]:
                found.append((f"written {texts[1]}, was {texts[0]}", place))
    return sorted(found, key=lambda one: _position(one[1]))


def _place_of(text: str, document: Document) -> Place:
    lines = document.text.splitlines()
    line = next((number for number, one in enumerate(lines) if text in one), 0)
    return Place(document.file, line + 1, lines[line].find(text) + 1)


def _at(value: Any, path: Path) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):  # brought in by a merge key
            return ABSENT
    return value


_SCALAR = re.compile(r"""'[^']*'|"[^"]*"|[^\s,#\]}]+""")


def _written(document: Document, place: Place) -> str:
    """A plain or quoted value as it stands in the text."""
    lines = document.text.splitlines()
    match = _SCALAR.match(lines[place.line - 1], place.column - 1) if place.line <= len(lines) else None
    return match[0] if match else ""
