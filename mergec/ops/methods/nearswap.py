"""NearSwap: take the other model where it is near the base."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.near import near
from mergec.ops.registry import Arithmetic, method

Reach = Annotated[float, Field(ge=0, allow_inf_nan=False, description="the most an entry moves from the base")]


@method("https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001", models=(1, 1))
def nearswap(base: Node, models: tuple[Node, ...], *, t: Reach, arithmetic: Arithmetic) -> Node:
    """Move each entry of the base to the other model's where they differ by at most t, else by t towards it.

    result = w * x + (1 - w) * base, w = min(1, t / |x - base|).

    Elsewhere: mergekit takes differences below 1e-6 for 1e-6, so that t < 1e-6 moves them by less; under
    compat: mergekit so do we.
    """
    return near(base, *models, t=t, floor=1e-6 if arithmetic.mergekit else 0.0) if t else base
