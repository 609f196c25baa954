"""Bound: a recipe that fits its method, as values: which models it takes in which order, with which settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergec.errors import Place, Problem
from mergec.ops.registry import Method
from mergec.recipe.document import Path as DocumentPath
from mergec.recipe.schema import Recipe, RouterEntry
from mergec.recipe.settings import Choice


@dataclass(frozen=True)
class Input:
    """A model's part in the merge: which entry names it, whether deltas are taken from it, and its own settings.

    `slot` is its slot id: what random numbers and plan keys know it by, wherever it stands in the recipe.
    """

    reference: str
    slot: str
    place: Place
    label: str
    is_base: bool
    settings: Mapping[str, tuple[Choice, ...]]
    layers: range | None = None
    """Which of its layers, in a slice; None for all of them."""


@dataclass(frozen=True)
class Rule:
    """The tensors that a bound is of, by a pattern for their names, and where the recipe says so."""

    match: str
    place: Place
    is_copy: bool


@dataclass(frozen=True)
class Bound:
    """A recipe, or one slice or module of it, that fits its method.

    `inputs` are in the order in which a method takes them: the base first, if any, then the models in the order of
    their slot ids where that order has no meaning (a commutative method), else as the recipe lists them. `settings`
    are those of the slice, then of the module, then of the recipe; `module` is "" where it is not of a module.
    """

    recipe: Recipe
    method: Method
    inputs: tuple[Input, ...]
    settings: Mapping[str, tuple[Choice, ...]]
    warnings: tuple[Problem, ...]
    module: str = ""
    place: Place | None = None
    """Where the slice stands; None where the models are merged whole."""
    rule: Rule | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """A name for what each model beside the base is good at: the last part of its reference, made unique."""
        return task_names([one.reference for one in self.inputs if not one.is_base])

    @property
    def router(self) -> RouterEntry:
        return self.recipe.router or RouterEntry()

    @property
    def is_mergekit(self) -> bool:
        return self.recipe.compat == "mergekit"


def task_names(references: Sequence[str]) -> tuple[str, ...]:
    """Names fit for files, from references to models.

    >>> task_names(["models/math", "org/math@v2", "./code/"])
    ('math', 'math-2', 'code')
    """
    names: list[str] = []
    for reference in references:
        last = re.split(r"[/\\]", reference.rstrip("/\\"))[-1].partition("@")[0]
        stem = re.sub(r"[^\w.-]+", "-", last.removesuffix(".safetensors")).strip("-.") or "task"
        taken = {name.lower() for name in names}  # some file systems do not tell a from A
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}").lower() in taken:
            number += 1
        names.append(name)
    return tuple(names)


def path_label(path: DocumentPath) -> str:
    """A path as people write it: models[0], slices[1].sources[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
