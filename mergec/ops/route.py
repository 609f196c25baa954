"""Route: what a mixture of experts is made with - noise on an expert, the rows of a router."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from mergec.graph import Attr, Graph, Node, TensorType
from mergec.ops import random
from mergec.ops.op import Tile, op
from mergec.ops.registry import Draw

if TYPE_CHECKING:
    from torch import Tensor

NoiseScale = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="how much gaussian noise is added to the expert's MLPs")
]
ResidualScale = Annotated[
    float, Field(allow_inf_nan=False, description="what the last matrix of the expert's MLPs is multiplied by")
]


@op("map", "weight -> weight", scratch_bytes=160)
def perturb(values: Tensor, *, scale: float, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """A weight plus `scale` times standard normal noise, drawn per entry."""
    noise = random.normal(tile.start, tile.stop, random.key(seed, stream, tile.name, slot), tile.device)
    return values + (noise * scale).to(values.dtype)


@op("map", "-> weight", scratch_bytes=160)
def gaussian(*, seed: int, stream: str, tile: Tile) -> Tensor:
    """Standard normal numbers, float32."""
    return random.normal(tile.start, tile.stop, random.key(seed, stream, tile.name, ""), tile.device).float()


@op("map", "-> weight", scratch_bytes=32)
def spread(*, bound: float, seed: int, stream: str, tile: Tile) -> Tensor:
    """Numbers drawn uniformly from -bound to bound, float32."""
    drawn = random.uniform(tile.start, tile.stop, random.key(seed, stream, tile.name, ""), tile.device)
    return (((drawn.double() + 0.5) * (2 / random.LEVELS) - 1) * bound).float()


def _routed(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (len(attrs["picks"]), nodes[0].type.numel), "float32"


@op("whole", "part* -> weight", scratch_bytes=64, gives=_routed)
def prompt_sums(*rows: Tensor, picks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> Tensor:
    """A row of length 1 per expert, experts x hidden, float32: the sum of the rows of its tokens.

    `picks` are, for each expert, the numbers of rows that are added, and of those whose sum is subtracted once both
    have length 1. Sums are float64. mergekit-moe's `cheap_embed`.
    """
    import torch

    table = torch.stack(rows).double()

    def total(numbers: tuple[int, ...]) -> Tensor:
        return unit(table[list(numbers)].sum(dim=0))

    made = [total(positive) - total(negative) if negative else total(positive) for positive, negative in picks]
    return unit(torch.stack(made)).float()


def unit(rows: Tensor) -> Tensor:
    """Rows, or one, of length 1; those of no length stay what they are."""
    lengths: Tensor = rows.norm(dim=-1, keepdim=True)
    return rows / lengths.clamp(min=1e-8)


def prompt_states(loads: Sequence[Node], shape: tuple[int, int], **facts: Attr) -> Node:
    """A row of length 1 per expert, experts x hidden, float32: what prompts are at a layer of a model.

    `loads` are the model's files: a run finds this before tensors are made, with the model as a whole
    (`execute/states.py`). `facts` are `layer`, whose input is meant; `prompts`, for each expert the tokens of those for
    it and for others; `state`, of the `last` token or the `mean`; `dtype`, in which the model is computed; a digest of
    its `config`; and the `bytes` that it takes.
    """
    return loads[0].graph.node("prompt_states", tuple(loads), facts, TensorType(shape, "float32", "weight"), "states")


def drawn_router(graph: Graph, shape: tuple[int, int], draw: Draw, *, uniform: bool) -> Node:
    """The rows of a router, experts x hidden, drawn at random.

    Normal numbers, or `uniform` ones within 1 / sqrt(hidden), as a linear layer is initialised.
    """
    kind = TensorType(shape, "float32", "weight")
    attrs: dict[str, Attr] = {"seed": draw.seed, "stream": draw.stream}
    if not uniform:
        return graph.node("gaussian", (), attrs, kind, "map")
    return graph.node("spread", (), {**attrs, "bound": 1 / math.sqrt(shape[1])}, kind, "map")
