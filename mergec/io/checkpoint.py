"""A model as it lies in a folder: its tensors by name, its config, and the small files beside the weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergec.errors import InputError, count
from mergec.io import pickles
from mergec.io.tensors import Header, TensorRef, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ADAPTER_NAME, ADAPTER_CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"
_ARCHIVE_ADAPTER_NAME = "adapter_model.bin"
_ARCHIVE_INDEX_NAME, _ARCHIVE_NAME = "pytorch_model.bin.index.json", "pytorch_model.bin"
_READABLE = (".safetensors", *pickles.SUFFIXES)
DATA = "data:"
_MAX_JSON_BYTES = 256 * 1024 * 1024
_MAX_SIDE_BYTES = 64 * 1024 * 1024
_WEIGHTS = (*_READABLE, ".pkl", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json", ".part")
_NOT_COPIED = (
    "README.md",
    "config.json",
    ADAPTER_CONFIG_NAME,
    "mergec_recipe.yml",
    "mergec_artifact.json",
    "mergekit_config.yml",
    "mergec.lock",
)
_TOKENIZER_STEMS = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "spiece")


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: where it is, its size, the size and SHA-256 of what says what it holds; its own if known."""

    path: str
    file_bytes: int
    header_bytes: int
    header_sha256: str
    sha256: str | None = None


def weight_file(path: str, header: Header, sha256: str | None = None) -> WeightFile:
    return WeightFile(path, header.file_bytes, header.header_bytes, header.digest, sha256)


@dataclass(frozen=True)
class Checkpoint:
    """Headers and small files of one model; no weights.

    `origin` is the absolute path of the folder, or `hf://repo@commit` for a model on the hub. `side_files` maps the
    file name to the path it would be copied from. `adapter` is what adapter_config.json says, where the tensors are
    those of an adapter.
    """

    origin: str
    files: tuple[WeightFile, ...]
    tensors: Mapping[str, TensorRef]
    config: Mapping[str, Any] | None
    side_files: Mapping[str, str]
    adapter: Mapping[str, Any] | None = None

    @property
    def stem(self) -> str:
        """How its files of weights are called, by the library that will read them again."""
        names = (os.path.basename(file.path) for file in self.files)
        return (
            "diffusion_pytorch_model" if any(name.startswith("diffusion_pytorch_model") for name in names) else "model"
        )

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that describes the text model: nested in multimodal configs."""
        config = self.config or {}
        nested = config.get("text_config")
        return nested if isinstance(nested, dict) else config


def open_checkpoint(path: Path, adapter: bool = False) -> Checkpoint:
    """Read the headers of a model folder, or of a single `.safetensors`, `.bin` or `.pt` file.

    A folder that has a model as well as an adapter is read as what `adapter` says.
    Raises InputError naming the first file that is missing, truncated or not what it claims to be.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            what = f"{path} is a GGUF file, which is not read"
            raise InputError("E330", what, "merge the model it was made of, as safetensors, and convert the result")
        if path.suffix not in _READABLE:
            what = f"{path} is not a file of weights that can be read"
            raise InputError("E303", what, f"give the model's folder, or a file that ends in {', '.join(_READABLE)}")
        return _checkpoint(path.parent, [path.name], None, {}, origin=str(path.absolute()))
    names, index = weight_file_names(path, adapter)
    made = _checkpoint(path, names, index, _side_files(path))
    is_adapter = names[0] in (ADAPTER_NAME, _ARCHIVE_ADAPTER_NAME)
    return replace(made, adapter=read_json(path / ADAPTER_CONFIG_NAME)) if is_adapter else made


def _checkpoint(
    folder: Path, names: list[str], index: Mapping[str, str] | None, side_files: dict[str, str], origin: str = ""
) -> Checkpoint:
    headers = {name: _read_header(folder / name) for name in names}
    files = tuple(weight_file(str(folder.absolute() / name), header) for name, header in headers.items())
    tensors = join_headers(folder, headers, index)
    config = None if origin else read_json(folder / "config.json", missing=None)
    return Checkpoint(origin or str(folder.absolute()), files, tensors, config, side_files)


def _read_header(path: Path) -> Header:
    return read_header(path) if path.suffix == ".safetensors" else pickles.read_archive(path)


def join_headers(
    folder: Path | str, headers: Mapping[str, Header], index: Mapping[str, str] | None
) -> dict[str, TensorRef]:
    """The tensors of all shards by name; refuses a tensor that lies in two, and an index that disagrees."""
    tensors: dict[str, TensorRef] = {}
    for file, header in headers.items():
        twice = tensors.keys() & header.tensors.keys()
        if twice:
            name = min(twice)
            what = f"{folder}: tensor {name!r} lies in {os.path.basename(tensors[name].file)} and in {file}"
            raise InputError("E312", what, "one of the shards belongs to another version of the model")
        tensors |= header.tensors
    if index is not None:
        _check_index(folder, index, tensors)
    return tensors


def weight_file_names(folder: Path, adapter: bool = False) -> tuple[list[str], dict[str, str] | None]:
    """The weight files of a folder in a fixed order, and the weight map of its index if it has one.

    Safetensors are preferred to archives of torch that lie beside them.
    """
    try:
        present = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError("E311", f"cannot list {folder}: {error.strerror or error}") from None
    adapters = [name for name in (ADAPTER_NAME, _ARCHIVE_ADAPTER_NAME) if name in present]
    if adapter and adapters:
        return adapters[:1], None
    if INDEX_NAME in present and SINGLE_NAME in present:
        raise InputError(
            "E304",
            f"{folder} has both {SINGLE_NAME} and {INDEX_NAME}, and one of them is stale",
            "remove the one that does not belong to the model",
        )
    for index_name, single_name in ((INDEX_NAME, SINGLE_NAME), (_ARCHIVE_INDEX_NAME, _ARCHIVE_NAME)):
        if index_name in present:
            index = read_index(folder / index_name, present)
            return sorted(set(index.values())), index
        if single_name in present:
            return [single_name], None
    if adapters:
        return adapters[:1], None
    indices = [name for name in present if name.endswith(".safetensors.index.json")]
    if len(indices) == 1:
        index = read_index(folder / indices[0], present)
        return sorted(set(index.values())), index
    found = [name for name in present if name.endswith(".safetensors")]
    found = found or [name for name in present if name.endswith(pickles.SUFFIXES)]
    if not found and any(name.endswith(".gguf") for name in present):
        what = f"{folder} holds GGUF files, which are not read"
        raise InputError("E330", what, "merge the model they were made of, as safetensors, and convert the result")
    if not found and "model_index.json" in present:
        what = f"{folder} is a pipeline of several models, and holds no weights itself"
        raise InputError("E302", what, "name the folder of one of them, such as unet or transformer")
    if not found:
        raise InputError("E302", f"{folder} holds no weights", f"expected {SINGLE_NAME} or {INDEX_NAME}")
    if len(found) > 1:
        raise InputError("E305", f"{folder} has {count(len(found), 'weight file')} but no index", f"add {INDEX_NAME}")
    return found, None


def read_index(path: Path, present: Iterable[str]) -> dict[str, str]:
    """The `weight_map` of a sharded checkpoint's index: tensor name -> file name, one of the files `present`."""
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("E306", f"{path} has no weight_map", "it should map each tensor to a file")
    strange = [file for file in weight_map.values() if not isinstance(file, str)]
    for file in strange or sorted(set(weight_map.values())):
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(_READABLE):
            tensor = next(name for name, where in weight_map.items() if where == file)
            what = f"{path} places {tensor!r} in {file!r}, expected a weight file of the same folder"
            raise InputError("E306", what, "the index was tampered with, or is not one")
    absent = sorted(set(weight_map.values()) - set(present))
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise InputError("E307", f"absent, and named in {path}: {', '.join(absent[:3])}{more}", "fetch the whole model")
    return weight_map


def _check_index(folder: Path | str, index: Mapping[str, str], tensors: Mapping[str, TensorRef]) -> None:
    """Refuse an index that disagrees with the shards' own headers."""
    hint = "the index belongs to another version of the model"
    for name in sorted(index.keys() ^ tensors.keys()):
        where = "is in the index but in no shard" if name in index else "is in a shard but not in the index"
        raise InputError("E306", f"{folder}: tensor {name!r} {where}", hint)
    for name, file in index.items():
        found = os.path.basename(tensors[name].file)
        if found != file:
            raise InputError("E306", f"{folder}: tensor {name!r} is in {found}, the index says {file}", hint)


def read_json(path: Path, **default: Any) -> Any:
    """A JSON object from a file; `missing=` gives the value for a file that does not exist."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError("E308", f"{path} is too large to be what it should be")
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        if "missing" in default:
            return default["missing"]
        raise InputError("E311", f"{path} does not exist") from None
    except OSError as error:
        raise InputError("E311", f"cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise InputError("E308", f"{path} is nested too deeply", "fetch or copy it again") from None
    except ValueError as error:
        raise InputError("E308", f"{path} is not JSON: {error}", "fetch or copy it again") from None
    if not isinstance(value, dict):
        raise InputError("E308", f"{path} is not a JSON object", "fetch or copy it again")
    return value


def parse_json(data: bytes) -> Any:
    r"""A JSON document; raises ValueError where it is none, or spells half a character (\ud800) that no text holds."""
    value = json.loads(data.decode("utf-8-sig"))  # given bytes, json lets half characters pass
    if b"\\u" in data.lower():
        json.dumps(value, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError
    return value


def _side_files(folder: Path) -> dict[str, str]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name: str(entry.absolute())
        for entry in entries
        if entry.is_file() and is_side_file(entry.name, entry.stat().st_size)
    }


def small_file_digest(path: str) -> str:
    """The SHA-256 of a small file; of one on the hub its address, which names the commit. Raises InputError.

    Of a file that is known by its digest alone (`sha256:...`, as locks have it) that digest; of `data:TEXT`, a file
    that a stage of a recipe would write, that of the text.
    """
    if path.startswith("sha256:"):
        return path.removeprefix("sha256:")
    if path.startswith(DATA):
        return hashlib.sha256(path.removeprefix(DATA).encode()).hexdigest()
    if "://" in path:
        return path
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError("E311", f"cannot read {path}: {error.strerror or error}") from None


def is_absent(path: str) -> bool:
    """Whether a file beside the weights is known by its digest or name alone, as locks have those of absent models."""
    return path.startswith(("sha256:", "lock://"))


def is_side_file(name: str, size_bytes: int) -> bool:
    """Whether a file travels with a merge: small, not weights, not hidden, not written by a merge tool."""
    if name.startswith(".") or name in _NOT_COPIED or name.endswith(_WEIGHTS):
        return False
    return size_bytes <= _MAX_SIDE_BYTES


def is_tokenizer_file(name: str) -> bool:
    """Whether a side file belongs to the tokenizer, and so comes from the tokenizer's donor."""
    return name.startswith(_TOKENIZER_STEMS) or name.endswith((".tiktoken", ".model", ".jinja"))
