"""Iso-CTS: common directions and those of each model, all with one singular value."""

from mergec.graph import Node
from mergec.ops.fuse import Lambda, Weight
from mergec.ops.matrix import AsMatrix, Vectors, fuse_matrices
from mergec.ops.registry import Each, each, method
from mergec.ops.svd import CommonShare, merge_isotropic_spaces


@method("arXiv:2502.04959")
def iso_cts(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    common_share: CommonShare = 0.8,
    as_matrix: AsMatrix = True,
    vectors: Vectors = "mean",
    lambda_: Lambda = 1.0,
) -> Node:
    """Take the first directions of the summed deltas and, beyond them, the first of each; make their spectrum flat.

    result = base + lambda * mean(S) * polar(U) polar(V), U, S, V those of the sum of weight_t * (x_t - base) and of
    what each has outside that space, which gets 1 - common_share of the min(H, W) directions. Tensors that are no
    matrices are merged by `vectors`.

    Elsewhere: fusion_bench keeps directions that are zero up to rounding, which differ from machine to machine.
    """
    return fuse_matrices(
        base,
        models,
        weight,
        lambda_,
        as_matrix,
        vectors,
        lambda deltas: merge_isotropic_spaces(*deltas, common_share=common_share),
    )
