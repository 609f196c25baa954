"""WUDI: move the sum of the deltas towards a point where no model's inputs see the others' changes."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.matrix import full
from mergec.ops.op import op

if TYPE_CHECKING:
    from torch import Tensor

Iterations = Annotated[int, Field(ge=0, description="steps of gradient descent")]
LearningRate = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="how far an entry moves in one step, at most about")
]


def _scratch(node: Node) -> int:
    """Bytes per entry: six matrices of the delta's shape and two of its width."""
    height, width = node.type.shape
    return ceil(max(4, node.type.item_bytes) * (6 + 2 * width / max(1, height)))


@op("whole", "delta* -> delta", scratch_bytes=_scratch)
def merge_undisturbed(*deltas: Tensor, iterations: int, learning_rate: float) -> Tensor:
    """Adam, from x = sum of the deltas d_t, on sum_t |(x - d_t) d_t^T|^2 / |d_t|^2.

    The rows of d_t span the inputs that task t was trained on, so the loss is what the other deltas do to them. Its
    gradient is 2 (x G - C), with G = sum_t d_t^T d_t / |d_t|^2 and C = sum_t d_t d_t^T d_t / |d_t|^2, made once.
    Adam has the usual moments 0.9 and 0.999 and 1e-8. A delta of zero has no part. WUDI-Merging, arXiv:2503.08099.
    """
    import torch

    x = torch.zeros_like(full(deltas[0]))
    gram, target = x.new_zeros(x.shape[1], x.shape[1]), torch.zeros_like(x)
    for delta in map(full, deltas):
        x += delta
        norm = float(delta.norm())
        if norm > 0:
            unit = delta / norm
            own = unit.T @ unit
            gram += own
            target += delta @ own
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, iterations + 1):
        gradient = (x @ gram - target).mul_(2)
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = gradient.copy_(second).div_(1 - 0.999**step).sqrt_().add_(1e-8)
        x.addcdiv_(first, root, value=-learning_rate / (1 - 0.9**step))
    return x.to(deltas[0].dtype)
