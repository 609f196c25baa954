"""RAM+: average what several models changed, amplify what one model alone changed."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.ram import Threshold, amplification, fuse_amplified, overlap
from mergec.ops.registry import method

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False, description="amplification per unit of overlap")]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False, description="the most overlap that counts")]


@method("arXiv:2601.13572")
def ramplus_tl(
    base: Node, models: tuple[Node, ...], *, r: Rate = 0.1, alpha: Limit = 0.2, epsilon: Threshold = 1e-5
) -> Node:
    """Like ram, with the changes of one model alone amplified by how much that model overlaps with others.

    result = base + sum(changed d_i) / number of changed d_i, times 1 + r * min(alpha, rho_i) where only d_i is changed.
    rho_i is the number of entries that model i shares with others, divided by that of its own, over the tensor
    (tensor-level RAM+).

    Elsewhere: mergekit writes float32 for half types unless out_dtype is given; here dtype holds.
    """
    deltas = [diff(model, base) for model in models]
    factors = amplification(overlap(*deltas, epsilon=epsilon), r=r, alpha=alpha, epsilon=epsilon)
    return fuse_amplified(base, factors, *deltas, epsilon=epsilon)
