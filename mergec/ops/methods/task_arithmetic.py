"""Task arithmetic: add the weighted deltas of the models to the base."""

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.fuse import Int8Mask, Lambda, Normalize, Weight, fuse_deltas
from mergec.ops.registry import Each, method


@method("arXiv:2212.04089")
def task_arithmetic(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight],
    normalize: Normalize = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
) -> Node:
    """Add what each model learned, weighted, to the base.

    result = base + lambda * sum(weight_i * (x_i - base)), divided by sum(weight_i) if `normalize`.
    """
    return fuse_deltas(base, [diff(model, base) for model in models], weight, normalize, lambda_)
