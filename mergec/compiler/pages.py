"""Pages: the documentation of every method as Markdown, made from the code it documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from textwrap import wrap
from typing import Any

from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import make_kind
from mergec.compiler.statistics import feeds, rounds
from mergec.errors import Place, count
from mergec.graph import Graph, Node, TensorType
from mergec.ops.artifact import Artifact
from mergec.ops.basic import cast, load
from mergec.ops.registry import Arithmetic, Draw, Method, Parameter, methods
from mergec.ops.step import steps
from mergec.plan import Kind
from mergec.recipe.expand import expansion_lines
from mergec.recipe.new import recipe_text
from mergec.recipe.settings import expectation

NOTICE = "<!-- made by `mergec methods --markdown docs/methods`; change the method's own file instead -->"
_EXAMPLES: Mapping[str, Any] = {"weight": 0.4, "density": 0.5, "t": 0.5}
_SHAPES = {"matrices": (256, 384), "vectors": (384,)}
_CLASSES = {
    "copy": "bytes are copied, not decoded",
    "map": "one sweep over tiles",
    "reduce": "sweeps over tiles for a few numbers, then one for the result",
    "row": "blocks of whole rows",
    "whole": "one tensor at a time, whole",
}


def pages() -> dict[str, str]:
    """The text of every page by file name, the index among them."""
    known = methods()
    made = {f"{name}.md": method_page(method) for name, method in known.items()}
    made |= {f"{name}.md": pass_page(name) for name in steps()["post"]}
    return {**made, "README.md": index_page(known)}


def index_page(known: Mapping[str, Method]) -> str:
    """All methods in one table, and where the words of a page come from."""
    rows = [f"| [`{one.name}`]({one.name}.md) | {one.summary} | {_paper(one.paper)} |" for one in known.values()]
    passes = [f"| [`{name}`]({name}.md) | {_first(one.doc)} |" for name, one in steps()["post"].items()]
    return "\n".join(
        [
            NOTICE,
            "",
            "# Methods",
            "",
            f"{count(len(known), 'method')}. `mergec methods NAME` prints a page, `mergec new NAME` a recipe, which is",
            "in [`recipes/`](../../recipes/) too. [How they do](../accuracy.md) on small trained models.",
            "",
            "| method | what it does | paper |",
            "|---|---|---|",
            *rows,
            "",
            "After a method, under `post:`:",
            "",
            "| pass | what it does |",
            "|---|---|",
            *passes,
            "",
        ]
    )


def method_page(method: Method) -> str:
    """One method: what it computes, its settings, what it costs, how others differ, and a recipe."""
    doc, _, elsewhere = method.doc.partition("\n\nElsewhere: ")
    low, high = method.models
    models = count(low, "model") if low == high else f"{low} or more models"
    base = {"origin": ", and a base", "optional": ", and a base if there is one"}.get(method.base, "")
    made = "a [merge artifact](../artifacts.md)" if method.makes_artifact else "a dense model"
    order = "" if high == 1 else " Their order has no meaning." if method.commutative else " In the recipe's order."
    sections = [
        [NOTICE, "", f"# {method.name}", "", *_doc_lines(doc)],
        [
            f"Paper: {_paper(method.paper)}. Version {method.version}.",
            "",
            f"Takes {models}{base}; makes {made}.{order}",
        ],
        ["## Parameters", "", *_table(method.parameters)] if method.parameters else [],
        ["## Cost", "", *_costs(method)],
        _pipeline(method),
        ["## Elsewhere", "", *wrap(_capital(" ".join(elsewhere.split())), 120)] if elsewhere else [],
        ["## Recipe", "", "```yaml", *recipe_text(method.name).rstrip().splitlines(), "```"],
    ]
    return "\n\n".join("\n".join(one) for one in sections if one) + "\n"


def pass_page(name: str) -> str:
    """One pass that may stand under `post:`."""
    one = steps()["post"][name]
    sections = [
        [NOTICE, "", f"# {name}", "", *_doc_lines(one.doc)],
        ["A pass after any method that takes deltas from a base and makes a dense model; matrices only, whole."],
        ["## Parameters", "", *_table(one.parameters)],
        ["## Recipe", "", "```yaml", *recipe_text(name).rstrip().splitlines(), "```"],
    ]
    return "\n\n".join("\n".join(one) for one in sections) + "\n"


def _first(doc: str) -> str:
    return doc.partition("\n")[0]


def _capital(text: str) -> str:
    """A sentence begins with a capital, unless with the name of a tool."""
    return text if text.startswith(("mergekit", "fusion_bench")) else text[:1].upper() + text[1:]


def _doc_lines(doc: str) -> Iterator[str]:
    """The documentation, with the sentence that is the formula set apart."""
    for number, paragraph in enumerate(doc.split("\n\n")):
        text = " ".join(paragraph.split())
        formula, _, rest = text.partition(". ") if text.startswith("result = ") else ("", "", text)
        if number:
            yield ""
        if formula:
            yield from (f"    {line}" for line in wrap(formula.rstrip("."), 110, subsequent_indent="  "))
            yield ""
        yield from wrap(rest, 120)


def _paper(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})" if paper.startswith("arXiv:") else paper


def _table(parameters: Mapping[str, Parameter]) -> list[str]:
    rows = [
        f"| `{one.name}` | {expectation(one)} | {_default(one)} | {'each model' if one.per_model else 'the merge'} | "
        f"{one.description} |"
        for one in parameters.values()
    ]
    return ["| name | values | default | of | meaning |", "|---|---|---|---|---|", *rows]


def _default(one: Parameter) -> str:
    if one.required:
        return "required"
    shown = one.default[0] if isinstance(one.default, tuple) else one.default
    return "-" if shown is None else str(shown).lower() if isinstance(shown, bool) else str(shown)


def _pipeline(method: Method) -> list[str]:
    lines = expansion_lines(method, {})
    return ["## As a pipeline", "", "```yaml", *lines, "```"] if lines else []


def _costs(method: Method) -> list[str]:
    """How tensors are swept, and what is live for each entry, found by compiling a matrix and a vector."""
    rows = []
    for what, shape in _SHAPES.items():
        kinds = _kinds(method.name, shape)
        if not kinds:
            continue
        slowest = max(kinds, key=lambda kind: list(_CLASSES).index(_class(kind)))
        live = max(kind.tile_bytes for kind in kinds)
        statistics = "; statistics of the whole model first" if any(kind.surveys for kind in kinds) else ""
        per = "of the tensor" if _class(slowest) == "whole" else "of a tile"
        sweeps = max(len(kind.passes) for kind in kinds)
        how = f"{_CLASSES[_class(slowest)]}{statistics}; {count(sweeps, 'sweep')}, {live} bytes for each entry {per}"
        rows.append(f"- {what}: {how}")
    models = method.models[1] or 3
    return [f"For float32 tensors of {count(models, 'model')}:", "", *rows]


def _class(kind: Kind) -> str:
    return "reduce" if kind.kind_class == "model" else kind.kind_class


@cache
def _kinds(name: str, shape: tuple[int, ...]) -> tuple[Kind, ...]:
    method, graph = methods()[name], Graph()
    models = method.models[1] or 3
    loads = [load(graph, slot, TensorType(shape, "float32", "weight")) for slot in range(models + 1)]
    base, others = (loads[0], loads[1:]) if method.base == "origin" else (None, loads[1:])
    values = {one.name: _value(one, models) for one in method.parameters.values()}
    made = method(base, others, values, Draw(0, method.stream), Arithmetic())
    roots = [rewrite(cast(root, dtype=root.type.dtype)) for root in _roots(made)]
    turns = rounds(feeds(roots, lambda parameter: Place(name, 1, 1)))
    return tuple(make_kind(root, graph.nodes, turns) for root in roots)


def _roots(made: Node | Artifact) -> list[Node]:
    if isinstance(made, Node):
        return [made]
    shared = [made.shared] if made.shared is not None else []
    return [made.backbone, *shared, *(node for parts in made.experts for node in parts.values())]


def _value(one: Parameter, models: int) -> Any:
    value = _EXAMPLES.get(one.name, one.default) if one.required or one.name in _EXAMPLES else one.default
    return (value,) * models if one.per_model else value
