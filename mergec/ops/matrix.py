"""Matrix: what the methods for matrices share - which tensors are matrices, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import diff, weigh
from mergec.ops.fuse import fuse_consensus, fuse_sum

if TYPE_CHECKING:
    from torch import Tensor

AsMatrix = Annotated[
    bool, Field(description="treat tensors of two axes as matrices; false, by a filter: as vectors, say embeddings")
]
Vectors = Annotated[
    Literal["mean", "sum", "base"],
    Field(description="what becomes of tensors that are no matrices: mean or sum of the weighted deltas, or the base"),
]


def is_matrix(node: Node, as_matrix: bool) -> bool:
    """Whether a tensor is merged as a matrix: it has two axes, and the recipe lets it."""
    return as_matrix and len(node.type.shape) == 2


def fuse_vectors(
    base: Node,
    deltas: Sequence[Node],
    weight: Sequence[float],
    factor: float,
    vectors: str,
    consensus: str = "none",
) -> Node:
    """base + factor * the mean or the sum over all models of the weighted deltas; or the base."""
    if vectors == "base":
        return base
    return fuse_consensus(base, deltas, weight, factor / len(deltas) if vectors == "mean" else factor, consensus)


def fuse_matrices(
    base: Node,
    models: Sequence[Node],
    weight: Sequence[float],
    factor: float,
    as_matrix: bool,
    vectors: str,
    merge: Callable[[Sequence[Node]], Node],
) -> Node:
    """base + factor * what `merge` makes of the weighted deltas of matrices; other tensors by `vectors`."""
    deltas = [diff(model, base) for model in models]
    if not is_matrix(base, as_matrix):
        return fuse_vectors(base, deltas, weight, factor, vectors)
    weighed = [weigh(delta, weight=share) for delta, share in zip(deltas, weight, strict=True)]
    return fuse_sum(base, merge(weighed), weights=(1.0,), normalize=False, factor=factor)


def full(matrix: Tensor) -> Tensor:
    """A matrix in a dtype that linear algebra and Fourier transforms take: float32 for half types."""
    import torch

    return matrix.to(torch.float32) if matrix.dtype.itemsize < 4 else matrix
