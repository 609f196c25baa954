"""Rebuild: a task's dense tensor from the backbone's and from what an artifact stores of it."""

from __future__ import annotations

from collections.abc import Mapping

from mergec.graph import Node
from mergec.ops.basic import weigh
from mergec.ops.parts import add, flip, less, masked, product, scaled, scatter, unpack


def rebuilt(backbone: Node, shared: Node | None, parts: Mapping[str, Node], scale: float | None = None) -> Node:
    """A task's dense tensor from what is stored of it; the backbone where nothing is.

    `scale` is the task's, where the parts do not bring one of the tensor's own; a scale that is not given is 1.
    """
    shape = backbone.type.shape
    delta = _delta(shape, shared, parts)
    if delta is None:
        return backbone
    if "scale" in parts:
        delta = scaled(delta, parts["scale"])
    elif scale is not None and "ratio" in parts:
        delta = weigh(delta, weight=scale)
    if "replaced" in parts:
        delta = less(delta, scatter(parts["replaced"], parts["indices"], shape=shape))
    return add(backbone, delta)


def _delta(shape: tuple[int, ...], shared: Node | None, parts: Mapping[str, Node]) -> Node | None:
    if shared is not None and "mask" in parts:
        return masked(shared, unpack(parts["mask"], shape=shape))
    if shared is not None and "signs" in parts:
        return flip(shared, parts["signs"])
    if "left" in parts and "right" in parts:
        return product(parts["left"], parts["right"], shape=shape)
    if "values" in parts and "indices" in parts:
        return scatter(parts["values"], parts["indices"], shape=shape)
    return parts.get("delta")
