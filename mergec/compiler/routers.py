"""Routers: the rows by which a mixture's tokens are sent to experts, as sources that are drawn or made of prompts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mergec.compiler.models import Model, is_staged
from mergec.compiler.prompts import Prompts, Tokens, read_prompts
from mergec.compiler.source import Derived, Loader, Source
from mergec.errors import Problem
from mergec.graph import Node
from mergec.io.tensors import ITEM_BYTES, TensorRef
from mergec.ops.registry import Draw
from mergec.ops.route import drawn_router, prompt_states, prompt_sums
from mergec.recipe.experts import DRAWN, moe
from mergec.recipe.schema import Recipe

Maker: TypeAlias = Callable[[str, int, str, int, Source], Source]
"""Makes the rows of a router: given its name, the number of its layer, whose they are (`experts` or `shared_experts`),
how many, and the matrix that writes to the layer's residual stream."""


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


@dataclass(frozen=True)
class Summed(Derived):
    """Rows that are sums of the embeddings of prompts' tokens; `rows` are those of the tokens, each once."""

    rows: tuple[TensorRef, ...]
    picks: tuple[tuple[Tokens, Tokens], ...]
    """For each expert the numbers of its rows, with repetitions: of the prompts for it, and of those for others."""

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return self.rows

    @property
    def structure(self) -> object:
        return "summed", self.dtype, self.rows[0].dtype, self.picks

    def build(self, load: Loader, dtype: str) -> Node:
        return prompt_sums(*(load(row, "part") for row in self.rows), picks=self.picks)


@dataclass(frozen=True)
class Prompted(Derived):
    """Rows that are hidden states of the base at a layer: it is loaded whole for them, before a tensor is made."""

    files: tuple[TensorRef, ...]
    layer: int
    prompts: tuple[Prompts, ...]
    facts: Mapping[str, Any]

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return self.files

    @property
    def structure(self) -> object:
        return "prompted", self.dtype, self.layer, self.prompts

    def build(self, load: Loader, dtype: str) -> Node:
        prompts = tuple((one.positive, one.negative) for one in self.prompts)
        rows, columns = self.shape
        loads = [load(file, "part") for file in self.files]
        return prompt_states(loads, (rows, columns), layer=self.layer, prompts=prompts, **self.facts)


def router_maker(recipe: Recipe, base: Model, embedding: Source | None) -> tuple[Maker | None, list[Problem]]:
    """What makes the routers of a recipe, or why nothing can; `embedding` is the base's."""
    mode = recipe.gate_mode
    if mode in DRAWN:
        return _drawn(recipe), []
    is_stored = isinstance(embedding, TensorRef) and not is_staged(embedding)
    if embedding is None or not is_stored or (mode != "cheap_embed" and base.sources is not None):
        what = f"gate_mode {mode} takes what lies in the files of its base, and '{base.reference}' is computed"
        hint = "make that model by a run of its own, or take gate_mode: random"
        return None, [Problem(base.place, "E365", what, hint)]
    prompts, problems = read_prompts(recipe, base, embedding.shape[0])
    if problems:
        return None, problems
    if mode == "cheap_embed" and isinstance(embedding, TensorRef):
        return _summed(embedding, prompts), []
    return _prompted(base, "mean" if mode == "hidden_avg" else "last", prompts), []


def _drawn(recipe: Recipe) -> Maker:
    draw, is_uniform = Draw(recipe.seed, f"{moe().stream}.router"), recipe.gate_mode == "uniform_random"

    def make(name: str, layer: int, whose: str, rows: int, like: Source) -> Source:
        return Drawn(name, like.dtype, (rows, like.shape[0]), draw, is_uniform)

    return make


def _summed(embedding: TensorRef, prompts: Mapping[str, Sequence[Prompts]]) -> Maker:
    def make(name: str, layer: int, whose: str, rows: int, like: Source) -> Source:
        tokens = [[sum(some, ()) for some in one] for one in prompts[whose]]
        used = sorted({token for one in tokens for some in one for token in some})
        at = {token: number for number, token in enumerate(used)}
        picks = tuple((_numbers(at, one[0]), _numbers(at, one[1])) for one in tokens)
        return Summed(name, like.dtype, (rows, like.shape[0]), tuple(_row(embedding, one) for one in used), picks)

    return make


def _numbers(at: Mapping[int, int], tokens: Tokens) -> Tokens:
    return tuple(at[token] for token in tokens)


def _row(table: TensorRef, number: int) -> TensorRef:
    """A row of a table as a tensor."""
    size = table.shape[1] * ITEM_BYTES[table.dtype]
    begin = table.begin + number * size
    return TensorRef(table.file, f"{table.name}[{number}]", table.dtype, table.shape[1:], begin, begin + size)


def _prompted(base: Model, state: str, prompts: Mapping[str, Sequence[Prompts]]) -> Maker:
    checkpoint, config = base.checkpoint, base.checkpoint.config or {}
    files = tuple(
        TensorRef(file.path, os.path.basename(file.path), "uint8", (file.file_bytes,), 0, file.file_bytes)
        for file in checkpoint.files
    )
    longest = max(len(one) for some in prompts.values() for each in some for one in (*each.positive, *each.negative))
    weights = sum(ref.end - ref.begin for ref in checkpoint.tensors.values())
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    facts = {"state": state, "config": digest, "bytes": weights + _activations(config, longest)}

    def make(name: str, layer: int, whose: str, rows: int, like: Source) -> Source:
        own = {**facts, "dtype": like.dtype}
        return Prompted(name, like.dtype, (rows, like.shape[0]), files, layer, tuple(prompts[whose]), own)

    return make


def _activations(config: Mapping[str, Any], tokens: int) -> int:
    """What a prompt takes beside the weights, in bytes: states of all layers, an MLP, the products of attention."""
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    layers, hidden, inner, heads = (value if type(value := config.get(key)) is int else 1 for key in keys)
    return 4 * tokens * ((layers + 12) * hidden + 4 * inner + 4 * heads * tokens)
