"""TALL masks: the sum of all deltas, and for each task a mask of the entries that matter to it."""

from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.basic import diff
from mergec.ops.masks import MaskLambda, join, stands_out
from mergec.ops.parts import pack
from mergec.ops.registry import Each, each, method


@method("arXiv:2405.07813", models=(2, None))
def tall_mask(base: Node, models: tuple[Node, ...], *, mask_lambda: Each[MaskLambda] = each(0.6)) -> Artifact:
    """Keep the sum of the deltas once, and a bit per entry and task: whether the task takes the sum there.

    result = base + mask_t * sum(d_i), mask_t = |d_t| > mask_lambda * |sum(d_i) - d_t|, d_i = x_i - base.
    The backbone is the base. A larger mask_lambda keeps fewer entries; 0 keeps every entry the task changed.

    Elsewhere: fusion_bench hands its function base and deltas where it takes base and models, so that its masks are
    those of other numbers; its helper, and the authors' code, give these.
    """
    deltas = [diff(model, base) for model in models]
    shared = join(*deltas)
    masks = [stands_out(delta, shared, threshold=value) for delta, value in zip(deltas, mask_lambda, strict=True)]
    return Artifact(base, [{"mask": pack(mask)} for mask in masks], shared)
