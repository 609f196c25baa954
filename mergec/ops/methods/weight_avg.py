"""Weight averaging: the mean of the models."""

from mergec.ops import steps
from mergec.ops.fuse import Normalize, Weight
from mergec.ops.registry import Each, each, method
from mergec.ops.step import Steps


@method("arXiv:2203.05482", base="input", commutative=True)
def weight_avg(*, weight: Each[Weight] = each(1.0), normalize: Normalize = True) -> Steps:
    """Average the models, entry by entry: `linear`, with equal weights unless the recipe gives others.

    result = sum(weight_i * x_i) / sum(weight_i), without the division if `normalize` is false.

    Elsewhere: some implementations average integers too; here they are copied from the first model.
    """
    return Steps(steps.fuse_average(weight=weight, normalize=normalize))
