"""Lock files: what a merge read and what it made, as sorted JSON with a line per file and per tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mergec.errors import InputError
from mergec.io.folders import near_folders

LOCK_NAME = "mergec.lock"
LOCK_FORMAT: Literal[1] = 1
_MAX_BYTES = 1 << 30


def _inside(name: str) -> str:
    """A file of the folder or of one below it: no path leads out."""
    path = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or path.is_absolute() or {".", ".."} & set(name.split("/")):
        raise ValueError("not a file below the folder")
    return name


Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName: TypeAlias = Annotated[str, AfterValidator(_inside)]
Bytes: TypeAlias = Annotated[int, Field(ge=0)]
HexFloat: TypeAlias = Annotated[str, AfterValidator(lambda text: float.fromhex(text).hex())]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LockedFile(_Part):
    """A weight file of an input: its size, and the SHA-256 of its header and of all of it if the merge reads it.

    `data` is where its tensors begin, `layout` what is in it: a key of the recipe's `layouts`.
    """

    bytes: Bytes
    header: Digest
    sha256: Digest | None = None
    data: Bytes | None = None
    layout: str | None = None


class LockedModel(_Part):
    """A model as the recipe names it: what it is used for, the hub's commit, its weight files by name.

    With its config and the files `beside` its weights - with the digests of those that are copied, "" for others - it
    can be compiled without being there.
    """

    role: str
    commit: str | None = None
    files: Mapping[FileName, LockedFile]
    config: Mapping[str, Any] | None = None
    beside: Mapping[FileName, str] | None = None


class LockedTensor(_Part):
    """A tensor of the result: what it is, its plan and action key, its graph; once it is made, its bytes and where."""

    dtype: str
    shape: tuple[Bytes, ...]
    plan: Digest
    action: Digest
    graph: str
    sha256: Digest | None = None
    file: FileName | None = None
    range: tuple[Bytes, Bytes] | None = None


class LockedStatistic(_Part):
    """Numbers about the whole model, every bit of them and so in base 16, and a digest of them and their key."""

    values: tuple[HexFloat, ...]
    sha256: Digest


class LockedRecipe(_Part):
    """One recipe: its hash, the names and digests of what it reads, every tensor it makes, and by which graphs.

    `text` are the recipe's lines, `layouts` what is in the models' files: with them it can be compiled again.
    `statistics` are numbers about the whole model, by keys of all they depend on.
    """

    plan: Digest
    method: str
    text: tuple[str, ...] = ()
    layouts: Mapping[str, tuple[str, ...]] | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    models: Mapping[str, LockedModel]
    graphs: Mapping[str, tuple[str, ...]]
    tensors: Mapping[str, LockedTensor]
    statistics: Mapping[Digest, LockedStatistic] | None = None
    build: Digest | None = None
    numerics: Mapping[str, str] | None = None


class MadeFile(_Part):
    """A file of a result. The digest of a weight file is that of its header and its tensors' digests, in order."""

    bytes: Bytes
    sha256: Digest
    header: Bytes | None = None


class LockFile(_Part):
    """A lock: recipes by their path from the lock's folder; in a merge's output also every file of it."""

    format: Literal[1] = LOCK_FORMAT
    recipes: Mapping[str, LockedRecipe]
    files: Mapping[FileName, MadeFile] | None = None

    @property
    def made(self) -> LockedRecipe:
        """The one recipe of an output's lock."""
        (recipe,) = self.recipes.values()
        return recipe


def lock_text(lock: LockFile) -> str:
    """The lock as text: keys sorted, one line for what has no parts, so that a change is a line."""
    return _text(lock.model_dump(mode="json", exclude_none=True)) + "\n"


def _text(value: Any, indent: str = "") -> str:
    inner = indent + "  "
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_text(part, inner)}" for key, part in sorted(value.items())]
    elif isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        lines = [f"{json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}" for key, part in sorted(value.items())]
    else:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    opened, closed = "{", "}"
    return f"{opened}\n" + ",\n".join(inner + line for line in lines) + f"\n{indent}{closed}"


def read_lock(path: Path) -> LockFile:
    """Read a lock; raises InputError if it is absent (E620) or not what a lock should be (E621)."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError("E621", f"{path} is too large to be a lock")
        text = path.read_bytes()
    except FileNotFoundError:
        if not path.parent.exists():
            raise InputError("E620", f"no folder {path.parent}", near_folders(path.parent)) from None
        raise InputError(
            "E620",
            f"there is no {path}",
            "`mergec run` writes one into its output, `mergec lock RECIPE` one beside the recipe",
        ) from None
    except OSError as error:
        raise InputError("E620", f"cannot read {path}: {error.strerror or error}") from None
    return parse_lock(text, str(path))


def parse_lock(text: bytes | str, name: str) -> LockFile:
    """The lock in a text; raises InputError (E621) naming the first thing that is wrong."""
    hint = "restore it from version control, or remove it and lock again"
    try:
        lock = LockFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError("E621", f"{name} is no sound lock: {where or 'the text'}: {first['msg']}", hint) from None
    if lock.files is not None:
        why = _fault(lock)
        if why:
            raise InputError("E621", f"{name} is no sound lock: {why}", hint)
    return lock


def _fault(lock: LockFile) -> str:
    """What is wrong with an output's lock as a whole: every tensor needs bytes in a file that is listed."""
    files = lock.files or {}
    if len(lock.recipes) != 1:
        return f"files is of one recipe, found {len(lock.recipes)}"
    if LOCK_NAME in files:
        return "files holds the lock itself"
    for name, tensor in lock.made.tensors.items():
        if tensor.sha256 is None or tensor.file is None or tensor.range is None:
            return f"tensor {name!r} has no sha256, file and range"
        begin, end = tensor.range
        if tensor.file not in files or not begin <= end <= files[tensor.file].bytes:
            return f"tensor {name!r} lies outside the files"
    return ""


def weights_digest(header: bytes, tensors: list[str]) -> str:
    """The digest of a weight file that is made in parallel: of its header and of its tensors' digests, in order."""
    return hashlib.sha256(header + "".join(tensors).encode()).hexdigest()
