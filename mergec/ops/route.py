"""Route: what a mixture of experts is made with - noise on an expert, the rows of a router."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

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


@op("map", "weight -> weight", scratch_bytes=64)
def perturb(values: Tensor, *, scale: float, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """A weight plus `scale` times standard normal noise, drawn per entry."""
    noise = random.normal(tile.start, tile.stop, random.key(seed, stream, tile.name, slot), tile.device)
    return values + (noise * scale).to(values.dtype)


@op("map", "-> weight", scratch_bytes=64)
def gaussian(*, seed: int, stream: str, tile: Tile) -> Tensor:
    """Standard normal numbers, float32."""
    return random.normal(tile.start, tile.stop, random.key(seed, stream, tile.name, ""), tile.device).float()


@op("map", "-> weight", scratch_bytes=32)
def spread(*, bound: float, seed: int, stream: str, tile: Tile) -> Tensor:
    """Numbers drawn uniformly from -bound to bound, float32."""
    drawn = random.uniform(tile.start, tile.stop, random.key(seed, stream, tile.name, ""), tile.device)
    return (((drawn.double() + 0.5) * (2 / random.LEVELS) - 1) * bound).float()


def drawn_router(graph: Graph, shape: tuple[int, int], draw: Draw, *, uniform: bool) -> Node:
    """The rows of a router, experts x hidden, drawn at random.

    Normal numbers, or `uniform` ones within 1 / sqrt(hidden), as a linear layer is initialised.
    """
    kind = TensorType(shape, "float32", "weight")
    attrs: dict[str, Attr] = {"seed": draw.seed, "stream": draw.stream}
    if not uniform:
        return graph.node("gaussian", (), attrs, kind, "map")
    return graph.node("spread", (), {**attrs, "bound": 1 / math.sqrt(shape[1])}, kind, "map")
