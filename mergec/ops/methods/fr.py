"""FR-Merging: add the high frequencies of what each model learned."""

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.fourier import Cutoff, Filter, high_pass
from mergec.ops.fuse import Consensus, Lambda, Weight, fuse_consensus
from mergec.ops.matrix import AsMatrix, Vectors, fuse_vectors, is_matrix
from mergec.ops.registry import Each, each, method


@method("arXiv:2411.16815")
def fr(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    filter: Filter = "clean",
    cutoff: Cutoff = 0.1,
    consensus: Consensus = "none",
    as_matrix: AsMatrix = True,
    vectors: Vectors = "sum",
    lambda_: Lambda = 1.0,
) -> Node:
    """Pass each delta through a high-pass filter in the 2-D Fourier domain, add up what is left.

    result = base + lambda * sum(weight_i * highpass(x_i - base)), of deltas with the elected sign if consensus: sum.
    Tensors that are no matrices are not filtered; `vectors` says whether they are merged. The reference's ratio is
    1 - cutoff: its language models have cutoff 0.1 and consensus sum, its classifiers cutoff 0.3 and vectors base.
    """
    deltas = [diff(model, base) for model in models]
    if is_matrix(base, as_matrix):
        return fuse_consensus(base, [high_pass(delta, filter, cutoff) for delta in deltas], weight, lambda_, consensus)
    return fuse_vectors(base, deltas, weight, lambda_, vectors, consensus)
