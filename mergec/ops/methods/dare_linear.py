"""DARE: drop entries of each delta at random, rescale the rest, add them up."""

from mergec.ops import steps
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import Rescale
from mergec.ops.step import Steps
from mergec.ops.trim import Density


@method("arXiv:2311.03099", commutative=True)
def dare_linear(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    normalize: Normalize = False,
    rescale: Rescale = True,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Keep each entry of a delta with probability `density`, rescale what is left, add the weighted deltas.

    result = base + lambda * sum(weight_i * d_i), d_i = (x_i - base) * kept / density_i.

    Elsewhere: mergekit scales what is left of a tensor by one factor that restores its L1 norm, not by
    1 / density as the paper does; rescale: l1 and compat: mergekit do the same. It draws from one global stream, so
    that masks depend on every tensor before.
    """
    return Steps(
        steps.diff(),
        steps.trim_random(density=density),
        steps.rescale(by=rescale),
        steps.fuse_sum(weight=weight, normalize=normalize, lambda_=lambda_),
    )
