"""Arcee Fusion: take the entries of another model that changed most and matter most."""

from mergec.graph import Node
from mergec.ops.fusion import importance, take_important, upper_fence
from mergec.ops.ranking import order
from mergec.ops.registry import method


@method(
    "https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration",
    models=(1, 1),
)
def arcee_fusion(base: Node, models: tuple[Node, ...]) -> Node:
    """Take the entries of the other model whose importance is at least median + 1.5 * (q3 - q1) of their tensor.

    result = x where |x - base| * KL(softmax(x) || softmax(base)) reaches that fence, else base.
    The divergence is that of the entry's row (last axis); quartiles are entries number int(q * (n - 1)) in order.

    Elsewhere: mergekit estimates the quartiles of tensors above 10^6 entries from a random sample, and writes float32
    whatever the recipe says; here they are exact, and dtype holds. Half types are compared in float64 even under
    compat: mergekit, where that tool rounds the divergence to the input's dtype and so takes other entries.
    """
    (other,) = models
    entries = base.type.numel
    if not entries:
        return base
    found = importance(base, other)
    counts = tuple(entries - int(share * (entries - 1)) for share in (0.25, 0.5, 0.75))
    return take_important(base, other, found, upper_fence(order(found, counts=counts)))
