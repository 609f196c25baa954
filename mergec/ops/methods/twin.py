"""Twin-Merging: merge what is shared, keep what is exclusive to each task as a low-rank expert."""

from typing import Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.basic import diff
from mergec.ops.fuse import Lambda, Weight, fuse_deltas
from mergec.ops.matrix import AsMatrix, is_matrix
from mergec.ops.parts import factorise
from mergec.ops.registry import Each, each, method

Rank = Annotated[
    Annotated[int, Field(ge=0)] | Literal["auto"],
    Field(description="rank of the experts' matrices; auto: by rank_ratio"),
]
RankRatio = Annotated[
    float, Field(ge=0, le=1, description="rank as a share of a matrix's shorter side, if rank is auto")
]
Vectors = Annotated[
    Literal["whole", "merged"],
    Field(description="tensors that are no matrices: kept whole by each expert, or only merged"),
]


@method("arXiv:2406.15479")
def twin(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    rank: Rank = "auto",
    rank_ratio: RankRatio = 0.1,
    as_matrix: AsMatrix = True,
    vectors: Vectors = "whole",
    lambda_: Lambda = 0.3,
) -> Artifact:
    """Merge by task arithmetic, and keep for each task a low-rank approximation of what that misses.

    result = shared + svd_r(x_t - shared), shared = base + lambda * sum(weight_i * (x_i - base)), the backbone.
    r is `rank`, or int(rank_ratio * min(m, n)), at most min(m, n); at rank 0 a task has the backbone's matrix.

    Elsewhere: the authors' code multiplies the factors out before they are stored, makes full matrices of singular
    vectors, and leaves biases to the models they came from.
    """
    shared = fuse_deltas(base, [diff(model, base) for model in models], weight, False, lambda_)
    rests = [diff(model, shared) for model in models]
    if not is_matrix(base, as_matrix):
        return Artifact(shared, [{"delta": rest} if vectors == "whole" else {} for rest in rests])
    side = min(base.type.shape)
    kept = min(side, int(rank_ratio * side) if isinstance(rank, str) else rank)
    return Artifact(shared, [{"factors": factorise(rest, rank=kept)} for rest in rests])
