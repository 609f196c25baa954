"""A plan as JSON, and back: what a run on another machine or a comparison next year is given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from mergec.graph import Attr, Graph, Node, TensorType
from mergec.io.checkpoint import Checkpoint, WeightFile
from mergec.io.layout import Shard, SideFile
from mergec.io.layouts import layout_name, layouts_of, tensors_of
from mergec.io.tensors import TensorRef
from mergec.keys import digest, plan_hash
from mergec.plan import Kind, Memory, ModelUse, Output, Plan, Rows, SourceFile, Statistic, Step

PLAN_FORMAT = 2
_SIMPLE = (
    "name",
    "method",
    "recipe_text",
    "slots",
    "notes",
    "warnings",
    "allow_nonfinite",
    "recipe_path",
    "overrides",
)


def plan_json(plan: Plan) -> str:
    """The whole plan as JSON; `read_plan` gives it back equal in every field."""
    nodes = [[n.op, [i.index for i in n.inputs], n.attrs, _type_json(n.type), n.op_class] for n in plan.nodes]
    file_numbers = {source.path: number for number, source in enumerate(plan.files)}
    outputs = [_output_json(output, file_numbers) for output in plan.outputs]
    simple = {part.name: getattr(plan, part.name) for part in fields(plan) if part.name in _SIMPLE}
    document = {
        "format": PLAN_FORMAT,
        "hash": plan_hash(plan),
        **simple,
        "models": [asdict(model) for model in plan.models],
        "files": [asdict(source) for source in plan.files],
        "nodes": nodes,
        "kinds": [asdict(kind) for kind in plan.kinds],
        "outputs": outputs,
        "shards": [{**asdict(shard), "header": shard.header.decode("latin-1")} for shard in plan.shards],
        "side_files": [asdict(side_file) for side_file in plan.side_files],
        "memory": asdict(plan.memory),
        "rows": [asdict(rows) for rows in plan.rows],
        "statistics": [asdict(statistic) for statistic in plan.statistics],
        **_checkpoints_json(plan.checkpoints),
    }
    return json.dumps({**document, "digest": digest(json.dumps(document))}, separators=(",", ":"))


def read_plan(text: str) -> Plan:
    """Read a plan back; raises ValueError when it is not one of this format."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != PLAN_FORMAT:
        raise ValueError(f"not a plan of format {PLAN_FORMAT}")
    if document.pop("digest", None) != digest(json.dumps(document)):
        raise ValueError("it was changed after it was made")
    files = tuple(SourceFile(**source) for source in document["files"])
    return Plan(
        name=document["name"],
        method=document["method"],
        recipe_text=document["recipe_text"],
        slots=tuple(document["slots"]),
        models=tuple(ModelUse(**model) for model in document["models"]),
        files=files,
        nodes=tuple(_nodes_from_json(document["nodes"])),
        kinds=tuple(_kind_from_json(kind) for kind in document["kinds"]),
        outputs=tuple(_output_from_json(output, files) for output in document["outputs"]),
        shards=tuple(Shard(**{**s, "header": s["header"].encode("latin-1")}) for s in document["shards"]),
        side_files=tuple(SideFile(**side_file) for side_file in document["side_files"]),
        memory=Memory(**document["memory"]),
        rows=tuple(Rows(**{**rows, "of": tuple(rows["of"])}) for rows in document["rows"]),
        notes=tuple(document["notes"]),
        warnings=tuple(document["warnings"]),
        allow_nonfinite=document["allow_nonfinite"],
        recipe_path=document["recipe_path"],
        overrides=tuple((key, value) for key, value in document["overrides"]),
        statistics=tuple(_statistic_from_json(statistic) for statistic in document["statistics"]),
        checkpoints=_checkpoints_from_json(document["checkpoints"], document["layouts"]),
    )


def _type_json(type: TensorType) -> list[Any]:
    return [list(type.shape), type.dtype, type.space]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _nodes_from_json(rows: Iterable[Any]) -> Iterator[Node]:
    graph = Graph()
    for op, inputs, attrs, (shape, dtype, space), op_class in rows:
        sources = tuple(graph.nodes[index] for index in inputs)
        yield graph.node(op, sources, _frozen_attrs(attrs), TensorType(tuple(shape), dtype, space), op_class)


def _frozen_attrs(attrs: Iterable[Any]) -> dict[str, Attr]:
    return {name: _frozen(value) for name, value in attrs}


def _kind_from_json(kind: Mapping[str, Any]) -> Kind:
    surveys = tuple(_passes_from_json(passes) for passes in kind["surveys"])
    plain = {name: tuple(kind[name]) for name in ("slots", "shape")}
    return Kind(**{**kind, **plain, "passes": _passes_from_json(kind["passes"]), "surveys": surveys})


def _passes_from_json(passes: Iterable[Any]) -> tuple[tuple[Step, ...], ...]:
    return tuple(tuple(Step(step["node"], tuple(step["frees"])) for step in steps) for steps in passes)


def _statistic_from_json(statistic: Mapping[str, Any]) -> Statistic:
    nodes = tuple((kind, node) for kind, node in statistic["nodes"])
    return Statistic(statistic["name"], statistic["round"], nodes, tuple(statistic["members"]))


def _output_json(output: Output, file_numbers: Mapping[str, int]) -> list[Any]:
    sources = [
        [file_numbers[ref.file], ref.name, ref.dtype, list(ref.shape), ref.begin, ref.end] for ref in output.sources
    ]
    place = [output.shard, output.begin, output.end, *([output.tensor] if output.is_part else [])]
    return [output.name, output.dtype, list(output.shape), output.kind, sources, *place]


def _output_from_json(row: list[Any], files: tuple[SourceFile, ...]) -> Output:
    name, dtype, shape, kind, sources, shard, begin, end, *tensor = row
    refs = tuple(TensorRef(files[f].path, n, d, tuple(s), b, e) for f, n, d, s, b, e in sources)
    return Output(name, dtype, tuple(shape), kind, refs, shard, begin, end, *tensor)


def _checkpoints_json(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Models by reference, and the layouts of their files, each once."""
    layouts: dict[str, tuple[str, ...]] = {}
    models = {}
    for reference, one in checkpoints.items():
        lines = layouts_of(one)
        layouts |= {layout_name(some): some for some in lines.values()}
        files = [{**asdict(file), "layout": layout_name(lines[file.path])} for file in one.files]
        models[reference] = {"origin": one.origin, "config": one.config, "side_files": one.side_files, "files": files}
    return {"checkpoints": models, "layouts": layouts}


def _checkpoints_from_json(models: Mapping[str, Any], layouts: Mapping[str, Any]) -> dict[str, Checkpoint]:
    found = {}
    for reference, one in models.items():
        named = {file["path"]: layouts[file["layout"]] for file in one["files"]}
        files = tuple(WeightFile(**{k: v for k, v in file.items() if k != "layout"}) for file in one["files"])
        tensors = tensors_of(files, named)
        found[reference] = Checkpoint(one["origin"], files, tensors, one["config"], one["side_files"])
    return found
