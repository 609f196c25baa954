"""Iso-C: one singular value for all directions of the sum of what was learned."""

from mergec.graph import Node
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.matrix import AsMatrix, Vectors, fuse_matrices
from mergec.ops.registry import Each, each, method
from mergec.ops.svd import RankRatio, merge_isotropic, rank_of


@method("arXiv:2502.04959")
def iso_c(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    rank_ratio: RankRatio = 1.0,
    as_matrix: AsMatrix = True,
    vectors: Vectors = "mean",
    lambda_: Lambda = 1.0,
) -> Node:
    """Add up the deltas and make the spectrum of the sum flat: every singular value becomes their mean.

    result = base + lambda * mean(S) * U V, where U S V = sum(weight_t * (x_t - base)), each delta cut to its first
    int(rank_ratio * min(H, W)) singular values. Tensors that are no matrices are merged by `vectors`.

    Elsewhere: the code of a later comparison sums deltas that were first cut to 1/T of their rank (rank_ratio:
    equal). A sum of low rank has no unique flat spectrum in LAPACK's basis; here values that are zero up to rounding
    stay zero.
    """
    return fuse_matrices(
        base,
        models,
        weight,
        lambda_,
        as_matrix,
        vectors,
        lambda deltas: merge_isotropic(*deltas, rank=rank_of(base, rank_ratio, len(models))),
    )
