"""TSV-Merge: orthogonalise the singular vectors of what each model learned."""

from mergec.graph import Node
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.matrix import AsMatrix, Vectors, fuse_matrices
from mergec.ops.registry import Each, each, method
from mergec.ops.svd import RankRatio, merge_singular, rank_of


@method("arXiv:2412.00081")
def tsv(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    rank_ratio: RankRatio = "equal",
    as_matrix: AsMatrix = True,
    vectors: Vectors = "mean",
    lambda_: Lambda = 1.0,
) -> Node:
    """Keep the first singular values of each delta, make the singular vectors of all models orthogonal, add up.

    result = base + lambda * polar([U_1 .. U_T]) diag(S_1 .. S_T) polar([V_1; ..; V_T]), U_t S_t V_t the first
    int(rank_ratio * min(H, W)) singular vectors and values of weight_t * (x_t - base). Tensors that are no matrices
    are merged by `vectors`. Where that number is 0 the base is kept, with a warning.

    Elsewhere: fusion_bench calls it TSVM, with the same numbers. The repository of a later comparison does not run.
    """
    return fuse_matrices(
        base,
        models,
        weight,
        lambda_,
        as_matrix,
        vectors,
        lambda deltas: merge_singular(*deltas, rank=rank_of(base, rank_ratio, len(models))),
    )
