"""Operands: what `diff` is given - recipes, revisions, locks, outputs, plans - as pairs of results to compare."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mergec.compiler.models import Model
from mergec.compiler.saved import Headers, locked_models, planned_models
from mergec.compiler.sides import Side, of_lock, of_plan, of_recipe
from mergec.errors import InputError, UsageError, did_you_mean
from mergec.io import revisions as git
from mergec.io.lockfile import LOCK_NAME, LockFile, parse_lock, read_lock
from mergec.planfile import read_plan
from mergec.recipe.document import parse
from mergec.recipe.source import decoded, read_bytes

_RECIPE = re.compile(rb"^[\"']?(merge_method|experts)[\"']?\s*:", re.MULTILINE)
_SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True)
class Entry:
    """A result that can be had: what it is called, models whose headers it has kept, and how it is compiled."""

    label: str
    saved: Callable[[], Mapping[str, Model]]
    side: Callable[[Headers], Side]
    text: bytes = b""
    """A recipe's text: where it is equal on both sides, nothing need be compiled."""


@dataclass(frozen=True)
class Pair:
    """Two results to compare, by the name they have in common; None where one side lacks it."""

    name: str
    old: Entry | None
    new: Entry | None

    def sides(self) -> tuple[Side, Side]:
        """Both, compiled; a model that is not there is taken as one of them, or a lock beside them, has kept it."""
        both = [one for one in (self.old, self.new) if one]
        headers = Headers([one.saved for one in both])
        old, new = (one.side(headers) for one in both)
        return old, new


def pairs(operands: tuple[str, ...]) -> list[Pair]:
    """What is to be compared: every recipe that is tracked, of a revision or HEAD and the working tree, or of two
    revisions; a recipe with what HEAD has of it; or one operand with another.

    Raises InputError or UsageError for what cannot be read (E611), is nothing to compare (E612), or where one side
    holds several recipes and none of the other's name (E613).
    """
    if is_of_trees(operands):
        return _of_tree(operands[0] if operands else "HEAD", operands[1] if len(operands) == 2 else None)
    if len(operands) == 1:
        return [Pair(operands[0], *_of_head(operands[0]))]
    old, new = map(_entries, operands)
    return _paired(old, new, operands)


def is_of_trees(operands: tuple[str, ...]) -> bool:
    """Whether it is every recipe of some revision that is to be compared."""
    return all(map(_is_revision, operands))


def _is_revision(operand: str) -> bool:
    return not os.path.lexists(operand) and ":" not in operand and git.is_revision(operand)


def _of_head(operand: str) -> tuple[Entry, Entry]:
    """A recipe as it is in HEAD and in the working tree."""
    read_bytes(Path(operand))
    path = git.prefix() + operand if not os.path.isabs(operand) else os.path.relpath(operand, git.top())
    path = os.path.normpath(path)
    return _of_revision("HEAD", path), _single(_entries(operand))


def _single(entries: Mapping[str, Entry]) -> Entry:
    (entry,) = entries.values()
    return entry


def _of_tree(old: str, new: str | None) -> list[Pair]:
    """Every recipe of a revision, and of another or of the index; those whose texts are equal are left out."""
    top, found = git.top(), []
    names = {name for name in (*git.tracked(old), *git.tracked(new)) if name.endswith(_SUFFIXES)}
    for name in sorted(names):
        before, now = (_tracked(top, revision, name) for revision in (old, new))
        texts = [one.text for one in (before, now) if one]
        if any(map(_RECIPE.search, texts)) and (len(texts) < 2 or texts[0] != texts[1]):
            found.append(Pair(_from_here(top / name), before, now))
    return found


def _tracked(top: Path, revision: str | None, name: str) -> Entry | None:
    if revision:
        text = git.show(revision, name)
        return None if text is None else _recipe(text, f"{revision}:{name}", (top / name).parent, revision)
    path = top / name
    return _recipe(read_bytes(path), _from_here(path), path.parent) if path.is_file() else None


def _from_here(path: Path) -> str:
    return os.path.relpath(path)


def _entries(operand: str) -> dict[str, Entry]:
    """What an operand holds, by the name of the recipe."""
    path = Path(operand)
    if path.is_dir():
        return _lock_entries(read_lock(path / LOCK_NAME), str(path / LOCK_NAME), path)
    if not path.exists() and ":" in operand:
        revision, _, name = operand.partition(":")
        entry = _other(operand, revision, name)
        return {Path(name).name: entry} if entry else _locks_of(operand)
    data = path.read_bytes() if path.is_file() and path.name == LOCK_NAME else None
    if data is not None:
        return _lock_entries(parse_lock(data, operand), operand, path.parent)
    text = path.read_bytes() if path.suffix == ".json" and path.is_file() else read_bytes(path)
    if text.lstrip()[:1] == b"{" and path.suffix == ".json":
        return {path.name: _planned(text, operand)}
    return {path.name: _recipe(text, operand, path.parent)}


def _other(operand: str, revision: str, name: str) -> Entry | None:
    """A recipe or a plan of a revision; None for a lock, which may hold several."""
    if Path(name).name == LOCK_NAME:
        return None
    return _of_revision(revision, name)


def _of_revision(revision: str, name: str) -> Entry:
    """A file of a revision, its path counted from the top of the repository, or else from the current folder."""
    text, path = _shown(revision, name)
    if path.endswith(".json"):
        return _planned(text, f"{revision}:{path}")
    return _recipe(text, f"{revision}:{path}", (git.top() / path).parent, revision)


def _shown(revision: str, name: str) -> tuple[bytes, str]:
    top = git.top()
    paths = dict.fromkeys(os.path.normpath(one) for one in (name, git.prefix() + name))
    for path in paths:
        text = git.show(revision, path)
        if text is not None:
            return text, path
    if not git.is_revision(revision):
        raise InputError("E611", f"{top} has no revision '{revision}'", "write REV:path, such as HEAD~1:ties.yml")
    near = did_you_mean(
        git.prefix() + name, [one for one in git.tracked(revision) if one.endswith((*_SUFFIXES, LOCK_NAME))]
    )
    raise InputError("E611", f"there is no '{name}' in {revision}", near)


def _locks_of(operand: str) -> dict[str, Entry]:
    revision, _, name = operand.partition(":")
    text, path = _shown(revision, name)
    return _lock_entries(parse_lock(text, operand), operand, (git.top() / path).parent)


def _recipe(text: bytes, label: str, beside: Path, revision: str | None = None) -> Entry:
    def side(headers: Headers) -> Side:
        return of_recipe(parse(decoded(text, label), label, beside), label, headers)

    return Entry(label, lambda: _locked_beside(label, beside, revision), side, text)


def _locked_beside(label: str, beside: Path, revision: str | None) -> Mapping[str, Model]:
    """The models that the lock beside a recipe has kept, of its revision if that has one; none if there is no lock."""
    name = Path(label.rpartition(":")[2]).name
    text = git.show(revision, os.path.relpath(beside / LOCK_NAME, git.top())) if revision else None
    try:
        lock = parse_lock(text, LOCK_NAME) if text else read_lock(beside / LOCK_NAME)
    except InputError as error:
        if error.code != "E620":
            raise
        return {}
    where = f"{revision}:{LOCK_NAME}" if text else os.path.relpath(beside / LOCK_NAME)
    return locked_models(lock.recipes[name], where) if name in lock.recipes else {}


def _planned(text: bytes, label: str) -> Entry:
    try:
        plan = read_plan(text.decode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("E612", f"{label} is not a plan: {error}", "make one with `mergec plan --json`") from None
    return Entry(label, lambda: planned_models(plan, label), lambda headers: of_plan(plan, label))


def _lock_entries(lock: LockFile, label: str, beside: Path) -> dict[str, Entry]:
    """An entry per recipe of a lock; of an output, the one it was made from."""
    entries = {}
    for name, locked in lock.recipes.items():
        called = label if len(lock.recipes) == 1 else f"{label}:{name}"
        file = beside / name
        entries[Path(name).name] = Entry(
            called,
            lambda locked=locked: locked_models(locked, label),  # type: ignore[misc]
            lambda headers, locked=locked, called=called, file=file: of_lock(locked, called, file),  # type: ignore[misc]
        )
    return entries


def _paired(old: dict[str, Entry], new: dict[str, Entry], operands: tuple[str, ...]) -> list[Pair]:
    if len(old) == len(new) == 1:
        return [Pair(next(iter(new)), _single(old), _single(new))]
    if len(old) > 1 and len(new) > 1:
        return [Pair(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]
    (name,), several = (new, old) if len(old) > 1 else (old, new)
    if name not in several:
        which = operands[0] if several is old else operands[1]
        raise UsageError("E613", f"{which} has no entry for {name}", did_you_mean(name, several))
    return [Pair(name, old[name], new[name])]
