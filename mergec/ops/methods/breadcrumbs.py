"""Breadcrumbs: drop both tails of each delta - outliers and small change - and add up the rest."""

from mergec.ops import steps
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import NormRescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density, Gamma


@method("arXiv:2312.06795", commutative=True)
def breadcrumbs(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    gamma: Each[Gamma] = each(0.01),
    normalize: Normalize = False,
    rescale: NormRescale = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Drop the int(gamma * n) largest entries of each delta, keep the next int(density * n), add them weighted.

    result = base + lambda * sum(weight_i * d_i). A density of 1 keeps everything, outliers too.

    Elsewhere: mergekit before 0.1.5 sets a tensor to the base where int(gamma * n) is 0, as it is for every tensor
    of less than 100 entries by default. It keeps none of a tiny tensor where we keep one, but for compat: mergekit.
    """
    return Steps(
        steps.diff(),
        steps.trim_middle(density=density, gamma=gamma),
        steps.rescale(by=rescale),
        steps.fuse_sum(weight=weight, normalize=normalize, lambda_=lambda_),
    )
