"""Breadcrumbs with TIES: drop both tails of each delta, elect signs, fuse what agrees."""

from mergec.graph import Node
from mergec.ops import sparsify
from mergec.ops.elect import Election
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight, fuse_elected
from mergec.ops.registry import Arithmetic, Each, each, method
from mergec.ops.rescale import NormRescale
from mergec.ops.trim import Density, Gamma


@method("arXiv:2312.06795")
def breadcrumbs_ties(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    gamma: Each[Gamma] = each(0.01),
    normalize: Normalize = False,
    rescale: NormRescale = False,
    elect: Election = "sum",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    arithmetic: Arithmetic,
) -> Node:
    """Drop the int(gamma * n) largest entries of each delta, keep the next int(density * n), fuse what agrees in sign.

    result = base + lambda * sum(agreeing weight_i * d_i). A density of 1 keeps everything, outliers too.
    """
    deltas = sparsify.middle(base, models, density, gamma, rescale, arithmetic)
    return fuse_elected(base, deltas, weight, normalize, lambda_, elect)
