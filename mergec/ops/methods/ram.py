"""RAM: average what several models changed, keep what one model alone changed."""

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.ram import Threshold, fuse_changed
from mergec.ops.registry import method


@method("arXiv:2601.13572")
def ram(base: Node, models: tuple[Node, ...], *, epsilon: Threshold = 1e-5) -> Node:
    """Add, per entry, the mean of the deltas of those models that changed it (reinforced agent merging).

    result = base + sum(changed d_i) / max(1, number of changed d_i), d_i = x_i - base changed where |d_i| > epsilon.
    Changes of one model alone are so not diluted by models that left the entry as it was.

    Elsewhere: mergekit holds 21 tensors in memory for three models.
    """
    return fuse_changed(base, *(diff(model, base) for model in models), epsilon=epsilon)
