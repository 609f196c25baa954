"""SCE: select entries of high variance, calculate a weight per tensor, erase minority signs."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.elect import elect
from mergec.ops.fuse import Int8Mask
from mergec.ops.ranking import cut_nonzero
from mergec.ops.registry import Arithmetic, method
from mergec.ops.sce import fuse_shares, mean_squares, select, shares_of, variance

TopK = Annotated[
    float, Field(ge=0, le=1, description="share of the entries that differ between models which is merged; 1: all")
]


@method("arXiv:2408.07990")
def sce(
    base: Node,
    models: tuple[Node, ...],
    *,
    select_topk: TopK = 1.0,
    int8_mask: Int8Mask = False,
    arithmetic: Arithmetic,
) -> Node:
    """Keep entries whose variance over the models is high, weigh models by mean square, average what agrees in sign.

    result = base + sum(agreeing W_i * d_i) / sum(agreeing W_i), W_i the mean of d_i^2 over the tensor.
    d_i = x_i - base at the int(select_topk * n) entries of highest variance, n those that have any; equal variances
    rank by lowest index. A zero vote is a plus; zeros agree with no sign. One model alone has no variance.

    Elsewhere: mergekit weighs models equally where the W_i sum to less than 1e-6, as they do for ordinary fine-tunes,
    and takes divisors below 1e-6 for 1e-6; under compat: mergekit so do we. It breaks ties of variance arbitrarily.
    """
    floor = 1e-6 if arithmetic.mergekit else 0.0
    deltas = [diff(model, base) for model in models]
    if select_topk < 1:
        spread = variance(*deltas)
        highest = cut_nonzero(spread, share=select_topk)
        deltas = [select(delta, spread, highest) for delta in deltas]
    shares = shares_of(mean_squares(*deltas), floor=floor)
    return fuse_shares(base, elect(*deltas, by="sum"), shares, *deltas, floor=floor)
