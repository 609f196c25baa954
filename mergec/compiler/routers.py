"""Routers: the rows by which a mixture's tokens are sent to experts, as sources that are drawn or made of prompts."""

from __future__ import annotations

from dataclasses import dataclass

from mergec.compiler.source import Derived, Loader
from mergec.graph import Node
from mergec.io.tensors import TensorRef
from mergec.ops.registry import Draw
from mergec.ops.route import drawn_router


@dataclass(frozen=True)
class Drawn(Derived):
    """Rows of random numbers: nothing is read for them."""

    draw: Draw
    uniform: bool

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return ()

    @property
    def structure(self) -> object:
        return "drawn", self.dtype, self.uniform

    def build(self, load: Loader, dtype: str) -> Node:
        rows, columns = self.shape
        return drawn_router(load.graph, (rows, columns), self.draw, uniform=self.uniform)
