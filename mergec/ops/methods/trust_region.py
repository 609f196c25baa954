"""Task arithmetic in the trust region: add up the deltas where tasks do not disturb each other."""

from mergec.ops import steps
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.step import Steps
from mergec.ops.threshold import Extent, Quantile


@method("arXiv:2501.15065", models=(2, None), commutative=True)
def trust_region(
    *,
    weight: Each[Weight] = each(1.0),
    quantile: Quantile = 0.99,
    scope: Extent = "model",
    lambda_: Lambda = 1.0,
) -> Steps:
    """Drop the entries in which the changes of several models are large at once; add up the others (zero-shot TATR).

    result = base + lambda * mask * sum(weight_i * d_i), d_i = x_i - base. The mask is where the sum over pairs of
    |d_i| |d_j| is below its quantile over the whole model, or over each tensor; equal values at the quantile go.

    Elsewhere: fusion_bench's default needs gradients on data; this is its zero_shot form.
    """
    return Steps(
        steps.diff(),
        steps.trim_trusted(quantile=quantile, scope=scope),
        steps.fuse_sum(weight=weight, lambda_=lambda_),
    )
