"""Statistics: which outputs feed which numbers about the whole model, through which node, in which round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mergec.compiler.names import natural
from mergec.errors import Place, Problem, RecipeError
from mergec.graph import Node, walk
from mergec.ops.pool import definition
from mergec.plan import Output, Statistic

Feeds = Mapping[str, Mapping[int, Node]]
"""By name of a statistic: the `over_model` node of each root that has one, by the root's position."""


def feeds(roots: Sequence[Node], place: Callable[[str], Place]) -> Feeds:
    """The statistics that graphs need. Raises RecipeError (E630, E631) where they do not agree what one is.

    `place` says where a parameter is set.
    """
    found: dict[str, dict[int, Node]] = {}
    for number, root in enumerate(roots):
        for node in walk(root):
            if node.op_class == "model":
                known = found.setdefault(node.attr("name"), {})
                if number in known:
                    what = f"two steps need a {node.attr('name')}, and a merge has one"
                    raise RecipeError([Problem(place("scope"), "E631", what, "set scope: tensor in one of them")])
                known[number] = node
    for name, nodes in found.items():
        _check(name, list(nodes.values()), place)
    return found


def _check(name: str, nodes: Sequence[Node], place: Callable[[str], Place]) -> None:
    """Refuse a statistic that is not the same for all tensors."""
    first = definition(nodes[0].inputs[0])
    for node in nodes[1:]:
        other = definition(node.inputs[0])
        odd = next((key for key in first if first[key] != other.get(key)), None)
        if odd == "dtype":
            left, right = sorted({*first["dtype"], *other["dtype"]})
            what = f"the {name} is taken over tensors computed in {left} and in {right}, expected one dtype"
            raise RecipeError([Problem(place("scope"), "E630", what, "set compute_dtype: float64")])
        if odd is not None:
            what = f"{odd} is {first[odd]} for some tensors and {other.get(odd)} for others, the {name} needs one value"
            raise RecipeError([Problem(place(odd), "E630", what, f"give one {odd} for the model, or scope: tensor")])


def rounds(found: Feeds) -> dict[int, int]:
    """The round in which the statistic of each `over_model` node is found: after those it depends on."""
    depth: dict[str, int] = {}

    def round_of(name: str) -> int:
        if name not in depth:
            below = {
                node.attr("name") for top in found[name].values() for node in walk(top) if node.op_class == "model"
            }
            depth[name] = max((round_of(other) + 1 for other in below - {name}), default=0)
        return depth[name]

    return {node.index: round_of(name) for name, nodes in found.items() for node in nodes.values()}


def statistics(found: Feeds, rounds: Mapping[int, int], outputs: Sequence[Output]) -> tuple[Statistic, ...]:
    """The plan's statistics, in the order in which they are found; kinds are numbered as the roots were."""
    ordered = sorted(range(len(outputs)), key=lambda n: (natural(outputs[n].tensor), outputs[n].name))
    made = [
        Statistic(
            name,
            max(rounds[node.index] for node in nodes.values()),
            tuple((kind, node.index) for kind, node in nodes.items()),
            tuple({outputs[n].tensor: n for n in reversed(ordered) if outputs[n].kind in nodes}.values())[::-1],
        )
        for name, nodes in found.items()
    ]
    return tuple(sorted(made, key=lambda one: one.round))
