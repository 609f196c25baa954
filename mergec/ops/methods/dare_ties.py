"""DARE with TIES: drop entries of each delta at random, elect signs, fuse what agrees."""

from mergec.graph import Node
from mergec.ops import sparsify
from mergec.ops.elect import Election
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight, fuse_elected
from mergec.ops.registry import Arithmetic, Draw, Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.trim import Density


@method("arXiv:2311.03099")
def dare_ties(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    normalize: Normalize = False,
    rescale: Rescale = True,
    elect: Election = "sum",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    draw: Draw,
    arithmetic: Arithmetic,
) -> Node:
    """Keep each entry of a delta with probability `density`, rescale what is left, fuse what agrees in sign.

    result = base + lambda * sum(agreeing weight_i * d_i), d_i = (x_i - base) * kept / density_i.
    """
    deltas = sparsify.random(base, models, density, rescale, draw, arithmetic)
    return fuse_elected(base, deltas, weight, normalize, lambda_, elect)
