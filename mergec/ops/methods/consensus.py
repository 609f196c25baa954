"""Consensus: add up the deltas where several tasks need their sum."""

from mergec.ops import steps
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.masks import Agreement, MaskLambda
from mergec.ops.registry import Each, each, method
from mergec.ops.step import Steps


@method("arXiv:2405.07813", models=(2, None), commutative=True)
def consensus(
    *,
    weight: Each[Weight] = each(1.0),
    mask_lambda: Each[MaskLambda] = each(0.4),
    agreement: Agreement = 2,
    lambda_: Lambda = 1.0,
) -> Steps:
    """Drop entries that no task, or one alone, needs of the sum of all deltas; add up the others.

    result = base + lambda * mask * sum(weight_i * d_i), d_i = x_i - base. The mask is where at least `agreement` tasks
    have |d_i| > mask_lambda_i * |sum(d_j) - d_i|, which is the TALL mask of a task.

    Elsewhere: the authors find mask_lambda on validation data; here it is a setting.
    """
    return Steps(
        steps.diff(),
        steps.trim_wanted(mask_lambda=mask_lambda, agreement=agreement),
        steps.fuse_sum(weight=weight, lambda_=lambda_),
    )
