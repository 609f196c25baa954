"""Status: whether recipes, their inputs and their outputs are what the locks say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mergec.compiler.compile import compile_recipe
from mergec.errors import InputError, RecipeError, count
from mergec.io.digests import Report
from mergec.io.lockfile import LOCK_NAME, LockedRecipe, LockFile, read_lock
from mergec.io.staging import made_here
from mergec.io.verify import verify
from mergec.lock import differences, input_digests, lock_of, locked_recipe, read_locked
from mergec.plan import Plan

State = Literal["recipe changed", "input changed", "output modified", "not compared"]
_STATES: dict[str, State] = {"recipe": "recipe changed", "input": "input changed"}


@dataclass(frozen=True)
class Finding:
    """One way in which something is not what its lock says; `tensors` are those it concerns."""

    state: State
    what: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """What was compared with which lock of how many tensors, and what was found; clean if nothing."""

    subject: str
    lock: str
    tensors: int
    findings: tuple[Finding, ...]

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.state for one in self.findings)) or ("clean",)


def statuses(subject: Path, report: Report | None = None, rehash: bool = False) -> list[Status]:
    """The status of a recipe and its output, of an output, or of every recipe in the lock of a folder.

    Raises InputError if there is no lock to compare with (E620) or it is not sound (E621).
    """
    if subject.is_file():
        return _of_recipe(subject, report, rehash)
    lock = read_lock(subject / LOCK_NAME)
    if lock.files is not None:
        return [_of_output(subject, lock, report, rehash)]
    return [one for name in sorted(lock.recipes) for one in _of_recipe(subject / name, report, rehash)]


def _of_recipe(recipe: Path, report: Report | None, rehash: bool) -> list[Status]:
    """A recipe against the lock beside it, and the output it has by default against its own."""
    plan, problem = _compiled(recipe)
    out = Path("merged") / (plan.name if plan else recipe.stem)
    made = made_here(out)
    found = [_of_output(out, made, report, rehash)] if made and _is_of(made, out, recipe) else []
    try:
        locked = read_locked(recipe)
    except InputError as error:
        if error.code != "E620" or not found:
            raise
        return found
    findings = _compared(plan, locked, report, rehash) if plan else [problem]
    return [Status(str(recipe), str(lock_of(recipe)), len(locked.tensors), tuple(findings)), *found]


def _is_of(lock: LockFile, out: Path, recipe: Path) -> bool:
    """Whether an output was made from a recipe."""
    return any((out / name).resolve() == recipe.resolve() for name in lock.recipes)


def _of_output(out: Path, lock: LockFile, report: Report | None, rehash: bool) -> Status:
    """An output against its lock, and the recipe and inputs it was made from if they are still there."""
    findings = [
        Finding("output modified", f"{fault.file} {fault.what}", (fault.tensor,) if fault.tensor else ())
        for fault in verify(out, lock, report)
    ]
    (name,) = lock.recipes
    recipe = Path(os.path.relpath(out / name))
    if recipe.is_file():
        plan, problem = _compiled(recipe, lock.made.overrides)
        findings += _compared(plan, lock.made, report, rehash) if plan else [problem]
    else:
        findings.append(Finding("not compared", f"the recipe it was made from is not at {recipe}"))
    return Status(str(out), str(out / LOCK_NAME), len(lock.made.tensors), tuple(findings))


def _compiled(recipe: Path, overrides: tuple[tuple[str, str], ...] = ()) -> tuple[Plan | None, Finding]:
    try:
        return compile_recipe(recipe, overrides), Finding("not compared", "")
    except RecipeError as error:
        errors = [problem for problem in error.problems if problem.is_error]
        more = f", and {count(len(errors) - 1, 'more error')}" if len(errors) > 1 else ""
        return None, Finding("recipe changed", f"it does not compile any more: {errors[0]}{more}")


def _compared(plan: Plan, locked: LockedRecipe, report: Report | None, rehash: bool) -> list[Finding]:
    now = locked_recipe(plan, input_digests(plan, report, rehash))
    return [Finding(_STATES[one.cause], one.what, one.tensors) for one in differences(locked, now)]
