"""Model stock: between the base and the mean of the fine-tunes, as far as their angles say."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.gram import gram_deltas
from mergec.ops.registry import Arithmetic, method
from mergec.ops.stock import stock, stock_ratio, stock_rows

FilterWise = Annotated[bool, Field(description="one ratio per row of a tensor instead of one per tensor")]


@method("arXiv:2403.19522", models=(2, None), commutative=True)
def model_stock(
    base: Node, models: tuple[Node, ...], *, filter_wise: FilterWise = False, arithmetic: Arithmetic
) -> Node:
    """Move from the base towards the mean of N fine-tunes by t = N c / (1 + (N - 1) c).

    c is the mean cosine between the fine-tunes' deltas: the more they agree, the further it goes. Independent of
    the deltas' scale. t is 0 where 1 + (N - 1) c vanishes, and not clamped: a negative c moves away from the mean.

    Elsewhere: mergekit takes the mean of the cosines, as here, fusion_bench that of the angles. mergekit before 0.1.5
    divides by 0 where 1 + (N - 1) c vanishes, and holds norms below 1e-6 for 1e-6.
    """
    floor = 1e-6 if arithmetic.mergekit else 0.0
    if filter_wise:
        return stock_rows(base, *models, floor=floor)
    products = gram_deltas(*(diff(model, base) for model in models))
    return stock(base, stock_ratio(products, floor=floor), *models)
