"""MagMax: take the largest change, entry by entry."""

from mergec.ops import steps
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.step import Steps


@method("arXiv:2407.06322")
def magmax(*, weight: Each[Weight] = each(1.0), lambda_: Lambda = 1.0) -> Steps:
    """Add to each entry of the base the change of the model that changed it most.

    result = base + lambda * d_m, m = argmax |d_i|, d_i = weight_i * (x_i - base). Of equal changes the last counts.

    Elsewhere: none known.
    """
    return Steps(steps.diff(), steps.fuse_largest(weight=weight, lambda_=lambda_))
