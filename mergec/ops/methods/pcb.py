"""PCB-Merging: entries compete, inside a model by size and between models by accord; the winners are averaged."""

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.competition import PcbRatio, fuse_competing
from mergec.ops.fuse import Lambda
from mergec.ops.registry import method
from mergec.ops.threshold import Extent


@method("arXiv:2410.02396", models=(2, None), commutative=True)
def pcb(
    base: Node,
    models: tuple[Node, ...],
    *,
    pcb_ratio: PcbRatio = 0.1,
    scope: Extent = "model",
    lambda_: Lambda = 1.0,
) -> Node:
    """Weigh entries by parameter competition balancing, drop those that lose, average the others.

    result = base + lambda * sum(clip(d_i) * w_i) / sum(w_i), d_i = x_i - base. An entry's competition is
    b_i = exp(T s_i^2) tanh(d_i * sum(d_j)), s_i its magnitude from the least of its model (0) to the largest (1);
    w_i runs from 0 at the b_i in place int((1 - pcb_ratio) * n) of all, in ascending order from 0, and below it, to 1
    at the largest. Magnitudes are clipped to those in places int(n / 10000) and int(0.9999 n) - 1. Places are over
    the whole model, as in the authors' code, or over each tensor.
    A negative b_i has weight 0. Checked against the authors' function on one vector per model.

    Elsewhere: in the authors' code negative b_i may take part where few are positive, and 0 / 0 is NaN.
    """
    deltas = [diff(model, base) for model in models]
    return fuse_competing(base, deltas, pcb_ratio, scope, lambda_)
