"""OPCM: merge models one after the other, each projected away from those before it."""

from mergec.graph import Node
from mergec.ops.basic import diff, weighed
from mergec.ops.elect import squares
from mergec.ops.fuse import Lambda, Weight, fuse_sum
from mergec.ops.masks import join
from mergec.ops.matrix import AsMatrix, is_matrix
from mergec.ops.opcm import ProjectionAlpha, mean_norm_ratio, merge_orthogonal, rescale_by_ratio
from mergec.ops.pool import over_model
from mergec.ops.registry import Each, each, method
from mergec.ops.threshold import Extent


@method("arXiv:2501.09522")
def opcm(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    alpha: ProjectionAlpha = 0.5,
    as_matrix: AsMatrix = True,
    scope: Extent = "model",
    lambda_: Lambda = 1.0,
) -> Node:
    """Add the deltas in the recipe's order, each without what lies along the directions that are taken.

    result = base + lambda * scale * D_T, D_1 = d_1, D_t = D_(t-1) + P(d_t), d_t = weight_t * (x_t - base). P removes,
    in the singular basis of D_(t-1), the diagonal and the block of the largest values, up to a share alpha of their
    sum. scale = mean of the norms of the d_t / norm of D_T, over the whole model or each tensor. Tensors that are no
    matrices are added up. The scale of each step cancels out, so that models need not be merged again as more come.

    Elsewhere: fusion_bench keeps the scale of each step and rescales all weights after every model; the result is the
    same up to rounding. It averages tensors that are no matrices.
    """
    deltas = weighed([diff(model, base) for model in models], weight)
    merged = merge_orthogonal(*deltas, alpha=alpha) if is_matrix(base, as_matrix) else join(*deltas)
    norms = squares(merged, *deltas)
    if scope == "model":
        norms = over_model(norms, name="norms of the merged and of each delta")
    scaled = rescale_by_ratio(merged, mean_norm_ratio(norms))
    return fuse_sum(base, scaled, weights=(), normalize=False, factor=lambda_)
