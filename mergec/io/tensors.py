"""Safetensors headers: where each tensor lies in a file, what it is, and how a header is written.

Format: 8 bytes little-endian header length, a JSON object, then the tensors back to back
(https://huggingface.co/docs/safetensors). Nothing here reads a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mergec.errors import InputError, count, path_text

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit

# safetensors code -> (name used everywhere in mergec, bytes per element)
_CODES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}
CODE_OF = {name: code for code, (name, _) in _CODES.items()}
ITEM_BYTES = dict(_CODES.values())
FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")


class TensorRef(NamedTuple):
    """The address of a tensor: a span of bytes in a file, with its dtype and shape. Costs nothing."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Header(NamedTuple):
    """What one file of weights says about itself; `digest` is the SHA-256 of the bytes that say it."""

    tensors: dict[str, TensorRef]
    header_bytes: int
    file_bytes: int
    digest: str


def read_header(path: Path) -> Header:
    """Read and verify the header of a local safetensors file; its tensors' addresses hold in every folder.

    Raises InputError (E310) when the file is truncated, not safetensors, or its spans do not add up.
    """
    try:
        with open(path, "rb") as stream:
            return parse_header(stream, str(path.absolute()), os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise InputError("E311", f"cannot read {path}: {error.strerror or error}") from None


def parse_header(stream: BinaryIO, file: str, file_bytes: int) -> Header:
    """Parse a header from a stream that starts at byte 0 of a file of `file_bytes` bytes."""
    first = stream.read(8)
    length = int.from_bytes(first, "little")
    if file_bytes < 8:
        raise _broken(file, f"it has only {count(file_bytes, 'byte')}")
    if first == b"version ":
        raise _broken(file, "it is a Git LFS pointer", "fetch what it points to with `git lfs pull`")
    if length > file_bytes - 8 or length > MAX_HEADER_BYTES:
        raise _broken(file, f"its header claims {length:,} bytes, the file has {file_bytes:,}")
    try:
        text = stream.read(length)
        entries = json.loads(text)
    except RecursionError:
        raise _broken(file, "its header is nested too deeply") from None
    except ValueError as error:
        raise _broken(file, f"its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _broken(file, "its header is not a JSON object")
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor_ref(file, name, entry, start) for name, entry in entries.items()}
    if text.count(b'"data_offsets"') != len(tensors):  # looking for twins costs too much to do it always
        json.loads(text, object_pairs_hook=partial(_refuse_twins, file))
    _check_spans(file, tensors.values(), start, file_bytes)
    return Header(tensors, start, file_bytes, hashlib.sha256(first + text).hexdigest())


def _refuse_twins(file: str, pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise _broken(file, f"in its header {twice!r} stands twice")


def _tensor_ref(file: str, name: str, entry: Any, start: int) -> TensorRef:
    if not name.isprintable():
        raise _broken(file, f"the tensor name {name!a} cannot be printed")
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _broken(file, f"the entry of tensor {name!r} is incomplete") from None
    numbers: list[Any] = [*shape, begin, end] if isinstance(shape, list) else [None]
    if set(map(type, numbers)) != {int} or min(numbers) < 0:
        raise _broken(file, f"tensor {name!r} has sizes that are not natural numbers")
    if not isinstance(code, str) or code not in _CODES:
        what = f"{path_text(file)}: tensor {name!r} has the unknown dtype {code!r}"
        raise InputError("E313", what, f"known are {', '.join(_CODES)}")
    dtype, item_bytes = _CODES[code]
    if math.prod(shape) * item_bytes != end - begin:
        raise _broken(file, f"tensor {name!r}: {code} {shape} does not fill {end - begin:,} bytes")
    return TensorRef(file, name, dtype, tuple(shape), start + begin, start + end)


def _check_spans(file: str, tensors: Iterable[TensorRef], start: int, file_bytes: int) -> None:
    position = start
    for begin, end, name in sorted((ref.begin, ref.end, ref.name) for ref in tensors):
        if begin != position:
            raise _broken(file, f"tensor {name!r} starts at byte {begin:,}, expected {position:,}")
        position = end
    if position > file_bytes:
        raise _broken(file, f"it is truncated: {file_bytes:,} of {position:,} bytes", "fetch or copy it again")
    if position < file_bytes:
        raise _broken(file, f"{file_bytes - position:,} bytes follow its last tensor")


def _broken(file: str, why: str, hint: str = "is it a complete safetensors file?") -> InputError:
    return InputError("E310", f"{path_text(file)} is not a sound safetensors file: {why}", hint)


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], int, int]]) -> bytes:
    """The bytes of a header for tensors given as name -> (dtype, shape, begin, end), offsets from the data's start.

    Padded with spaces so that the data starts at a multiple of 8, as the safetensors library does.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape, begin, end) in tensors.items():
        entries[name] = {"dtype": CODE_OF[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
