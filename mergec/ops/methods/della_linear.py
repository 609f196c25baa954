"""DELLA without election: drop entries at random by their rank, rescale the rest, add them up."""

from mergec.graph import Node
from mergec.ops import sparsify
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight, fuse_deltas
from mergec.ops.registry import Arithmetic, Draw, Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.trim import Density, Epsilon


@method("arXiv:2406.11617")
def della_linear(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    epsilon: Each[Epsilon] = each(0.15),
    normalize: Normalize = False,
    rescale: Rescale = True,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    draw: Draw,
    arithmetic: Arithmetic,
) -> Node:
    """Keep entries with a probability that grows with their rank in their row, rescale, add the weighted deltas.

    result = base + lambda * sum(weight_i * d_i), d_i = (x_i - base) * kept / p.
    p runs from density - epsilon for the smallest entry of a row (last axis) to density + epsilon for the largest.
    """
    deltas = sparsify.ranked(base, models, density, epsilon, rescale, draw, arithmetic)
    return fuse_deltas(base, deltas, weight, normalize, lambda_)
