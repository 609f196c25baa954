"""Layouts: which tensors lie where in files of weights, as lines of text; files that are laid out alike share one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from mergec.io.checkpoint import Checkpoint, WeightFile
from mergec.io.tensors import ITEM_BYTES, TensorRef

_LINE = re.compile(r"(\w+) (\d+(?:x\d+)*|scalar)(?:@(-?\d+))? (.*)")


def layout_lines(refs: Iterable[TensorRef], start: int) -> tuple[str, ...]:
    """A file's tensors in the order of their bytes: `bfloat16 32x48 name`.

    A tensor that does not follow the one before it, or the `start` of the data, has its distance from the start behind
    its shape: `bfloat16 32x48@128 name`.
    """
    lines, position = [], start
    for ref in sorted(refs, key=lambda ref: (ref.begin, ref.end, ref.name)):
        where = "" if ref.begin == position else f"@{ref.begin - start}"
        lines.append(f"{ref.dtype} {'x'.join(map(str, ref.shape)) or 'scalar'}{where} {ref.name}")
        position = ref.end
    return tuple(lines)


def layout_refs(lines: Sequence[str], file: str, start: int) -> dict[str, TensorRef]:
    """The tensors of a file from its layout. Raises ValueError for a line that is none."""
    refs, position = {}, start
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in ITEM_BYTES:
            raise ValueError(f"{line[:60]!r} is no tensor of a layout")
        dtype, sizes, where, name = match.groups()
        shape = () if sizes == "scalar" else tuple(map(int, sizes.split("x")))
        begin = start + int(where) if where else position
        ref = TensorRef(file, name, dtype, shape, begin, begin)
        position = begin + ref.numel * ITEM_BYTES[dtype]
        refs[name] = ref._replace(end=position)
    return refs


def layout_name(lines: Sequence[str]) -> str:
    """What a layout is called where several files share it."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def layouts_of(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """The layout of each of a model's files, by the file's path."""
    inside: dict[str, list[TensorRef]] = {file.path: [] for file in checkpoint.files}
    for ref in checkpoint.tensors.values():
        inside.setdefault(ref.file, []).append(ref)
    return {file.path: layout_lines(inside[file.path], file.header_bytes) for file in checkpoint.files}


def tensors_of(files: Iterable[WeightFile], layouts: Mapping[str, Sequence[str]]) -> dict[str, TensorRef]:
    """The tensors of a model from its files' layouts by path."""
    found: dict[str, TensorRef] = {}
    for file in files:
        found |= layout_refs(layouts[file.path], file.path, file.header_bytes)
    return found
