"""Breadcrumbs with TIES: drop both tails of each delta, elect signs, fuse what agrees."""

from mergec.ops import steps
from mergec.ops.elect import Election
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import NormRescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density, Gamma


@method("arXiv:2312.06795", commutative=True)
def breadcrumbs_ties(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    gamma: Each[Gamma] = each(0.01),
    normalize: Normalize = False,
    rescale: NormRescale = False,
    elect: Election = "sum",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Drop the int(gamma * n) largest entries of each delta, keep the next int(density * n), fuse what agrees in sign.

    result = base + lambda * sum(agreeing weight_i * d_i). A density of 1 keeps everything, outliers too.

    Elsewhere: as for breadcrumbs.
    """
    return Steps(
        steps.diff(),
        steps.trim_middle(density=density, gamma=gamma),
        steps.rescale(by=rescale),
        steps.elect(by=elect, weight=weight),
        steps.fuse_agreeing(weight=weight, normalize=normalize, lambda_=lambda_),
    )
