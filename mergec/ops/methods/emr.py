"""EMR-Merging: elect a unified delta, mask it for each task, rescale it to the task's size."""

from typing import Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.basic import diff
from mergec.ops.masks import agrees, unify
from mergec.ops.parts import masked, pack, ratio
from mergec.ops.registry import method
from mergec.ops.rescale import l1

RescaleWeighting = Annotated[
    Literal["elements", "tensors"],
    Field(description="what counts equally in a task's scale: every entry, or every tensor as in the authors' code"),
]


@method("arXiv:2405.17461", models=(2, None))
def emr(base: Node, models: tuple[Node, ...], *, rescale_weighting: RescaleWeighting = "elements") -> Artifact:
    """Keep one unified delta, and for each task a bit per entry and one scale for the whole model.

    result = base + scale_t * mask_t * unified. Unified has per entry the sign of sum(d_i), minus where that is 0, and
    the largest magnitude among the d_i that have it; mask_t says where d_t has it; d_i = x_i - base.
    scale_t = sum |d_t| / sum |mask_t * unified| over the whole model, of means per tensor if tensors count equally;
    0 / 0 is 1. The backbone is the base.

    Elsewhere: the code of most experiments gives every tensor the same say in scale_t, a bias as much as an embedding
    (rescale_weighting: tensors); that of the experiment with 30 tasks, and the paper, every entry. 0 / 0 is NaN there.
    """
    deltas = [diff(model, base) for model in models]
    unified = unify(*deltas)
    share = 1.0 if rescale_weighting == "elements" else 1 / max(1, base.type.numel)
    experts = []
    for delta in deltas:
        mask = agrees(delta, *deltas)
        sizes = ratio(l1(delta), l1(masked(unified, mask)), factors=(share, share))
        experts.append({"mask": pack(mask), "ratio": sizes})
    return Artifact(base, experts, unified)
