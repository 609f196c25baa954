"""Draw: a tensor's graph for Graphviz, for Mermaid, and as a networkx graph."""

from __future__ import annotations

from typing import Any

from mergec.graph import Node, walk


def dot(root: Node) -> str:
    """A tensor's graph in Graphviz' language."""
    lines = ["digraph merge {", '  rankdir=TB; node [shape=box, fontname="monospace"];']
    names = _names(root)
    lines += [f'  {names[node.index]} [label="{_label(node, chr(92) + "n")}"];' for node in walk(root)]
    lines += [f"  {names[source]} -> {names[target]};" for source, target in view(root).edges]
    return "\n".join([*lines, "}"])


def mermaid(root: Node) -> str:
    """A tensor's graph in Mermaid's language, as GitHub draws it."""
    lines = ["flowchart TD"]
    names = _names(root)
    lines += [f'  {names[node.index]}["{_label(node, "<br/>")}"]' for node in walk(root)]
    lines += [f"  {names[source]} --> {names[target]}" for source, target in view(root).edges]
    return "\n".join(lines)


def view(root: Node) -> Any:
    """A graph as a networkx DiGraph: nodes are indices with the Node as attribute `node`."""
    import networkx

    graph = networkx.DiGraph()
    for node in walk(root):
        graph.add_node(node.index, node=node)
        graph.add_edges_from((source.index, node.index) for source in node.inputs)
    return graph


def _names(root: Node) -> dict[int, str]:
    """Nodes are numbered as in the listing, whatever else is in their graph."""
    return {node.index: f"n{number}" for number, node in enumerate(walk(root))}


def _label(node: Node, newline: str) -> str:
    attrs = [f"{name}={value}" for name, value in node.attrs]
    return newline.join([node.op, *attrs, str(node.type)])
