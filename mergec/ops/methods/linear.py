"""Linear: the weighted average of the models."""

from mergec.graph import Node
from mergec.ops.fuse import Normalize, Weight, average, check_weights
from mergec.ops.registry import Each, ParameterError, method


@method("arXiv:2203.05482", base="input")
def linear(models: tuple[Node, ...], *, weight: Each[Weight], normalize: Normalize = True) -> Node:
    """Average the models, entry by entry (model soup).

    result = sum(weight_i * x_i) / sum(weight_i), without the division if `normalize` is false.
    A `base_model` that is not listed is one more model, as in mergekit, and needs a weight.
    """
    check_weights(weight, normalize)
    if normalize and not any(weight):
        raise ParameterError(
            "weight", "every weight is 0, and normalize divides by their sum", "give one model a weight"
        )
    return average(*models, weights=weight, normalize=normalize)
