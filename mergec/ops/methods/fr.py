"""FR-Merging: add the high frequencies of what each model learned."""

from mergec.ops import steps
from mergec.ops.fourier import Cutoff, Filter
from mergec.ops.fuse import Consensus, Lambda, Weight
from mergec.ops.matrix import AsMatrix, Vectors
from mergec.ops.registry import Each, each, method
from mergec.ops.step import Steps


@method("arXiv:2411.16815", commutative=True)
def fr(
    *,
    weight: Each[Weight] = each(1.0),
    filter: Filter = "clean",
    cutoff: Cutoff = 0.1,
    consensus: Consensus = "none",
    as_matrix: AsMatrix = True,
    vectors: Vectors = "sum",
    lambda_: Lambda = 1.0,
) -> Steps:
    """Pass each delta through a high-pass filter in the 2-D Fourier domain, add up what is left.

    result = base + lambda * sum(weight_i * highpass(x_i - base)), of deltas with the elected sign if consensus: sum.
    Tensors that are no matrices are not filtered; `vectors` says whether they are merged. The reference's ratio is
    1 - cutoff: its language models have cutoff 0.1 and consensus sum, its classifiers cutoff 0.3 and vectors base.

    Elsewhere: the authors' code filters an unshifted spectrum by distances of bin numbers (filter: reference): a
    square matrix loses nothing at its ratio of 0.9, a long one most of its spectrum, and the ring at the inner radius
    counts twice. Its options density, gamma, window_size and rescale have no effect.
    """
    return Steps(
        steps.diff(),
        steps.filter_high_pass(kind=filter, cutoff=cutoff, as_matrix=as_matrix),
        steps.fuse_matrices(weight=weight, consensus=consensus, as_matrix=as_matrix, vectors=vectors, lambda_=lambda_),
    )
