"""WUDI-Merging: descend from the sum of the deltas to where they disturb each other least."""

from mergec.graph import Node
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.matrix import AsMatrix, Vectors, fuse_matrices
from mergec.ops.registry import Each, each, method
from mergec.ops.wudi import Iterations, LearningRate, merge_undisturbed


@method("arXiv:2503.08099")
def wudi(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    iterations: Iterations = 300,
    learning_rate: LearningRate = 1e-5,
    as_matrix: AsMatrix = True,
    vectors: Vectors = "mean",
    lambda_: Lambda = 1.0,
) -> Node:
    """Minimise how much the other models' deltas act on the inputs of each, which its own delta's rows span.

    result = base + lambda * argmin_x sum(|(x - d_t) d_t^T|^2 / |d_t|^2), d_t = weight_t * (x_t - base).
    Adam starts at x = sum(d_t) and makes `iterations` steps; an entry moves by about learning_rate * iterations at
    most. Tensors that are no matrices are merged by `vectors`.

    Elsewhere: the authors' code runs on all matrices of a list of names; here as_matrix chooses them.
    """
    return fuse_matrices(
        base,
        models,
        weight,
        lambda_,
        as_matrix,
        vectors,
        lambda deltas: merge_undisturbed(*deltas, iterations=iterations, learning_rate=learning_rate),
    )
