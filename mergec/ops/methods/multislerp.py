"""Multi-SLERP: the weighted mean of several directions on the sphere, with the weighted mean of the norms."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.fuse import Weight
from mergec.ops.gram import gram, gram_deltas
from mergec.ops.registry import Each, ParameterError, method
from mergec.ops.sphere import combine_deltas, combine_weights, multislerp_coefficients, onto

NormalizeWeights = Annotated[bool, Field(description="divide the weights by their sum")]
Eps = Annotated[float, Field(ge=0, allow_inf_nan=False, description="added to norms before they divide")]


@method("https://goddard.blog/posts/multislerp-wow-what-a-cool-idea", base="optional")
def multislerp(
    base: Node | None,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    normalize_weights: NormalizeWeights = True,
    eps: Eps = 1e-8,
) -> Node:
    """Average the directions of several models, or of their deltas from a base, and their norms apart from each other.

    result = sum(w_i * |x_i|) * m, m the direction of sum(w_i * x_i / (|x_i| + eps)).
    Directions that cancel out, and zero vectors alone, give sum(w_i * x_i). A single model is taken as it is.

    Elsewhere: mergekit goes on from m by the mean of the tangents at m, which is zero there by its choice of m. It
    stops with an error where three or more directions cancel out, and at weights that sum to 0 writes NaN.
    """
    if len(models) == 1:
        return models[0]
    if normalize_weights and abs(sum(weight)) <= 1e-6 * sum(map(abs, weight)):
        what = f"weights {', '.join(f'{w:g}' for w in weight)} sum to zero, and normalize_weights divides by their sum"
        raise ParameterError("weight", what, "set normalize_weights: false")
    weights = tuple(w / sum(weight) for w in weight) if normalize_weights else tuple(weight)
    if base is None:
        return combine_weights(multislerp_coefficients(gram(*models), weights=weights, eps=eps), *models)
    deltas = [diff(model, base) for model in models]
    coefficients = multislerp_coefficients(gram_deltas(*deltas), weights=weights, eps=eps)
    return onto(base, combine_deltas(coefficients, *deltas))
