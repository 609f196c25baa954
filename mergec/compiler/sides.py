"""Sides: results that can be compared, whether they are known from a recipe, from a lock or from a saved plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import NamedTuple

from mergec.compiler.analyse import analyse
from mergec.compiler.analysis import Analysis
from mergec.compiler.compile import compile_analysis
from mergec.compiler.resolved import Setting, settings_by_tensor
from mergec.compiler.saved import Headers, locked_models, planned_models
from mergec.compiler.schedule import Options
from mergec.errors import RecipeError
from mergec.io.digests import remembered
from mergec.io.hub import is_hub_path
from mergec.io.lockfile import LockedRecipe, LockedTensor
from mergec.io.tensors import ITEM_BYTES, TensorRef
from mergec.keys import Identify, plan_hash, plan_keys
from mergec.lock import changed_files
from mergec.plan import Plan
from mergec.recipe.document import Document, parse
from mergec.recipe.load import with_overrides
from mergec.recipe.settings import Resolved


class Tensor(NamedTuple):
    """A tensor of a result, and the tensor of the model that it belongs to if it is a part of an artifact."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    of: str


@dataclass(frozen=True)
class Side:
    """One of two results that are compared, and what is known of it.

    `plan` and `analysis` are None where a result is known by its keys alone: its lock is of another version. `is_here`
    says that its models are on this machine.
    """

    label: str
    hash: str
    method: str
    tensors: Mapping[str, Tensor]
    plan: Plan | None
    analysis: Analysis | None
    locked: LockedRecipe | None = None
    is_here: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of input files, by path, where they are written down."""

    @cached_property
    def settings(self) -> Mapping[str, Mapping[Setting, Resolved]]:
        """Every setting of every merged tensor; tensors that agree share one mapping."""
        return settings_by_tensor(self.analysis) if self.analysis else {}

    def settings_of(self, output: str) -> Mapping[Setting, Resolved]:
        """Those of an output, which may be a part of an artifact; none where integers are copied."""
        return self.settings.get(self.tensors[output].of, {})

    @cached_property
    def files(self) -> Mapping[str, str] | None:
        """The files beside the weights that say what they are, with digests; None if they are not known."""
        return {one.name: one.digest for one in self.plan.side_files if not one.is_record} if self.plan else None

    @cached_property
    def inputs(self) -> Mapping[tuple[str, str], str]:
        """The input files that are read, by the model's slot id and the file's name."""
        plan, found = self.plan, dict[tuple[str, str], str]()
        if plan is None:
            return found
        for output in plan.outputs:
            for number, ref in zip(plan.kinds[output.kind].slots, output.sources, strict=True):
                found[plan.slots[number] if plan.slots else "", os.path.basename(ref.file)] = ref.file
        return found

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The SHA-256 of the headers of input files, by path."""
        return {file.path: file.header_sha256 for file in self.plan.files} if self.plan else {}

    def digest(self, path: str) -> str | None:
        """The SHA-256 of an input file, if it is known without reading the file."""
        if path in self.digests:
            return self.digests[path]
        known = next((file.sha256 for file in self.plan.files if file.path == path), None) if self.plan else None
        return known or (remembered(path) if self.is_here and not is_hub_path(path) else None)


def of_recipe(document: Document, label: str, headers: Headers, overrides: tuple[tuple[str, str], ...] = ()) -> Side:
    """A recipe, compiled. Raises RecipeError with everything that is wrong."""
    before = set(headers.used)
    analysis = analyse(document, headers.known(document))
    plan = compile_analysis(analysis, overrides, Options())
    return _of_plan(plan, analysis, label, is_here=headers.used == before)


def of_plan(plan: Plan, label: str) -> Side:
    """A saved plan; its settings are known if its recipe still compiles."""
    here = all(is_hub_path(file.path) or Path(file.path).is_file() for file in plan.files)
    try:
        document = parse(plan.recipe_text, f"{label}#{Path(plan.recipe_path).name}")
        analysis = analyse(with_overrides(document, plan.overrides), planned_models(plan, label))
    except RecipeError:
        analysis = None
    return _of_plan(plan, analysis, label, is_here=here)


def _of_plan(plan: Plan, analysis: Analysis | None, label: str, *, is_here: bool) -> Side:
    tensors = {one.name: Tensor(one.dtype, one.shape, one.end - one.begin, one.tensor) for one in plan.outputs}
    return Side(label, plan_hash(plan), plan.method, tensors, plan, analysis, is_here=is_here)


def of_lock(locked: LockedRecipe, label: str, recipe: Path) -> Side:
    """A recipe as it was locked, compiled again from the lock alone if that gives what it says.

    `recipe` is where its file would be; places in its text are called after it.
    """
    models = locked_models(locked, label)
    plan, analysis = None, None
    try:
        document = with_overrides(
            parse("\n".join([*locked.text, ""]), f"{label}#{recipe.name}", recipe.parent), locked.overrides
        )
        analysis = analyse(document, models)
        compiled = compile_analysis(analysis, locked.overrides, Options())
        plan = compiled if plan_hash(compiled) == locked.plan else None
    except RecipeError:
        pass
    tensors = {name: _locked_tensor(name, one) for name, one in locked.tensors.items()}
    files = analysis.models.values() if analysis else ()
    digests = {file.path: file.sha256 for model in files for file in model.checkpoint.files if file.sha256}
    return Side(label, locked.plan, locked.method, tensors, plan, analysis, locked, digests=digests)


def _locked_tensor(name: str, one: LockedTensor) -> Tensor:
    return Tensor(one.dtype, one.shape, prod(one.shape) * ITEM_BYTES.get(one.dtype, 0), name)


class Keys(NamedTuple):
    """Keys of the tensors of two results that can be compared, and input files that changed under their names.

    `identify` says what stands for an input of the newer one; None where its keys cannot be made again.
    """

    old: Mapping[str, str]
    new: Mapping[str, str]
    inputs: tuple[str, ...]
    identify: Identify | None


def keys_of(old: Side, new: Side) -> Keys:
    """Keys by the contents of inputs as far as both sides know them, else by the models' names and headers."""
    if old.locked and new.locked:
        before, now = (
            {name: one.action for name, one in side.locked.tensors.items()} for side in (old, new) if side.locked
        )
        return Keys(before, now, tuple(changed_files(old.locked, new.locked)), None)
    if old.plan is None or new.plan is None:
        return Keys(_plan_keys(old), _plan_keys(new), (), None)
    if old.is_here and new.is_here:
        first, second = (_by_place(side) for side in (old, new))
    else:
        first, second = _by_name(old, new), _by_name(new, old)
    return Keys(plan_keys(old.plan, first), plan_keys(new.plan, second), tuple(_changed_inputs(old, new)), second)


def _plan_keys(side: Side) -> Mapping[str, str]:
    if side.locked:
        return {name: one.plan for name, one in side.locked.tensors.items()}
    return plan_keys(side.plan) if side.plan else {}


def _by_place(side: Side) -> Identify:
    """What stands for an input on this machine: its file's content if that is known, else the file."""
    known: dict[str, str] = {}

    def content(slot: str, ref: TensorRef) -> str:
        if ref.file not in known:
            here = ref.file if is_hub_path(ref.file) else os.path.realpath(ref.file)
            known[ref.file] = side.digest(ref.file) or f"{here} {side.headers[ref.file]}"
        return f"{known[ref.file]} {ref.begin} {ref.end}"

    return content


def _by_name(side: Side, other: Side) -> Identify:
    """What stands for an input from one machine to another: its model's slot id and its own name.

    With them goes the digest of its file if both sides know it, else that of the file's header.
    """
    known: dict[tuple[str, str], str] = {}

    def content(slot: str, ref: TensorRef) -> str:
        name = os.path.basename(ref.file)
        if (slot, name) not in known:
            there = other.inputs.get((slot, name))
            digest = side.digest(ref.file)
            is_known = digest and (there is None or other.digest(there))
            known[slot, name] = digest if is_known and digest else side.headers[ref.file]
        return f"{slot} {ref.name} {known[slot, name]}"

    return content


def _changed_inputs(old: Side, new: Side) -> list[str]:
    """Files of models of one name whose content, as far as it is known, is another."""
    changed = []
    for (slot, name), path in new.inputs.items():
        before = old.inputs.get((slot, name))
        if before is None:
            continue
        digests = old.digest(before), new.digest(path)
        headers = old.headers[before], new.headers[path]
        if headers[0] != headers[1] or (all(digests) and digests[0] != digests[1]):
            changed.append(f"{slot}/{name}")
    return changed
