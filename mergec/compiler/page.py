"""Page: a plan as one HTML file that needs nothing else - the facts as JSON, and the template that shows them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from mergec.compiler.analysis import Analysis, Part
from mergec.compiler.arrange import arrange
from mergec.compiler.names import Folded, few, folded, natural
from mergec.compiler.resolved import resolve_all
from mergec.compiler.tabulate import written
from mergec.compiler.text import (
    class_text,
    formula,
    members,
    memory_text,
    model_rows,
    peak_text,
    place_text,
    result_facts,
    shard_rows,
    statistic_rows,
    value_text,
    work_rows,
)
from mergec.compiler.values import Values
from mergec.errors import count, size_text
from mergec.graph import lines, walk
from mergec.io.page import MARK
from mergec.keys import plan_hash
from mergec.ops.registry import Parameter
from mergec.plan import Output, Plan
from mergec.recipe.schema import Recipe
from mergec.recipe.settings import Choice, Resolved

_MOST_SEGMENTS = 3000  # of all files together: what is thinner on the screen than a pixel is drawn as one
_WIDEST = 300  # segments of the largest file
_WARNING = re.compile(r"(?P<place>.+?:(?P<line>\d+):\d+): warning\[(?P<code>W\d+)\]: (?P<what>.*)", re.DOTALL)


def page_html(analysis: Analysis, plan: Plan, warnings: Sequence[str]) -> str:
    """The page of a plan: the same bytes for the same plan and warnings, which are those that `plan` prints.

    Nothing of the plan stands in the page but as JSON without `<`, `>` and `&`, and the page's own script, which the
    policy names by its digest, is the only one that runs.
    """
    style, script = _part("page.css"), _part("page.js")
    slots = {
        "policy": f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'",
        "mark": MARK,
        "style": style,
        "script": script,
        "facts": _inert(page_facts(analysis, plan, warnings)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], _part("page.html"))


def _part(name: str) -> str:
    return files("mergec.compiler").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(facts: Mapping[str, Any]) -> str:
    """JSON in which nothing can end a script element or begin another."""
    text = json.dumps(facts, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_facts(analysis: Analysis, plan: Plan, warnings: Sequence[str]) -> dict[str, Any]:
    """What the page shows, as JSON-able values; texts are those of `plan` and `explain`."""
    return {
        "name": plan.name,
        "method": plan.method,
        "hash": plan_hash(plan),
        "summary": analysis.method.summary,
        "formula": formula(analysis.method.doc),
        "recipe": {"file": plan.recipe_path, "text": plan.recipe_text},
        "result": result_facts(plan),
        "read": size_text(plan.read_bytes),
        "written": size_text(plan.written_bytes),
        "peak": peak_text(plan),
        "memory": memory_text(plan),
        "models": model_rows(plan),
        "slots": plan.slots,
        "warnings": [_warning(text, plan.recipe_path) for text in warnings],
        "notes": plan.notes,
        "work": work_rows(plan),
        "statistics": statistic_rows(plan),
        "settings": [one for stage, own in _recipes(analysis) for one in _settings(own, stage)],
        "stacks": _stacks(analysis),
        "files": _files(analysis, plan),
        **_graphs(plan),
    }


def _warning(text: str, recipe: str) -> dict[str, Any]:
    """A printed warning in its parts; `line` is that of the recipe, 0 if it is about something else."""
    match = _WARNING.fullmatch(text)
    if match is None:
        return {"place": "", "line": 0, "code": "", "what": text}
    return {**match.groupdict(), "line": int(match["line"]) if text.startswith(f"{recipe}:") else 0}


# ------------------------------------------------------------------------------------------ settings


def _recipes(analysis: Analysis) -> list[tuple[str, Analysis]]:
    """The recipe, and the stages it needs, each with its name."""
    return [("", analysis), *analysis.stages.items()]


def _settings(analysis: Analysis, stage: str) -> list[dict[str, Any]]:
    """Every parameter of the method: the curves of its values over the layers, those the recipe sets first."""
    known, set_here = analysis.method.parameters, written(analysis)
    curves = _curves(analysis)
    ordered = sorted(known.values(), key=lambda parameter: parameter.name not in set_here)
    return [{"stage": stage, **_setting(analysis.recipe, one, curves.get(one.name, {}))} for one in ordered]


def _stacks(analysis: Analysis) -> dict[str, list[int]]:
    """The first and the last layer of every stack."""
    found: dict[str, list[int]] = {}
    for layer in (layer for _, own in _recipes(analysis) for layer in own.layers.values()):
        first, last = found.get(layer.stack, [layer.index, layer.index])
        found[layer.stack] = [min(first, layer.index), max(last, layer.index)]
    return found


Curve = dict[tuple[str, int], tuple[str, int]]
"""A value, and how many tensors have it, by stack and number of the layer; `("", 0)` is outside of the layers."""


def _curves(analysis: Analysis) -> dict[str, dict[tuple[str, Choice | None], Curve]]:
    """The values of each parameter, by model ("" for one value of all models) and by the entry they come from."""
    tensors: Counter[tuple[int, str, int]] = Counter()
    distinct: dict[int, tuple[Values, Part]] = {}
    for name, values in resolve_all(analysis).items():
        layer = analysis.layers.get(name)
        tensors[id(values), layer.stack if layer else "", layer.index if layer else 0] += 1
        distinct[id(values)] = values, analysis.of_tensor[name]
    curves: dict[str, dict[tuple[str, Choice | None], Curve]] = {}
    for (number, stack, index), size in tensors.items():
        values, part = distinct[number]
        models = [one.reference for one in part.bound.inputs if not one.is_base]
        for name, found in values.resolved.items():
            for model, one in [("", found)] if isinstance(found, Resolved) else zip(models, found, strict=True):
                curve = curves.setdefault(name, {}).setdefault((model, one.choice), {})
                before = curve.get((stack, index), ("", 0))[1]
                curve[stack, index] = (value_text(one.value), before + size)
    return curves


def _setting(recipe: Recipe, parameter: Parameter, curves: Mapping[tuple[str, Choice | None], Curve]) -> dict[str, Any]:
    """A parameter with its range, and a curve per stack of layers, entry of the recipe, and models that take it."""
    order = ["", *recipe.references]
    found: dict[str, dict[str, Any]] = {}
    for (model, choice), curve in sorted(curves.items(), key=lambda item: (order.index(item[0][0]), _line(item[0][1]))):
        for stack in sorted({stack for stack, _ in curve}, reverse=True):
            points = sorted((index, *curve[s, index]) for s, index in curve if s == stack)
            shown = {
                "stack": stack,
                "layers": [index for index, _, _ in points],
                "values": [text for _, text, _ in points],
                "tensors": count(sum(size for _, _, size in points), "tensor"),
                **_origin(choice, recipe.document.file),
            }
            found.setdefault(repr(shown), {"models": [], **shown})["models"].append(model)
    schema = parameter.schema
    return {
        "name": parameter.name,
        "what": parameter.description,
        "low": schema.get("minimum", schema.get("exclusiveMinimum")),
        "high": schema.get("maximum", schema.get("exclusiveMaximum")),
        "curves": [{**curve, "models": ", ".join(curve["models"])} for curve in found.values()],
    }


def _line(choice: Choice | None) -> tuple[int, int]:
    return (choice.place.line, choice.place.column) if choice else (0, 0)


def _origin(choice: Choice | None, recipe: str) -> dict[str, Any]:
    """Which entry a value comes from; `line` is that of the recipe, 0 for the method's default and an override."""
    if choice is None:
        return {"filter": None, "from": "default", "line": 0}
    if choice.place.file != recipe:
        return {"filter": choice.filter, "from": choice.place.file, "line": 0}
    return {"filter": choice.filter, "from": f"line {choice.place.line}", "line": choice.place.line}


# ------------------------------------------------------------------------------------ files and bytes


def _files(analysis: Analysis, plan: Plan) -> list[dict[str, Any]]:
    """The files of weights, each as segments `[begin, end, text, layer]`; thin neighbours are joined.

    The layer is -1 outside of the layers, and -2 for a file's header.
    """
    inside: list[list[Output]] = [[] for _ in plan.shards]
    for output in plan.outputs:
        inside[output.shard].append(output)
    largest = max((shard.file_bytes for shard in plan.shards), default=0)
    share = max(1 / _WIDEST, len(plan.shards) / _MOST_SEGMENTS)
    return [
        {
            "row": row,
            "bytes": shard.file_bytes,
            "segments": [
                [0, len(shard.header), f"header: {size_text(len(shard.header))}", -2],
                *_segments(analysis, plan, sorted(outputs, key=lambda one: one.begin), largest * share),
            ],
        }
        for shard, outputs, row in zip(plan.shards, inside, shard_rows(plan), strict=True)
    ]


def _segments(analysis: Analysis, plan: Plan, outputs: Sequence[Output], least: float) -> list[list[Any]]:
    layers = analysis.layers
    groups: list[list[Output]] = []
    for output in outputs:
        if groups and output.end - groups[-1][0].begin <= least:
            groups[-1].append(output)
        else:
            groups.append([output])
    return [
        [
            group[0].begin,
            group[-1].end,
            _segment_text(plan, group),
            layers[group[0].tensor].index if group[0].tensor in layers else -1,
        ]
        for group in groups
    ]


def _segment_text(plan: Plan, group: Sequence[Output]) -> str:
    size = size_text(group[-1].end - group[0].begin)
    place = place_text(plan, group[0]) if len(group) == 1 else count(len(group), "tensor")
    return f"{few((output.name for output in group), 1)}: {size}, {place}"


# ------------------------------------------------------------------------------------------- graphs


def _graphs(plan: Plan) -> dict[str, Any]:
    """The kinds of tensors, the one that makes most bytes first, and the tensors of the result.

    Graphs that differ in their attributes and types alone share a *form*: ops, inputs, and where nodes are drawn.
    Texts that nodes share are numbered: `words`. Names are folded as far as tensors have one type and are made alike.
    """
    words: dict[str, int] = {}
    forms: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
    kinds: list[dict[str, Any]] = []
    alike: dict[tuple[str, str], list[str]] = {}
    for number, outputs in members(plan).items():
        root = plan.root(plan.kinds[number])
        text, nodes = lines(root), walk(root)
        form = forms.setdefault(tuple((line.op, line.inputs) for line in text), len(forms))
        dtype, work = f"{outputs[0].dtype} {list(outputs[0].shape)}", class_text(plan.kinds[number])
        names = [output.name for output in outputs]
        alike.setdefault((dtype, work), []).extend(names)
        kinds.append(
            {
                "form": form,
                "attrs": [words.setdefault(line.attrs, len(words)) for line in text],
                "types": [words.setdefault(line.type, len(words)) for line in text],
                "spaces": [words.setdefault(node.type.space, len(words)) for node in nodes],
                "slots": [node.attr("slot") for node in nodes if node.op == "load"],
                "work": work,
                "type": dtype,
                "size": count(len(outputs), "tensor"),
                "each": size_text(outputs[0].end - outputs[0].begin),
                "all": size_text(sum(output.end - output.begin for output in outputs)),
                "names": list(map(_pieces, folded(names))),
            }
        )
    rows = [one for names in alike.values() for one in folded(names)]
    return {
        "kinds": kinds,
        "forms": [_form(form) for form in forms],
        "words": list(words),
        "tensors": [_pieces(one) for one in sorted(rows, key=lambda one: natural(one.first))],
    }


def _form(form: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Any]:
    drawn = arrange([inputs for _, inputs in form])
    return {
        "ops": [op for op, _ in form],
        "inputs": [inputs for _, inputs in form],
        "rows": drawn.rows,
        "xs": drawn.xs,
        "bends": drawn.bends,
    }


def _pieces(one: Folded) -> list[Any]:
    """Folded names as text and runs of numbers in turn."""
    return [piece for pair in zip(one.between, [*one.runs, ()], strict=True) for piece in pair][:-1]
