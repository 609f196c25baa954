"""Facts: what the headers of a checkpoint say, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergec.compiler.models import Model
from mergec.compiler.names import fold, layer_counts_of, layers_of, natural
from mergec.compiler.text import table
from mergec.errors import path_text, size_text
from mergec.io.artifact import ArtifactFiles, is_artifact, open_artifact
from mergec.io.tensors import TensorRef


def inspect_text(model: Model) -> str:
    """What the headers of a checkpoint say."""
    facts = inspect_facts(model)
    listed = {"tensor_names", "artifact"}
    rows = [(key.replace("_", " "), _fact(value)) for key, value in facts.items() if key not in listed]
    names = ["", "tensors", *(f"  {name}" for name in facts["tensor_names"])]
    return "\n".join([model.reference, *table(rows), *_artifact_lines(facts.get("artifact")), *names])


def _artifact_lines(artifact: dict[str, Any] | None) -> list[str]:
    if artifact is None:
        return []
    router = artifact["router"]
    rows = [
        ("method", artifact["method"]),
        ("rule", artifact["rule"]),
        ("shared", _stored(artifact["shared"])),
        *((f"task {task}", _stored(stored)) for task, stored in artifact["tasks"].items()),
        ("router", f"{router['scores']}, {router['rule']} {router['top_k']}" if router["scores"] != "none" else "none"),
    ]
    return ["", "artifact", *table(rows)]


def _stored(stored: dict[str, Any]) -> str:
    return f"{size_text(stored['bytes'])}, {_fact(stored['parts'])}" if stored["parts"] else "nothing"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item:,}" for key, item in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def inspect_facts(model: Model) -> dict[str, Any]:
    """The same as JSON-able values."""
    checkpoint = model.checkpoint
    dtypes: dict[str, int] = {}
    for ref in model.tensors.values():
        dtypes[ref.dtype] = dtypes.get(ref.dtype, 0) + ref.numel
    layers = layers_of(model.tensors, layer_counts_of(checkpoint.config))
    named = (checkpoint.config or {}).get("architectures")
    return {
        "origin": path_text(checkpoint.origin),
        "architecture": ", ".join(map(str, named)) if named and isinstance(named, list) else "unknown",
        "files": len(checkpoint.files),
        "bytes": sum(file.file_bytes for file in checkpoint.files),
        "tensors": len(model.tensors),
        "parameters": sum(ref.numel for ref in model.tensors.values()),
        "dtypes": dtypes,
        "layers": {layer.stack: layer.count for layer in layers.values()},
        "vocabulary": checkpoint.text_config.get("vocab_size", "unknown"),
        "tied": model.is_tied,
        "tensor_names": _with_shapes(model),
        **({"artifact": _artifact_facts(open_artifact(Path(checkpoint.origin)))} if is_artifact(checkpoint) else {}),
    }


def _artifact_facts(files: ArtifactFiles) -> dict[str, Any]:
    return {
        "method": files.manifest.method,
        "rule": files.manifest.rule,
        "shared": _parts(files.shared),
        "tasks": {task: _parts(stored) for task, stored in files.experts.items()},
        "router": vars(files.manifest.router),
    }


def _parts(stored: Mapping[str, TensorRef]) -> dict[str, Any]:
    """Bytes, and how many tensors have each part."""
    parts = Counter(name.rpartition(".")[2] for name in stored)
    return {"bytes": sum(ref.end - ref.begin for ref in stored.values()), "parts": dict(sorted(parts.items()))}


def _with_shapes(model: Model) -> list[str]:
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, ref in sorted(model.tensors.items(), key=lambda item: natural(item[0])):
        groups.setdefault((ref.dtype, ref.shape), []).append(name)
    return [f"{text} {dtype}{list(shape)}" for (dtype, shape), names in groups.items() for text in fold(names)]
