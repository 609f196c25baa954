"""Materialize: from an artifact and a task to the plan of a dense model, streamed like any other run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mergec.compiler.lower import Lowered
from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import DEFAULTS, Options, schedule
from mergec.compiler.sidefiles import (
    RECIPE_NAME,
    config_with_dtype,
    copied_file,
    index_text,
    json_text,
    written_file,
)
from mergec.errors import InputError, did_you_mean, path_text, remark
from mergec.graph import Graph, Node, Space, TensorType, slots_of
from mergec.io.artifact import ArtifactFiles, open_artifact, ratio_sums
from mergec.io.checkpoint import INDEX_NAME
from mergec.io.layout import Shard, SideFile
from mergec.io.tensors import FLOATS, TensorRef
from mergec.ops.artifact import PARTS
from mergec.ops.basic import cast, load
from mergec.ops.op import SpaceError
from mergec.ops.rebuild import rebuilt
from mergec.plan import ModelUse, Output, Plan

_SPACES: Mapping[str, Space] = {"mask": "bits", "delta": "delta", "shared": "delta"}


def compile_task(folder: str | Path, task: str, dtype: str | None = None, options: Options = DEFAULTS) -> Plan:
    """The plan of one task's dense model. `dtype` is what floats are stored as; left out: as in the backbone.

    Reads headers, and the ratios that a scale is made of. Raises InputError for a folder that is no artifact (E640),
    a task it does not have (E641), and parts that do not fit the backbone (E642).
    """
    files = open_artifact(Path(folder))
    parts = _by_tensor(files, task)
    scale, warnings = _scale(task, parts)
    graph, roots = Graph(), dict[object, Node]()
    lowered, identity = [], frozenset({files.manifest.rule})
    for name, backbone in files.backbone.tensors.items():
        stored = parts.get(name, {})
        key = (backbone.dtype, backbone.shape, *((part, ref.dtype, ref.shape) for part, ref in stored.items()))
        if key not in roots:
            roots[key] = _dense(graph, backbone, stored, dtype, scale)
        refs = [backbone, *stored.values()]
        lowered.append(Lowered(name, roots[key], tuple(refs[slot] for slot in slots_of(roots[key])), identity=identity))
    return _plan(files, task, lowered, graph, warnings, options)


def _by_tensor(files: ArtifactFiles, task: str) -> dict[str, dict[str, TensorRef]]:
    """A task's parts by tensor; the delta that all tasks share comes first and is called shared."""
    found: dict[str, dict[str, TensorRef]] = {}
    for stored, shared in ((files.shared, True), (files.expert(task), False)):
        for key, ref in stored.items():
            name, _, part = key.rpartition(".")
            if name not in files.backbone.tensors:
                what = f"{path_text(ref.file)} has {key}, and the backbone in {files.folder} has no tensor '{name}'"
                raise InputError("E642", what, did_you_mean(name, files.backbone.tensors))
            if part not in PARTS:
                raise InputError(
                    "E642", f"{path_text(ref.file)} has {key}, a part of no known kind", did_you_mean(part, PARTS)
                )
            found.setdefault(name, {})["shared" if shared else part] = ref
    return found


def _scale(task: str, parts: Mapping[str, Mapping[str, TensorRef]]) -> tuple[float | None, tuple[str, ...]]:
    """The task's scale from the ratios of its tensors, None if it has none; 1 and a warning for 0 / 0."""
    refs = [stored["ratio"] for stored in parts.values() if "ratio" in stored]
    if not refs:
        return None, ()
    over, under = ratio_sums(refs)
    if under > 0:
        return over / under, ()
    what = f"the task '{task}' changes nothing that could be scaled; its scale 0 / 0 counts as 1"
    return 1.0, (remark("W640", what),)


def _dense(
    graph: Graph, backbone: TensorRef, stored: Mapping[str, TensorRef], dtype: str | None, scale: float | None
) -> Node:
    """The graph of a task's tensor: slot 0 is the backbone's, the others what is stored, in order."""
    start = load(graph, 0, TensorType(backbone.shape, backbone.dtype, "weight"))
    if backbone.dtype not in FLOATS:
        return start
    compute = "float64" if backbone.dtype == "float64" else "float32"
    loads = {
        part: _loaded(graph, slot, ref, _SPACES.get(part, "part"), compute)
        for slot, (part, ref) in enumerate(stored.items(), start=1)
    }
    shared, origin = loads.pop("shared", None), cast(start, dtype=compute)
    try:
        made = rebuilt(origin, shared, loads, scale)
    except SpaceError as error:
        what = f"what is stored of {backbone.name} does not fit its shape {list(backbone.shape)}: {error}"
        raise InputError("E642", what, "do the files belong to one artifact?") from None
    return rewrite(cast(start if made is origin else made, dtype=dtype or backbone.dtype))


def _loaded(graph: Graph, slot: int, ref: TensorRef, space: Space, compute: str) -> Node:
    node = load(graph, slot, TensorType(ref.shape, ref.dtype, space))
    return cast(node, dtype=compute) if ref.dtype in FLOATS else node


def _plan(
    files: ArtifactFiles, task: str, lowered: list[Lowered], graph: Graph, warnings: tuple[str, ...], options: Options
) -> Plan:
    plan = schedule(lowered, graph, (*files.backbone.files, *files.files), options)
    recipe = files.folder / RECIPE_NAME
    return replace(
        plan,
        name=f"{files.folder.resolve().name}-{task}",
        method=f"{files.manifest.method}, task {task}",
        recipe_text=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        models=(ModelUse("artifact", str(files.folder), str(files.folder)),),
        side_files=_side_files(files, task, plan.outputs, plan.shards),
        warnings=warnings,
    )


def _side_files(
    files: ArtifactFiles, task: str, outputs: Sequence[Output], shards: Sequence[Shard]
) -> tuple[SideFile, ...]:
    """What lies beside the backbone, with the config's dtype and a card of the task's own."""
    found = [copied_file(name, path) for name, path in files.backbone.side_files.items()]
    if files.backbone.config is not None:
        found.append(written_file("config.json", json_text(config_with_dtype(files.backbone.config, outputs))))
    if len(shards) > 1:
        found.append(SideFile(INDEX_NAME, text=index_text(outputs, shards), is_record=True))
    found.append(SideFile("README.md", text=_card(files, task), is_record=True))
    return tuple(sorted(found, key=lambda file: file.name))


def _card(files: ArtifactFiles, task: str) -> str:
    return (
        "---\nlibrary_name: transformers\ntags:\n- mergec\n- merge\n---\n\n"
        f"# {task}\n\nThe task `{task}` of a merge artifact, made dense by mergec.\n\n"
        f"Method: {files.manifest.method}\n\nRule: `{files.manifest.rule}`\n"
    )
