"""DELLA: drop entries at random by their rank, elect signs, fuse what agrees."""

from mergec.ops import steps
from mergec.ops.elect import Election
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density, Epsilon, WindowSize


@method("arXiv:2406.11617", commutative=True)
def della(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    epsilon: Each[Epsilon] = each(0.15),
    window_size: Each[WindowSize] = each(None),
    normalize: Normalize = True,
    rescale: Rescale = True,
    elect: Election = "sum",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Keep entries with a probability that grows with their rank in their row, rescale, fuse what agrees in sign.

    result = base + lambda * sum(agreeing weight_i * d_i) / sum(agreeing weight_i), d_i = (x_i - base) * kept / p.
    p runs from density - epsilon for the smallest entry of a row (last axis) to density + epsilon for the largest.

    Elsewhere: mergekit scales by one L1 factor per tensor (rescale: l1) in place of 1 / p, and cannot take tensors
    whose rows have one entry. The paper's code asks for a window_size of 2 * epsilon, and ranks 16-bit floats in 16
    bits on a GPU, where most ranks of a long row are equal.
    """
    return Steps(
        steps.diff(),
        steps.trim_ranked(density=density, epsilon=epsilon, window_size=window_size),
        steps.rescale(by=rescale),
        steps.elect(by=elect, weight=weight),
        steps.fuse_agreeing(weight=weight, normalize=normalize, lambda_=lambda_),
    )
