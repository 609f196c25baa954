"""Linear: the weighted average of the models."""

from mergec.ops import steps
from mergec.ops.fuse import Normalize, Weight
from mergec.ops.registry import Each, method
from mergec.ops.step import Steps


@method("arXiv:2203.05482", base="input", commutative=True)
def linear(*, weight: Each[Weight], normalize: Normalize = True) -> Steps:
    """Average the models, entry by entry (model soup).

    result = sum(weight_i * x_i) / sum(weight_i), without the division if `normalize` is false.
    A `base_model` that is not listed is one more model, as in mergekit, and needs a weight.

    Elsewhere: mergekit's arithmetic is that of its inputs' dtype before 0.1.5; sums in float32 with fused
    multiply-adds since. Weights that sum to 0 give NaN there, an error here.
    """
    return Steps(steps.fuse_average(weight=weight, normalize=normalize))
