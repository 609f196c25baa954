"""The files of an artifact beside its backbone: where parts lie, and the manifest that names tasks and router."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergec.errors import InputError, did_you_mean, path_text
from mergec.io.checkpoint import Checkpoint, WeightFile, open_checkpoint, read_json, weight_file
from mergec.io.folders import near_folders
from mergec.io.tensors import TensorRef, read_header

ARTIFACT_NAME = "mergec_artifact.json"
ARTIFACT_FORMAT = 1
SHARED_FILE = "shared/delta.safetensors"


def expert_file(task: str) -> str:
    return f"experts/{task}.safetensors"


def router_file(path: str) -> str:
    return f"router/{Path(path).name}"


def part_name(file: str, tensor: str, part: str) -> str:
    """What a part is called in a plan, where names must be unique: `experts/math/model.norm.weight.mask`."""
    folder = "shared" if file == SHARED_FILE else file.removesuffix(".safetensors")
    return f"{folder}/{tensor}.{part}"


@dataclass(frozen=True)
class Router:
    """How a mixture of the experts is chosen for an input: a rule over scores, one per task in the manifest's order.

    `scores` is `subspace`, from the parts called gate, or `none`; `file` is a router of the user's own. `rule` is
    softmax, argmax or top-k, of which `top_k` are kept.
    """

    scores: str = "none"
    rule: str = "top-k"
    top_k: int = 1
    file: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What the manifest says: the method, the tasks in order, the rule by which a task is rebuilt, the router.

    `files` maps each task to the file of its parts, None if it has none; `shared` is the file of the shared deltas.
    """

    method: str
    rule: str
    files: Mapping[str, str | None]
    shared: str | None
    router: Router = Router()

    def to_json(self) -> str:
        document = {
            "format": ARTIFACT_FORMAT,
            "method": self.method,
            "rule": self.rule,
            "tasks": [{"name": task, "file": file} for task, file in self.files.items()],
            "shared": self.shared,
            "router": asdict(self.router),
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class ArtifactFiles:
    """An artifact on disk, its headers read: the backbone, the deltas all tasks share, and each task's parts.

    `shared` and `experts` are keyed by the name that is stored, such as `model.norm.weight.mask`; `files` are those
    the parts lie in.
    """

    folder: Path
    manifest: Manifest
    backbone: Checkpoint
    shared: Mapping[str, TensorRef]
    experts: Mapping[str, Mapping[str, TensorRef]]
    files: tuple[WeightFile, ...]

    def expert(self, task: str) -> Mapping[str, TensorRef]:
        """A task's parts; raises InputError (E641) with the names there are."""
        if task not in self.experts:
            what = f"{self.folder} has no task '{task}'"
            raise InputError("E641", what, did_you_mean(task, self.experts))
        return self.experts[task]


def is_artifact(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is the backbone of an artifact on this machine."""
    return (Path(checkpoint.origin) / ARTIFACT_NAME).is_file()


def open_artifact(folder: Path) -> ArtifactFiles:
    """Read the manifest and all headers of an artifact; raises InputError (E640) where it is none, or is broken."""
    if not folder.exists():
        raise InputError("E640", f"no folder {folder}", near_folders(folder))
    if not (folder / ARTIFACT_NAME).is_file():
        what = f"{folder} is not a merge artifact: it has no {ARTIFACT_NAME}"
        raise InputError("E640", what, "run a recipe of a method that makes one, such as tall_mask")
    manifest = read_manifest(folder / ARTIFACT_NAME)
    headers = {file: read_header(folder / file) for file in (manifest.shared, *manifest.files.values()) if file}
    shared = headers[manifest.shared].tensors if manifest.shared else {}
    experts = {task: headers[file].tensors if file else {} for task, file in manifest.files.items()}
    files = tuple(weight_file(str(folder.absolute() / name), header) for name, header in headers.items())
    return ArtifactFiles(folder, manifest, open_checkpoint(folder), shared, experts, files)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises InputError (E640) when it is not one of this format, or leads out of its folder."""
    document = read_json(path)
    if document.get("format") != ARTIFACT_FORMAT:
        what = f"{path} is of format {document.get('format')!r}, expected {ARTIFACT_FORMAT}"
        raise InputError("E640", what, "use the mergec it was made with")
    try:
        files = {_text(task["name"]): _inside(task["file"]) for task in document["tasks"]}
        router = Router(**{**document["router"], "file": _inside(document["router"]["file"])})
        shared = _inside(document["shared"])
        return Manifest(_text(document["method"]), _text(document["rule"]), files, shared, router)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{path} is not the manifest of an artifact: {type(error).__name__}: {error}"
        raise InputError("E640", what, "make the artifact again") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {value!r}, expected a text")
    return value


def _inside(value: Any) -> str | None:
    """A file of the artifact's own folder, relative to it."""
    if value is not None and (not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts):
        raise ValueError(f"found {value!r}, expected a file inside the folder")
    return value


def ratio_sums(refs: Iterable[TensorRef]) -> tuple[float, float]:
    """The sums of the two numbers of each ratio, exact and so in any order; raises InputError (E642)."""
    pairs = []
    for ref in refs:
        if (ref.dtype, ref.shape) != ("float64", (2,)):
            raise InputError(
                "E642", f"{path_text(ref.file)} has {ref.name} as {ref.dtype}{list(ref.shape)}, expected float64[2]"
            )
        with open(ref.file, "rb") as stream:
            stream.seek(ref.begin)
            pairs.append(struct.unpack("<2d", stream.read(16)))
    over, under = zip(*pairs, strict=True)
    return math.fsum(over), math.fsum(under)
