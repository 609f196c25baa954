"""Keys: digests of all that a tensor's bytes depend on, of a statistic's numbers, and of a whole plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mergec.graph import Node, listing, walk
from mergec.io.tensors import TensorRef
from mergec.plan import Kind, Output, Plan, Statistic

Identify: TypeAlias = "Callable[[str, TensorRef], str]"
"""What stands for an input tensor in a key, given its model's slot id and its address."""


def plan_keys(plan: Plan, content: Identify | None = None) -> dict[str, str]:
    """A digest per output tensor, by name, of everything its bytes depend on: equal keys, equal bytes.

    A key is of the graph, of its methods' identity (unless bytes are only copied), of the tensor's own name
    where random numbers are drawn, of each source's dtype and shape with what `content` says of it, given its
    slot id and address, and of all that feeds the statistics it needs. By default `content` is slot id and tensor
    name, known from headers alone: the *plan key*. With a digest of each source's bytes instead it is the *action
    key*, good from one state of the inputs to another.
    """
    kinds = [_kind_text(plan, kind) for kind in plan.kinds]
    loaded = [_loaded(plan.root(kind)) for kind in plan.kinds]
    fed = _statistic_keys(plan, content)
    keys = {}
    for output in plan.outputs:
        text, is_random = kinds[output.kind]
        statistics = tuple(fed[one.name] for one in plan.statistics_of(output.kind))
        named = output.tensor if is_random or statistics else ""  # ties of a statistic are broken by name
        sources = _sources(plan, output, loaded[output.kind], content)
        keys[output.name] = digest(repr((text, named, sources, *statistics)))
    return keys


def statistic_keys(plan: Plan, content: Identify) -> dict[str, str]:
    """The same for the statistics of the whole model: equal keys, equal numbers."""
    fed = _statistic_keys(plan, content)
    return {
        one.name: digest(repr((fed[one.name], sorted(fed[name] for name in _inside(plan, one)))))
        for one in plan.statistics
    }


def plan_hash(plan: Plan) -> str:
    """A digest of the result: every tensor's plan key and every file beside the weights that says what they are.

    Equal for equal results, whatever the recipe's wording, the paths, the layout in files, or the machine.
    """
    files = [(one.name, one.digest) for one in plan.side_files if not one.is_record]
    return digest(repr((sorted(plan_keys(plan).items()), sorted(files))))


def _inside(plan: Plan, statistic: Statistic) -> set[str]:
    """The names of other statistics that one is made of."""
    nodes = (node for _, number in statistic.nodes for node in walk(plan.nodes[number].inputs[0]))
    return {str(node.attr("name")) for node in nodes if node.op_class == "model"}


def _statistic_keys(plan: Plan, content: Identify | None) -> dict[str, str]:
    """For each statistic a key of its name and, of every tensor that feeds it, of graph and inputs below it."""
    keys = {}
    for one in plan.statistics:
        nodes = {kind: plan.nodes[node] for kind, node in one.nodes}
        texts = {kind: (_numbered(node), plan.kinds[kind].identity) for kind, node in nodes.items()}
        loaded = {kind: _loaded(node) for kind, node in nodes.items()}
        members = [plan.outputs[number] for number in one.members]
        parts = [(m.tensor, texts[m.kind], m.shape, _sources(plan, m, loaded[m.kind], content)) for m in members]
        keys[one.name] = digest(repr((one.name, parts)))
    return keys


def _loaded(root: Node) -> tuple[int, ...]:
    """The slots that a graph loads, in an order that the numbers of slots have no part in."""
    return tuple(dict.fromkeys(node.attr("slot") for node in walk(root) if node.op == "load"))


def _sources(
    plan: Plan, output: Output, loaded: Sequence[int], content: Identify | None
) -> list[tuple[str, str, tuple[int, ...]]]:
    """What stands for an output's inputs in the slots that are loaded; without slots, files' names do."""
    sources = dict(zip(plan.kinds[output.kind].slots, output.sources, strict=True))
    named = [
        (plan.slots[slot] if plan.slots else sources[slot].file.rpartition("/")[2], sources[slot]) for slot in loaded
    ]
    identify = content or _plan_identity
    return [(identify(slot, ref), ref.dtype, ref.shape) for slot, ref in named]


def _plan_identity(slot: str, ref: TensorRef) -> str:
    return repr((slot, ref.name))


def _kind_text(plan: Plan, kind: Kind) -> tuple[str, bool]:
    """What tensors of a kind have in common, and whether random numbers are drawn for them.

    A copy is a copy by whatever method.
    """
    order = walk(plan.root(kind))
    is_random = any(name == "stream" for node in order for name, _ in node.attrs)
    return "\n".join([*graph_text(plan, kind), str(kind.shape), "" if len(order) == 1 else kind.identity]), is_random


def graph_text(plan: Plan, kind: Kind) -> tuple[str, ...]:
    """A kind's graph as text; what it loads is numbered from 0, for which number a model has says nothing."""
    return _numbered(plan.root(kind))


def _numbered(root: Node) -> tuple[str, ...]:
    numbers = {slot: number for number, slot in enumerate(_loaded(root))}
    return tuple(
        line.replace(f"slot={node.attr('slot')}", f"slot={numbers[node.attr('slot')]}", 1)
        if node.op == "load"
        else line
        for node, line in zip(walk(root), listing(root), strict=True)
    )


def digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
