"""torch's `.bin` and `.pt` archives: where each tensor lies, read without importing torch and without running anything.

Such a file is a zip whose members are stored as they are: `data.pkl` describes the tensors, `data/KEY` holds the bytes
of a storage (torch.save, since 1.6). The description is read by an unpickler that knows six names and builds records
from them; any other name is refused, so no code of the file can run. Tensors are then read in place like safetensors'.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mergec.errors import InputError, path_text
from mergec.io.tensors import ITEM_BYTES, Header, TensorRef

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_DESCRIPTION_BYTES = 100_000_000
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_WRAPPERS = ("state_dict", "model", "module")  # keys under which training frameworks save the weights
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and of the extra field


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dtype(NamedTuple):
    name: str


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _typed_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], grad: Any, hooks: Any, dtype: Any
) -> _Tensor:
    return _Tensor(_Storage(storage.key, dtype.name), offset, tuple(shape), tuple(stride))


def _parameter(data: _Tensor, *_: Any) -> _Tensor:
    return data


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("torch.storage", "UntypedStorage"): _Dtype("uint8"),
    **{("torch", storage): _Dtype(dtype) for storage, dtype in _STORAGES.items()},
    **{("torch", dtype): _Dtype(dtype) for dtype in ITEM_BYTES},
}


class _Reader(pickle._Unpickler):
    """Builds records of the names above. The one in Python: the one in C lets a file make it allocate gigabytes."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _UnsafeError(f"it would call {module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(str(key), dtype.name)


class _UnsafeError(Exception):
    pass


def read_archive(path: Path) -> Header:
    """The tensors of a `.bin` or `.pt` file, as spans of its bytes.

    Raises InputError: E311 for a file that cannot be read, E314 for one that is not a sound archive of tensors or
    would have to be executed.
    """
    file = str(path.absolute())
    try:
        with open(path, "rb") as stream:
            return _read(stream, file, path.stat().st_size)
    except OSError as error:
        raise InputError("E311", f"cannot read {path}: {error.strerror or error}") from None
    except _UnsafeError as error:
        hint = "a file of tensors needs no code; do you trust where it comes from?"
        raise InputError("E314", f"{path_text(file)} is not only tensors: {error}, which is refused", hint) from None
    except zipfile.BadZipFile:
        known = "an archive of torch.save, or one of torch before 1.6, which cannot be read in place"
        what = f"{path_text(file)} is not {known}"
        raise InputError("E314", what, "load it with torch and save it as safetensors") from None
    except InputError:
        raise
    except Exception as error:  # whatever a damaged description makes the unpickler stumble over
        why = f"{type(error).__name__}: {error}".rstrip(": ")
        raise _broken(file, f"its description cannot be read ({why})") from None


def _read(stream: BinaryIO, file: str, file_bytes: int) -> Header:
    with zipfile.ZipFile(stream) as archive:
        members = {info.filename: info for info in archive.infolist()}
        folder = _folder(file, members)
        if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
            raise _broken(file, "its numbers are big-endian", "load it with torch and save it as safetensors")
        description = members[f"{folder}/data.pkl"]
        if description.file_size > _MAX_DESCRIPTION_BYTES:
            raise _broken(file, f"its description claims {description.file_size:,} bytes")
        text = archive.read(description)
        found = dict(_tensors(_Reader(io.BytesIO(text)).load()))
        begins = {info.filename: _data_begin(stream, file, info, file_bytes) for info in members.values()}
    tensors = {
        name: _span(file, name, tensor, members.get(f"{folder}/data/{tensor.storage.key}"), begins)
        for name, tensor in found.items()
    }
    return Header(tensors, description.file_size, file_bytes, hashlib.sha256(text).hexdigest())


def _folder(file: str, members: Mapping[str, Any]) -> str:
    found = [name.removesuffix("/data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise _broken(file, "it has no data.pkl")
    return found[0]


def _tensors(value: Any) -> Iterator[tuple[str, _Tensor]]:
    """The named tensors of a state dict; of the state dict inside where a training framework wrapped it."""
    if not isinstance(value, dict):
        return
    for key in _WRAPPERS:
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    yield from ((name, item) for name, item in value.items() if isinstance(name, str) and isinstance(item, _Tensor))


def _data_begin(stream: BinaryIO, file: str, info: zipfile.ZipInfo, file_bytes: int) -> int:
    """Where a member's bytes begin: after a local header whose length the directory does not tell."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise _broken(file, f"{info.filename} is compressed", "load it with torch and save it as safetensors")
    stream.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0"))
    begin = info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
    if signature != b"PK\x03\x04" or begin + info.file_size > file_bytes:
        raise _broken(file, f"{info.filename} is not where the directory says")
    return begin


def _span(
    file: str, name: str, tensor: _Tensor, member: zipfile.ZipInfo | None, begins: Mapping[str, int]
) -> TensorRef:
    if not name.isprintable():
        raise _broken(file, f"the tensor name {name!a} cannot be printed")
    if member is None:
        raise _broken(file, f"the bytes of {name!r} are absent")
    numbers = [tensor.offset, *tensor.shape, *tensor.stride]
    if set(map(type, numbers)) != {int} or min(numbers) < 0 or len(tensor.shape) != len(tensor.stride):
        raise _broken(file, f"tensor {name!r} has sizes that are not natural numbers")
    if not _is_contiguous(tensor):
        what = f"{path_text(file)}: tensor {name!r} is a transposed or strided view"
        raise InputError("E314", what, "save it with .contiguous(), or the model as safetensors")
    item_bytes = ITEM_BYTES[tensor.storage.dtype]
    begin, size = tensor.offset * item_bytes, math.prod(tensor.shape) * item_bytes
    if begin + size > member.file_size:
        raise _broken(file, f"tensor {name!r} ends after byte {begin + size:,} of {member.file_size:,}")
    start = begins[member.filename] + begin
    return TensorRef(file, name, tensor.storage.dtype, tensor.shape, start, start + size)


def _is_contiguous(tensor: _Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and stride != expected:
            return 0 in tensor.shape
        expected *= size
    return True


def _broken(file: str, why: str, hint: str = "is it complete? fetch or copy it again") -> InputError:
    return InputError("E314", f"{path_text(file)} is not a sound archive of tensors: {why}", hint)
