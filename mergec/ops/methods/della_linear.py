"""DELLA without election: drop entries at random by their rank, rescale the rest, add them up."""

from mergec.ops import steps
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density, Epsilon, WindowSize


@method("arXiv:2406.11617", commutative=True)
def della_linear(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    epsilon: Each[Epsilon] = each(0.15),
    window_size: Each[WindowSize] = each(None),
    normalize: Normalize = False,
    rescale: Rescale = True,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Keep entries with a probability that grows with their rank in their row, rescale, add the weighted deltas.

    result = base + lambda * sum(weight_i * d_i), d_i = (x_i - base) * kept / p.
    p runs from density - epsilon for the smallest entry of a row (last axis) to density + epsilon for the largest.

    Elsewhere: as for della.
    """
    return Steps(
        steps.diff(),
        steps.trim_ranked(density=density, epsilon=epsilon, window_size=window_size),
        steps.rescale(by=rescale),
        steps.fuse_sum(weight=weight, normalize=normalize, lambda_=lambda_),
    )
