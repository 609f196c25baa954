"""SLERP: the point at t on the great circle from the base to the other model."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.gram import combine, gram, slerp_coefficients
from mergec.ops.registry import Arithmetic, method

Position = Annotated[
    float, Field(allow_inf_nan=False, description="where on the path: 0 is the base model, 1 is the other")
]


@method("https://dl.acm.org/doi/10.1145/325334.325242", models=(1, 1))
def slerp(base: Node, models: tuple[Node, ...], *, t: Position, arithmetic: Arithmetic) -> Node:
    """Interpolate between two models along the sphere, each tensor taken as one vector.

    result = sin((1-t)h)/sin(h) * base + sin(t h)/sin(h) * other, h the angle between them.
    Directions that (nearly) coincide, cos h > 0.9995, and exactly opposite ones use (1-t) * base + t * other.

    Elsewhere: mergekit's norms are float32, whose sums over tens of millions of entries are off by 1e-3; here they are
    float64. It takes the straight line from cos h < -0.9995 on; under compat: mergekit so do we.
    """
    (other,) = models
    products = gram(base, other)
    return combine(base, other, slerp_coefficients(products, t=t, lerp_opposite=arithmetic.mergekit))
