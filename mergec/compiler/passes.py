"""Passes: small named rewrites that remove work without changing a result; each is exact on finite inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mergec.graph import Attr, Graph, Node, walk
from mergec.ops.op import OPS

Rewrite = Callable[[Node], "Node | None"]


def identity_cast(node: Node) -> Node | None:
    """A cast to the dtype a value already has."""
    if node.op == "cast" and node.type.dtype == node.inputs[0].type.dtype:
        return node.inputs[0]
    return None


def unit_factor(node: Node) -> Node | None:
    """Multiplying or dividing by 1."""
    name = {"weigh": "weight", "scale": "factor", "rescale_by": "chance"}.get(node.op)
    return node.inputs[0] if name and node.attr(name) == 1 else None


def full_density(node: Node) -> Node | None:
    """A trim that keeps every entry, and a rescale of what was not trimmed."""
    if node.op == "trim" and node.inputs[1].op == "cut" and node.inputs[1].attr("counts") == (0, node.type.numel):
        return node.inputs[0]
    if node.op == "drop" and node.attr("density") >= 1:
        return node.inputs[0]
    if node.op == "rescale_l1" and node.inputs[1] is node.inputs[2]:
        return node.inputs[0]
    return None


def dead_input(node: Node) -> Node | None:
    """A delta that is zero everywhere, or a model of weight 0: it need not be read."""
    if node.op == "elect":
        live = [delta for delta in node.inputs if not is_zero(delta)]
        return _rebuilt(node, live) if 0 < len(live) < len(node.inputs) else None
    if node.op in ("fuse_sum", "fuse_agreeing"):
        return _without_zeros(node)
    if node.op == "average":
        pairs = [(model, weight) for model, weight in zip(node.inputs, node.attr("weights"), strict=True) if weight]
        if 0 < len(pairs) < len(node.inputs):
            return _rebuilt(node, [model for model, _ in pairs], weights=tuple(weight for _, weight in pairs))
    return None


def _without_zeros(node: Node) -> Node | None:
    base, *rest = node.inputs
    signs = [rest.pop(0)] if node.op == "fuse_agreeing" else []
    live = [index for index, delta in enumerate(rest) if not is_zero(delta)]
    if len(live) == len(rest):
        return None
    if not live:
        return base
    if node.op == "fuse_sum":  # its divisor counts every weight, whatever the delta
        return _rebuilt(node, [base, *(rest[index] for index in live)])
    weights = node.attr("weights")
    used = tuple(weights[index] for index in live) if weights else ()
    return _rebuilt(node, [base, *signs, *(rest[index] for index in live)], weights=used)


def is_zero(node: Node) -> bool:
    """Whether a delta is zero everywhere, whatever is loaded."""
    if node.op == "weigh" and node.attr("weight") == 0:
        return True
    if node.op == "trim" and node.inputs[1].op == "cut":
        low, high = node.inputs[1].attr("counts")
        return bool(low == high)
    if node.op == "drop" and node.attr("density") == 0:
        return True
    if node.op.startswith("merge_"):
        return all(map(is_zero, node.inputs))
    return node.op in ("weigh", "rescale_l1", "rescale_by", "rescale_ranked", "fourier_filter", "cast") and is_zero(
        node.inputs[0]
    )


def single_input(node: Node) -> Node | None:
    """A normalised average of one model is that model, without the rounding of (w * x) / w; so is one of weight 1."""
    if node.op == "average" and len(node.inputs) == 1 and (node.attr("normalize") or node.attr("weights") == (1.0,)):
        return node.inputs[0]
    return None


def path_end(node: Node) -> Node | None:
    """A point at the end of a path: t = 0 is the base, t = 1 the other model."""
    if node.op == "combine" and node.inputs[2].op == "slerp_coefficients":
        t = node.inputs[2].attr("t")
        return node.inputs[int(t)] if t in (0, 1) else None
    if node.op in ("combine_weights", "combine_deltas") and node.inputs[0].op == "arc_coefficients":
        t = node.inputs[0].attr("t")
        return node.inputs[1 + int(t)] if t in (0, 1) else None
    return None


PASSES: Mapping[str, Rewrite] = {
    rewrite.__name__: rewrite
    for rewrite in (identity_cast, unit_factor, full_density, dead_input, single_input, path_end)
}


def rewrite(root: Node, passes: Mapping[str, Rewrite] = PASSES) -> Node:
    """Apply every pass to every node, inputs first, until nothing changes. The type of the root is kept."""
    replaced: dict[int, Node] = {}
    for node in walk(root):
        inputs = [replaced[source.index] for source in node.inputs]
        current = node if not inputs else _rebuilt(node, inputs)
        while True:
            better = next((new for apply in passes.values() if (new := apply(current)) is not None), None)
            if better is None:
                break
            current = better
        replaced[node.index] = current
    result = replaced[root.index]
    if result.type != root.type:
        raise TypeError(f"a pass changed {root.type} to {result.type}")
    return result


def _rebuilt(node: Node, inputs: list[Node], **changed: Attr) -> Node:
    """The node with other inputs; its type is inferred anew, which verifies the rewrite."""
    if tuple(inputs) == node.inputs and not changed:
        return node
    attrs: dict[str, Any] = {**dict(node.attrs), **changed}
    graph: Graph = node.graph
    return graph.node(node.op, tuple(inputs), attrs, OPS[node.op].infer(inputs, attrs), node.op_class)
