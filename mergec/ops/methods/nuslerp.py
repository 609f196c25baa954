"""NuSLERP: two models, or what they changed, interpolated along the sphere by their weights."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.fuse import Weight
from mergec.ops.gram import gram, gram_deltas
from mergec.ops.registry import Arithmetic, Each, method
from mergec.ops.sphere import (
    arc_coefficients,
    arc_columns,
    arc_columns_deltas,
    arc_rows,
    arc_rows_deltas,
    combine_deltas,
    combine_weights,
    onto,
)

Flatten = Annotated[bool, Field(description="take each tensor as one vector; false: an arc of its own for each row")]
RowWise = Annotated[bool, Field(description="with nuslerp_flatten: false, arcs run along the first axis, not the last")]


@method("https://dl.acm.org/doi/10.1145/325334.325242", base="optional", models=(2, 2))
def nuslerp(
    base: Node | None,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    nuslerp_flatten: Flatten = True,
    nuslerp_row_wise: RowWise = False,
    arithmetic: Arithmetic,
) -> Node:
    """Interpolate between two models along the sphere at t = w2 / (w1 + w2); with a base, between their deltas.

    result = sin((1-t)h)/sin(h) * x1 + sin(t h)/sin(h) * x2, h the angle between them.
    Weights that sum to 0 mean t = 1/2. Directions that coincide or are opposite, and zero vectors, use
    (1-t) * x1 + t * x2.

    Elsewhere: mergekit takes norms below 1e-7 for 1e-7, which straightens the arc between tiny deltas and shrinks
    none; under compat: mergekit so do we. It names the axes the other way round from what they do, and so do we.
    """
    total = sum(weight)
    t = weight[1] / total if abs(total) >= 1e-6 else 0.5
    floor = 1e-7 if arithmetic.mergekit else 0.0
    first, second = models if base is None else [diff(model, base) for model in models]
    if nuslerp_flatten or len(first.type.shape) < 2:
        if base is None:
            return combine_weights(arc_coefficients(gram(first, second), t=t, floor=floor), first, second)
        coefficients = arc_coefficients(gram_deltas(first, second), t=t, floor=floor)
        return onto(base, combine_deltas(coefficients, first, second))
    if nuslerp_row_wise:
        arc = arc_columns if base is None else arc_columns_deltas
    else:
        arc = arc_rows if base is None else arc_rows_deltas
    return onto(base, arc(first, second, t=t, floor=floor))
