"""Diff: what another recipe, or another state of one, changes in the result: causes first, then effects.

Two results are compared tensor by tensor, by keys that stand for all that a tensor's bytes depend on; the text of a
recipe never decides. Which setting is the cause is looked up afterwards, by the places that resolved values come from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from mergec.compiler.compile import Analysis, Options, analyse, compile_analysis
from mergec.compiler.idle import Idle, why_idle
from mergec.compiler.resolved import Setting, settings_by_tensor
from mergec.errors import RecipeError
from mergec.graph import Identify, Output, Plan
from mergec.io.digests import remembered
from mergec.io.hub import is_hub_path
from mergec.io.tensors import TensorRef
from mergec.recipe.compare import Change, compare
from mergec.recipe.document import Document
from mergec.recipe.settings import Resolved


@dataclass(frozen=True)
class Side:
    """One of two results that are compared: what it is called, its plan, and its recipe where that is known."""

    label: str
    plan: Plan
    analysis: Analysis

    @cached_property
    def outputs(self) -> Mapping[str, Output]:
        return {output.name: output for output in self.plan.outputs}

    @cached_property
    def settings(self) -> Mapping[str, Mapping[Setting, Resolved]]:
        """Every setting of every merged tensor; tensors that agree share one mapping."""
        return settings_by_tensor(self.analysis)

    def settings_of(self, output: str) -> Mapping[Setting, Resolved]:
        """Those of an output, which may be a part of an artifact; none where integers are copied."""
        return self.settings.get(self.outputs[output].tensor, {})


@dataclass(frozen=True)
class Cause:
    """A value that differs: which tensors change by it, and of those that do not although they have it, why not."""

    change: Change
    changed: tuple[str, ...]
    idle: tuple[Idle, ...]


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
    """Everything that differs between two results. Names are in the order of the newer result."""

    old: Side
    new: Side
    causes: tuple[Cause, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    files: tuple[str, ...]
    rebuild: Rebuild

    @property
    def is_same(self) -> bool:
        """Whether both give the same result, byte for byte."""
        return not (self.changed or self.added or self.removed or self.files)


def diff(old: Side, new: Side) -> Difference:
    """Compare two results."""
    content = _by_content()
    before, now = old.plan.keys(content), new.plan.keys(content)
    changed = tuple(name for name in now if name in before and now[name] != before[name])
    added = tuple(name for name in now if name not in before)
    removed = tuple(name for name in before if name not in now)
    changes = compare(old.analysis.recipe.document, new.analysis.recipe.document)
    finder = _Finder(old, new, content, now, frozenset((*changed, *added)), is_alone=len(changes) == 1)
    return Difference(
        old,
        new,
        tuple(map(finder.cause, changes)),
        changed,
        added,
        removed,
        tuple(_changed_files(old.plan, new.plan)),
        _rebuild(new.plan, set(before.values()), now),
    )


def _by_content() -> Identify:
    """What stands for an input tensor: its file's content as far as it is known without reading, else the file."""
    known: dict[str, str] = {}

    def content(slot: str, ref: TensorRef) -> str:
        if ref.file not in known:
            known[ref.file] = ref.file if is_hub_path(ref.file) else remembered(ref.file) or os.path.realpath(ref.file)
        return f"{known[ref.file]} {ref.begin} {ref.end}"

    return content


def _changed_files(old: Plan, new: Plan) -> Iterator[str]:
    """Files beside the weights that differ, but for records of how it was made."""
    before, now = ({one.name: one.digest for one in plan.side_files if not one.is_record} for plan in (old, new))
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

    def __init__(
        self,
        old: Side,
        new: Side,
        content: Identify,
        keys: Mapping[str, str],
        changed: frozenset[str],
        *,
        is_alone: bool,
    ) -> None:
        self.old, self.new, self.content, self.keys = old, new, content, keys
        self.changed, self.is_alone = changed, is_alone

    def cause(self, change: Change) -> Cause:
        if change.sort == "setting" or (change.sort == "order" and change.name not in ("", "steps")):
            touched = [name for name in self.new.outputs if name in self.old.outputs and self._is_touched(name, change)]
        else:
            touched = [name for name in self.new.outputs if name in self._isolated(change)]
        changed = tuple(name for name in touched if name in self.changed)
        untouched = [name for name in touched if name not in self.changed]
        return Cause(change, changed, tuple(why_idle(self.old, self.new, change, untouched, bool(changed))))

    def _is_touched(self, name: str, change: Change) -> bool:
        """Whether a tensor has another value of a setting, and takes one of them from where the recipes differ."""
        before, now = self.old.settings_of(name), self.new.settings_of(name)
        return any(
            _is_from(before.get(setting), now.get(setting), change, setting)
            for setting in before.keys() | now.keys()
            if _value(before.get(setting)) != _value(now.get(setting))
        )

    def _isolated(self, change: Change) -> frozenset[str]:
        """The tensors that change by one key of the recipe alone: those that change when it is set back."""
        if self.is_alone:
            return self.changed
        if change.sort != "key" or len(change.key) != 1:
            return self.changed
        try:
            analysis = analyse(self._set_back(change.key[0]))
            keys = compile_analysis(analysis, (), Options()).keys(self.content)
        except RecipeError:
            return self.changed
        return frozenset(name for name, key in self.keys.items() if keys.get(name) != key and name in self.changed)

    def _set_back(self, key: str) -> Document:
        """The newer recipe with one key as it is in the older."""
        before, now = (side.analysis.recipe.document for side in (self.old, self.new))
        if key in before.value:
            return now.with_value(key, before.value[key])
        return replace(now, value={name: value for name, value in now.value.items() if name != key})


def _value(found: Resolved | None) -> str:
    return "" if found is None else repr(found.value)


def _is_from(before: Resolved | None, now: Resolved | None, change: Change, setting: Setting) -> bool:
    if change.sort == "order":
        return setting.parameter == change.name and change.owner in (None, setting.slot)
    return any(
        found is not None and found.choice is not None and found.choice.place == place
        for found, place in zip((before, now), change.entries, strict=True)
    )
