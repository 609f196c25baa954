"""TIES: keep the large changes, elect a sign per entry, average the deltas that agree."""

from mergec.ops import steps
from mergec.ops.elect import Election, ZeroSign
from mergec.ops.fuse import Aggregate, Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import NormRescale
from mergec.ops.step import Steps
from mergec.ops.threshold import Extent, KeepCount
from mergec.ops.trim import Density


@method("arXiv:2306.01708", commutative=True)
def ties(
    *,
    weight: Each[Weight],
    density: Each[Density] = each(1.0),
    scope: Extent = "tensor",
    keep_count: KeepCount = "exact",
    normalize: Normalize = True,
    rescale: NormRescale = False,
    elect: Election = "sum",
    zero_sign: ZeroSign = "plus",
    aggregate: Aggregate = None,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Trim each delta to its largest entries, elect a sign per entry, take the weighted mean of those that agree.

    result = base + lambda * sum(agreeing weight_i * d_i) / sum(agreeing weight_i), d_i = trim(x_i - base, density_i).
    Trim keeps exactly max(1, int(density * n)) entries of a tensor, equal ones by lowest index. A zero vote is a plus,
    unless zero_sign says otherwise. aggregate: max takes the largest that agrees in place of the mean.
    With scope: model, n counts the entries of all tensors that the delta is used in (its weight is not 0), and equal
    ones go by the natural order of names first. With keep_count: reference it is int(density * n) + 1 and all equal.

    Elsewhere: the paper's code takes one threshold per model over all tensors (scope: model), keeps one entry more and
    ties (keep_count: reference), and gives a zero vote the sign of the majority of the model (zero_sign: majority).
    mergekit elects by weighted deltas, as here; its sort is not stable, so that it keeps an arbitrary one of equal
    magnitudes. fusion_bench adds up what agrees where the paper takes the mean (aggregate: sum).
    """
    return Steps(
        steps.diff(),
        steps.trim_largest(density=density, scope=scope, keep_count=keep_count),
        steps.rescale(by=rescale),
        steps.elect(by=elect, zero_sign=zero_sign, weight=weight, scope=scope),
        steps.fuse_agreeing(weight=weight, normalize=normalize, lambda_=lambda_, aggregate=aggregate),
    )
