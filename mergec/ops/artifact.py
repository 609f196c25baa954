"""Artifact: what a method returns that keeps an expert per task beside a dense backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mergec.graph import Node, TensorType
from mergec.ops.parts import add, masked, scaled, unpack

PARTS: Mapping[str, str] = {
    "mask": "uint8 [ceil(n / 8)]: which entries of the shared delta the task takes, lowest bit first",
    "scale": "float32 []: factor on the task's delta",
    "delta": "a delta of the tensor's shape: shared by all tasks, or the task's own",
}
"""What can be stored of a tensor, by the last component of its name."""


RULE = "backbone + scale * (mask * shared delta, or the task's own delta)"
"""How a task is rebuilt, for people; `rebuilt` is the same for graphs. What is not stored has no effect."""


@dataclass(frozen=True)
class Artifact:
    """One tensor of an artifact: the backbone's, the delta all tasks share, and each task's parts by name.

    `experts` has one entry per model, in order; its keys are those of `PARTS`. A task's tensor is
    backbone + scale * delta, and which parts there are says what the delta is (`rebuilt`).
    """

    backbone: Node
    experts: Sequence[Mapping[str, Node]]
    shared: Node | None = field(default=None)


def pieces(part: str, shape: tuple[int, ...], type: TensorType) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors a part is stored as, one after the other: names and shapes. `shape` is the model's tensor's."""
    return [(part, type.shape)]


def rebuilt(backbone: Node, shared: Node | None, parts: Mapping[str, Node]) -> Node:
    """A task's dense tensor from what is stored of it; the backbone where nothing is.

    backbone + scale * mask * shared, or backbone + scale * delta; a scale that is not stored is 1.
    """
    delta = _delta(backbone.type.shape, shared, parts)
    if delta is None:
        return backbone
    return add(backbone, scaled(delta, parts["scale"]) if "scale" in parts else delta)


def _delta(shape: tuple[int, ...], shared: Node | None, parts: Mapping[str, Node]) -> Node | None:
    if "mask" in parts and shared is not None:
        return masked(shared, unpack(parts["mask"], shape=shape))
    return parts.get("delta")
