"""DARE with TIES: drop entries of each delta at random, elect signs, fuse what agrees."""

from mergec.ops import steps
from mergec.ops.elect import Election
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density


@method("arXiv:2311.03099", commutative=True)
def dare_ties(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    normalize: Normalize = False,
    rescale: Rescale = True,
    elect: Election = "sum",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Keep each entry of a delta with probability `density`, rescale what is left, fuse what agrees in sign.

    result = base + lambda * sum(agreeing weight_i * d_i), d_i = (x_i - base) * kept / density_i.

    Elsewhere: as for dare_linear.
    """
    return Steps(
        steps.diff(),
        steps.trim_random(density=density),
        steps.rescale(by=rescale),
        steps.elect(by=elect, weight=weight),
        steps.fuse_agreeing(weight=weight, normalize=normalize, lambda_=lambda_),
    )
