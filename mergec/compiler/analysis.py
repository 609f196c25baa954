"""Analysis: a recipe whose every value and every input has been checked, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from mergec.compiler.inventory import Inventory
from mergec.compiler.models import Model
from mergec.compiler.names import Layer
from mergec.compiler.vocabulary import Chosen
from mergec.errors import Problem
from mergec.ops.registry import Method
from mergec.recipe.bound import Bound
from mergec.recipe.schema import Recipe


class Part(NamedTuple):
    """A slice or a module of the result, or all of it: its inputs and settings, and the tensors that it makes."""

    bound: Bound
    inventory: Inventory


@dataclass(frozen=True)
class Analysis:
    """A recipe whose every value and every input has been checked; a part for each slice, in their order."""

    parts: tuple[Part, ...]
    models: Mapping[str, Model]
    stages: Mapping[str, Analysis] = field(default_factory=dict)
    """The stages whose results are among the models, by name, each after those that it needs itself."""
    warnings: tuple[Problem, ...] = ()
    vocabulary: Chosen | None = None
    """The vocabulary that the recipe asks for."""

    @property
    def recipe(self) -> Recipe:
        return self.parts[0].bound.recipe

    @property
    def method(self) -> Method:
        return self.parts[0].bound.method

    @cached_property
    def of_tensor(self) -> Mapping[str, Part]:
        """The part that makes each output tensor."""
        return {name: part for part in self.parts for name in part.inventory.rows}

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """The layer of every output tensor that lies in one."""
        return {name: layer for part in self.parts for name, layer in part.inventory.layers.items()}


def all_models(analysis: Analysis) -> dict[str, Model]:
    """The models of a recipe and of its stages, by reference."""
    return {name: model for one in (*analysis.stages.values(), analysis) for name, model in one.models.items()}
