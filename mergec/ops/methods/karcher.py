"""Karcher: the mean of the models' directions on the sphere, with the mean of their norms."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.gram import gram
from mergec.ops.registry import Arithmetic, method
from mergec.ops.sphere import combine_weights, karcher_coefficients

MaxIter = Annotated[int, Field(ge=0, description="the most steps towards the mean; 0 leaves the mean of the vectors")]
Tol = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a step shorter than this angle ends the search")]


@method("https://doi.org/10.1145/502122.502124", base="input")
def karcher(models: tuple[Node, ...], *, max_iter: MaxIter = 10, tol: Tol = 1e-5, arithmetic: Arithmetic) -> Node:
    """Take the point on the sphere whose squared angles to the models' directions have the least sum (Karcher mean).

    result = mean(|x_i|) * m, m found by at most max_iter steps m <- exp_m(mean(log_m(x_i / |x_i|))) from the mean.
    Zero tensors have no direction and count as norms only. Where the directions cancel out, the first is the start.

    Elsewhere: mergekit leaves out tensors of norm `tol` or less; under compat: mergekit so do we. A direction exactly
    opposite to m gives NaN there, and pulls nowhere here. A base_model is one more model in both.
    """
    if len(models) == 1:
        return models[0]
    floor = tol if arithmetic.mergekit else 0.0
    return combine_weights(karcher_coefficients(gram(*models), max_iter=max_iter, tol=tol, floor=floor), *models)
