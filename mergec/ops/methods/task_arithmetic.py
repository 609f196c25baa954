"""Task arithmetic: add the weighted deltas of the models to the base."""

from mergec.ops import steps
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight
from mergec.ops.registry import Each, method
from mergec.ops.step import Steps


@method("arXiv:2212.04089", commutative=True)
def task_arithmetic(
    *,
    weight: Each[Weight],
    normalize: Normalize = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Steps:
    """Add what each model learned, weighted, to the base.

    result = base + lambda * sum(weight_i * (x_i - base)), divided by sum(weight_i) if `normalize`.

    Elsewhere: mergekit takes deltas, products and sums in the dtype of the models, rounding each; under
    compat: mergekit so do we.
    """
    return Steps(
        steps.diff(),
        steps.fuse_sum(weight=weight, normalize=normalize, lambda_=lambda_),
    )
