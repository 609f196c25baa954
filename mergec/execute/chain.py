"""Chain: the ops of a pass that a compiler may fuse into one loop over a tile, as a text and as a function of tensors.

A pass is cut into stages: a chain, then the ops that no compiler is given, such as sorting, which take what the chain
yields. A chain begins at stored tiles and at what other ops have made, and makes anew whatever it needs in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergec.graph import PER_ENTRY, Node
from mergec.ops.fused import CUTS, DRAWN, FORMS, LEAVES, Given, apply, skeleton, width
from mergec.ops.replay import STREAM as REPLAYED
from mergec.plan import Step

if TYPE_CHECKING:
    from torch import Tensor

TILE = 1 << 12
"""The entries a compiled chain makes at once: few enough to stay in the fastest cache, and whole leaves of sums."""
_FLOATS = ("bfloat16", "float16", "float32", "float64")
_WIDE = ("float32", "float64", "bool")


@dataclass(frozen=True)
class Chain:
    """Nodes by index: where a chain begins, what it computes, what it yields; the text says all but the numbers."""

    sources: tuple[int, ...]
    body: tuple[int, ...]
    results: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Stage:
    """A part of a pass: a chain, if any, and the nodes evaluated one by one after it."""

    chain: Chain | None
    then: tuple[int, ...]


def stages(steps: Sequence[Step], nodes: Sequence[Node]) -> tuple[Stage, ...]:
    """The stages of a pass; none where nothing is worth fusing."""
    order = [nodes[step.node] for step in steps if nodes[step.node].op_class not in ("scalar", "model")]
    if not order or len({node.type.dtype for node in order if node.op == "diff" or node.type.space == "delta"}) > 1:
        return ()
    here = {node.index for node in order}
    fusible = {node.index for node in order if _is_fusible(node)}
    level: dict[int, int] = {}
    for node in order:
        below = [source.index for source in node.inputs if source.index in here]
        waits = {i for i in below if i not in fusible and nodes[i].op_class != "load"}
        level[node.index] = max((level[i] + (node.index in fusible and i in waits) for i in below), default=0)
    made = [_stage(number, order, level, fusible) for number in range(1 + max(level.values()))]
    return tuple(made) if any(stage.chain for stage in made) else ()


def _is_fusible(node: Node) -> bool:
    tensors = [source for source in node.inputs if source.type.space != "scalar"]
    if node.op in DRAWN and node.attr("stream") == REPLAYED:
        return False
    if node.op not in FORMS or not tensors or not all(width(s) for s in node.inputs if s.type.space == "scalar"):
        return False
    if any(source.type.space not in PER_ENTRY for source in tensors):
        return False
    if node.op in CUTS:
        return tensors[0].type.dtype == "float32"
    if node.op == "cast":
        (source,) = tensors
        is_wide = source.type.dtype in _WIDE or source.op_class == "load"
        return is_wide and {source.type.dtype, node.type.dtype} <= set(_FLOATS)
    return all(source.type.dtype in _WIDE for source in tensors)


def _stage(number: int, order: Sequence[Node], level: Mapping[int, int], fusible: set[int]) -> Stage:
    """The chain of a level, and what is evaluated after it."""
    then = [node for node in order if level[node.index] == number and node.index not in fusible]
    wanted = {source.index for node in then for source in node.inputs}
    used = {source.index for node in order for source in node.inputs}
    results = [
        node
        for node in order
        if node.index in fusible and (node.index in wanted or (level[node.index] == number and node.index not in used))
    ]
    chain = _chain(results, fusible)
    if chain is None:  # what was to be fused is evaluated as it is
        own = [node for node in order if level[node.index] <= number and node.index in fusible]
        then = sorted({*then, *own}, key=lambda node: node.index)
    return Stage(chain, tuple(node.index for node in then if node.op_class != "load"))


def _chain(results: Sequence[Node], fusible: set[int]) -> Chain | None:
    body: dict[int, Node] = {}
    sources: dict[int, Node] = {}
    pending = list(results)
    while pending:
        node = pending.pop()
        if node.index in fusible:
            body[node.index] = node
            pending += [source for source in node.inputs if source.type.space != "scalar"]
        else:
            sources[node.index] = node
    if all(node.op == "cast" for node in body.values()):
        return None
    first, inner = [sources[i] for i in sorted(sources)], [body[i] for i in sorted(body)]
    return Chain(
        tuple(node.index for node in first),
        tuple(node.index for node in inner),
        tuple(node.index for node in results),
        _text(first, inner, results),
    )


def _text(sources: Sequence[Node], body: Sequence[Node], results: Sequence[Node]) -> str:
    place = {node.index: number for number, node in enumerate([*sources, *body])}
    is_double = any(node.type.dtype == "float64" for node in body if node.op not in LEAVES)
    rows = [
        [
            node.op,
            [[width(s)] if s.type.space == "scalar" else place[s.index] for s in node.inputs],
            skeleton(node),
        ]
        for node in body
    ]
    return json.dumps(
        {
            "tile": TILE,
            "real": "float64" if is_double else "float32",
            "sources": [node.type.dtype for node in sources],
            "body": rows,
            "results": [place[node.index] for node in results],
        },
        sort_keys=True,
    )


def function(text: str) -> Callable[..., tuple[Tensor, ...]]:
    """A chain as a function of its sources, a tensor of its real numbers and one of its whole numbers.

    The first whole number is the index of the first entry; the others follow, op by op, as the reals do.
    """
    chain = json.loads(text)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        import torch

        values, (reals, whole) = list[Any](inputs[:-2]), inputs[-2:]
        index = torch.arange(chain["tile"], dtype=torch.int32) + whole[0]
        numbers, integers = iter(reals.unbind()), iter(whole.unbind()[1:])
        for op, sources, attrs in chain["body"]:
            counts = counts_of(op, sources, attrs)
            given = Given(
                [values[one] for one in sources if isinstance(one, int)],
                [next(numbers) for _ in range(counts[0])],
                [next(integers) for _ in range(counts[1])],
                index,
                attrs,
            )
            values.append(apply(op, [one[0] if isinstance(one, list) else None for one in sources], given))
        made = [values[one] for one in chain["results"]]
        return tuple(one for some in made for one in (some if isinstance(some, tuple) else (some,)))

    return run


_COUNTS = {
    "trim": (2, 2),
    "select": (1, 1),
    "drop": (0, 4),
    "drop_ranked": (0, 3),
    "rescale_l1": (1, 0),
    "fuse_sum": (2, 0),
    "stock": (2, 0),
}


def made_by(text: str) -> int:
    """How many tensors a chain makes."""
    chain = json.loads(text)
    ops = [chain["body"][one - len(chain["sources"])][0] for one in chain["results"]]
    return sum(2 if op in CUTS else 1 for op in ops)


def counts_of(op: str, sources: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[int, int]:
    """How many real and whole numbers a form takes."""
    if op in _COUNTS:
        return _COUNTS[op]
    if op in CUTS:
        return 2 * attrs["brackets"], 0
    own = sum(one is None for value in attrs.values() for one in (value if isinstance(value, list) else [value]))
    return own + sum(one[0] for one in sources if isinstance(one, list)), 0
