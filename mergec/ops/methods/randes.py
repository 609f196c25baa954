"""RanDeS: superpose deltas under random signs, so that what is not asked for cancels out."""

from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.basic import diff, weigh
from mergec.ops.fuse import Lambda
from mergec.ops.masks import join
from mergec.ops.parts import column_signs, flip_random
from mergec.ops.registry import Draw, method


@method("arXiv:2505.11204", models=(2, None))
def randes(base: Node, models: tuple[Node, ...], *, lambda_: Lambda = 1.0, draw: Draw) -> Artifact:
    """Keep one sum of deltas whose columns have random signs; a task takes it back under its own signs.

    result = base + lambda * signs_t * sum(signs_i * (x_i - base)): the task's delta, the others' as noise of mean 0.
    Signs are per column (last axis), drawn from seed, tensor name and model. The backbone is the base.

    Elsewhere: fusion_bench draws signs from Python's salted hash of a name, so that another process cannot recover a
    task.
    """
    deltas = [diff(model, base) for model in models]
    slots = range(len(models))
    flipped = [flip_random(deltas[slot], seed=draw.seed, stream=draw.stream, slot=draw.slot(slot)) for slot in slots]
    shared = weigh(join(*flipped), weight=lambda_)
    return Artifact(base, [{"signs": column_signs(base, slot, draw)} for slot in slots], shared)
