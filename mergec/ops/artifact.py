"""Artifact: what a method returns that keeps an expert per task beside a dense backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergec.graph import Node, TensorType

PARTS: Mapping[str, str] = {
    "mask": "uint8 [ceil(n / 8)]: which entries of the shared delta the task takes, lowest bit first",
    "signs": "uint8 [ceil(columns / 8)]: which columns of the shared delta keep their sign, lowest bit first",
    "delta": "a delta of the tensor's shape: shared by all tasks, or the task's own",
    "left": "[m, r]: left @ right is the task's delta, m x n",
    "right": "[r, n]",
    "values": "[k]: the entries of the task's delta that are not zero",
    "indices": "int64 [k]: their flat indices, ascending",
    "replaced": "[k]: what is taken away from the backbone at these entries",
    "scale": "float32 []: factor on the task's delta",
    "ratio": "float64 [2]: the sums of both over all tensors of the task, divided, are the factor on its deltas",
    "gate": "[g, n]: rows that span what the task's delta listens to, for the router",
}
"""What can be stored of a tensor, by the last component of its name."""

RULE = "backbone + scale * delta - replaced; delta: mask * shared, signs * shared, left @ right, values, or delta"
"""How a task is rebuilt, for people; `rebuilt` is the same for graphs. What is not stored has no effect."""


@dataclass(frozen=True)
class Artifact:
    """One tensor of an artifact: the backbone's, the delta all tasks share, and each task's parts by name.

    `experts` has one entry per model, in order; its keys are those of `PARTS`, or `factors` for left and right in
    one. Which parts there are says how a task's tensor is rebuilt (`ops/rebuild.py`).
    """

    backbone: Node
    experts: Sequence[Mapping[str, Node]]
    shared: Node | None = None


def pieces(part: str, shape: tuple[int, ...], type: TensorType) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors a part is stored as, one after the other: names and shapes. `shape` is the model's tensor's."""
    if part != "factors":
        return [(part, type.shape)]
    rows, columns = shape
    rank = type.numel // (rows + columns)
    return [("left", (rows, rank)), ("right", (rank, columns))]
