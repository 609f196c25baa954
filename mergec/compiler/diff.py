"""Diff: what another recipe, or another state of one, changes in the result: causes first, then effects.

Two results are compared tensor by tensor, by keys that stand for all that a tensor's bytes depend on; the text of a
recipe never decides. Which setting is the cause is looked up afterwards, by the places that resolved values come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mergec.compiler.analyse import analyse
from mergec.compiler.compile import compile_analysis
from mergec.compiler.idle import Idle, why_idle
from mergec.compiler.resolved import Setting
from mergec.compiler.schedule import Options
from mergec.compiler.sides import Keys, Side, keys_of
from mergec.errors import RecipeError
from mergec.keys import plan_keys
from mergec.plan import Output, Plan
from mergec.recipe.compare import Change, compare
from mergec.recipe.document import Document
from mergec.recipe.settings import Resolved


class Shift(NamedTuple):
    """Tensors for which a setting has another value now; None where it has none."""

    setting: Setting
    old: Any
    new: Any
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Cause:
    """A value that differs: which tensors change by it, and of those that do not although they have it, why not.

    `shifts` are the values that settings have for the tensors that change.
    """

    change: Change
    changed: tuple[str, ...]
    idle: tuple[Idle, ...]
    shifts: tuple[Shift, ...] = ()


class Amount(NamedTuple):
    """A number of tensors, and of their bytes."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class Rebuild:
    """What making the newer result takes when the older one is there, and what it reads, then and from nothing."""

    computed: Amount
    reused: Amount
    read_bytes: int
    clean_read_bytes: int


@dataclass(frozen=True)
class Difference:
    """Everything that differs between two results. Names are in the order of the newer result.

    `inputs` are files of models that have other contents under the same name; `rebuild` is None where a result is
    known by its keys alone.
    """

    old: Side
    new: Side
    causes: tuple[Cause, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    files: tuple[str, ...]
    inputs: tuple[str, ...]
    rebuild: Rebuild | None

    @property
    def is_same(self) -> bool:
        """Whether both give the same result, byte for byte."""
        return not (self.changed or self.added or self.removed or self.files)


@dataclass(frozen=True)
class Lone:
    """A recipe that only the newer side has, or only the older one."""

    name: str
    is_added: bool
    is_same: bool = False


def diff(old: Side, new: Side) -> Difference:
    """Compare two results."""
    keys = keys_of(old, new)
    changed = tuple(name for name, key in keys.new.items() if keys.old.get(name, key) != key)
    added = tuple(name for name in keys.new if name not in keys.old)
    removed = tuple(name for name in keys.old if name not in keys.new)
    return Difference(
        old,
        new,
        _causes(old, new, keys, frozenset((*changed, *added))),
        changed,
        added,
        removed,
        tuple(_changed_files(old, new)),
        keys.inputs,
        _rebuild(new.plan, set(keys.old.values()), keys.new) if new.plan else None,
    )


def _causes(old: Side, new: Side, keys: Keys, changed: frozenset[str]) -> tuple[Cause, ...]:
    if old.analysis is None or new.analysis is None:
        return ()
    changes = compare(old.analysis.recipe.document, new.analysis.recipe.document)
    finder = _Finder(old, new, keys, changed, is_alone=len(changes) == 1 and not keys.inputs)
    return tuple(map(finder.cause, changes))


def _changed_files(old: Side, new: Side) -> Iterator[str]:
    """Files beside the weights that differ, but for records of how it was made."""
    before, now = old.files, new.files
    if before is not None and now is not None:
        yield from sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _rebuild(plan: Plan, there: set[str], keys: Mapping[str, str]) -> Rebuild:
    """What a run of the plan computes, where tensors of the keys `there` lie in its output already."""
    computed = [output for output in plan.outputs if keys[output.name] not in there]
    reused = [output for output in plan.outputs if keys[output.name] in there]
    refs = {ref for output in computed for ref in plan.inputs_of(output)}
    read = sum(ref.end - ref.begin for ref in refs)
    return Rebuild(_amount(computed), _amount(reused), read, plan.read_bytes)


def _amount(outputs: list[Output]) -> Amount:
    return Amount(len(outputs), sum(output.end - output.begin for output in outputs))


class _Finder:
    """Finds which tensors a difference of the recipes concerns."""

    def __init__(self, old: Side, new: Side, keys: Keys, changed: frozenset[str], *, is_alone: bool) -> None:
        self.old, self.new, self.keys, self.changed, self.is_alone = old, new, keys, changed, is_alone

    def cause(self, change: Change) -> Cause:
        shifts = tuple(self._shifts(change))
        if change.sort == "setting" or (change.sort == "order" and change.name not in ("", "steps")):
            found = {name for one in shifts for name in one.tensors}
            touched = [name for name in self.new.tensors if name in found]
        else:
            isolated = self._isolated(change)
            touched = [name for name in self.new.tensors if name in isolated]
        changed = tuple(name for name in touched if name in self.changed)
        untouched = [name for name in touched if name not in self.changed]
        idle = tuple(why_idle(self.old, self.new, change, untouched, bool(changed)))
        return Cause(change, changed, idle, tuple(one for each in shifts if (one := self._of_changed(each)).tensors))

    def _of_changed(self, shift: Shift) -> Shift:
        return shift._replace(tensors=tuple(name for name in shift.tensors if name in self.changed))

    def _shifts(self, change: Change) -> Iterator[Shift]:
        """The tensors that have another value of a setting, and take one of them from where the recipes differ."""
        found: dict[tuple[Setting, str, str], Shift] = {}
        known: dict[tuple[int, int], list[tuple[Setting, Any, Any]]] = {}
        for name in self.new.tensors:
            if name not in self.old.tensors:
                continue
            before, now = self.old.settings_of(name), self.new.settings_of(name)
            key = (id(before), id(now))  # tensors that agree share their settings
            if key not in known:
                known[key] = list(_shifted(before, now, change))
            for setting, old, new in known[key]:
                at = (setting, repr(old), repr(new))
                shift = found.setdefault(at, Shift(setting, old, new, ()))
                found[at] = shift._replace(tensors=(*shift.tensors, name))
        yield from found.values()

    def _isolated(self, change: Change) -> frozenset[str]:
        """The tensors that change by one key of the recipe alone: those that change when it is set back."""
        if self.is_alone:
            return self.changed
        is_whole = len(change.key) == 1 or change.key[0] == "tokenizer"
        if change.sort != "key" or not is_whole or self.keys.identify is None or self.new.analysis is None:
            return self.changed
        try:
            analysis = analyse(self._set_back(change.key[0]), self.new.analysis.models)
            keys = plan_keys(compile_analysis(analysis, (), Options()), self.keys.identify)
        except RecipeError:
            return self.changed
        return frozenset(name for name, key in self.keys.new.items() if keys.get(name) != key and name in self.changed)

    def _set_back(self, key: str) -> Document:
        """The newer recipe with one key, or both that are about the tokenizer, as it is in the older."""
        before, now = (side.analysis.recipe.document for side in (self.old, self.new) if side.analysis)
        for one in ("tokenizer", "tokenizer_source") if key == "tokenizer" else (key,):
            if one in before.value:
                now = now.with_value(one, before.value[one])
            else:
                now = replace(now, value={name: value for name, value in now.value.items() if name != one})
        return now


def _shifted(
    before: Mapping[Setting, Resolved], now: Mapping[Setting, Resolved], change: Change
) -> Iterator[tuple[Setting, Any, Any]]:
    for setting in dict.fromkeys((*now, *before)):
        old, new = before.get(setting), now.get(setting)
        before_it, now_it = (one.value if one else None for one in (old, new))
        if repr(before_it) != repr(now_it) and _is_from(old, new, change, setting):
            yield setting, before_it, now_it


def _is_from(before: Resolved | None, now: Resolved | None, change: Change, setting: Setting) -> bool:
    if change.sort == "order":
        return setting.parameter == change.name and change.owner in (None, setting.slot)
    return any(
        found is not None and found.choice is not None and found.choice.place == place
        for found, place in zip((before, now), change.entries, strict=True)
    )
