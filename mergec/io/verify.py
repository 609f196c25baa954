"""Verify: every byte of a result against its lock, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mergec.io.lockfile import LOCK_NAME, LockedTensor, LockFile, MadeFile, weights_digest
from mergec.io.spans import span_digest

Report = Callable[[int], None]
"""Takes the number of bytes read since the last call."""


@dataclass(frozen=True)
class Fault:
    """Something in a result that is not as its lock says: a file, or a tensor in one."""

    file: str
    what: str
    tensor: str | None = None


def verify(out: Path, lock: LockFile, report: Report | None = None) -> list[Fault]:
    """Read all files of a result; returns what is not as it was made, files that lie there too much included."""
    inside: dict[str, list[tuple[str, LockedTensor]]] = {}
    for name, tensor in lock.made.tensors.items():
        inside.setdefault(tensor.file or "", []).append((name, tensor))
    faults: list[Fault] = []
    for file, made in sorted((lock.files or {}).items()):
        faults += _file_faults(out, file, made, inside.get(file, []), report)
    return faults + [Fault(file, "is not in the lock, and a loader may take it") for file in _strays(out, lock)]


def _strays(out: Path, lock: LockFile) -> Iterator[str]:
    for entry in sorted(out.iterdir()):
        is_weights = entry.name.endswith((".safetensors", ".index.json", ".bin"))
        if is_weights and entry.name not in (lock.files or {}) and entry.name != LOCK_NAME:
            yield entry.name


def _file_faults(
    out: Path, file: str, made: MadeFile, tensors: list[tuple[str, LockedTensor]], report: Report | None
) -> Iterator[Fault]:
    try:
        descriptor = os.open(out / file, os.O_RDONLY)
    except OSError as error:
        yield Fault(file, f"cannot be read: {error.strerror}")
        return
    try:
        size = os.fstat(descriptor).st_size
        if size != made.bytes:
            yield Fault(file, f"has {size:,} bytes, expected {made.bytes:,}")
        yield from _content_faults(descriptor, file, made, tensors, report)
    except OSError as error:
        yield Fault(file, f"cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)


def _content_faults(
    descriptor: int, file: str, made: MadeFile, tensors: list[tuple[str, LockedTensor]], report: Report | None
) -> Iterator[Fault]:
    if made.header is None:
        if span_digest(descriptor, 0, made.bytes, report) != made.sha256:
            yield Fault(file, "is not what it was")
        return
    tensors = sorted(tensors, key=lambda item: item[1].range or (0, 0))
    for name, tensor in tensors:
        begin, end = tensor.range or (0, 0)
        if span_digest(descriptor, begin, end, report) != tensor.sha256:
            yield Fault(file, "is not what it was", name)
    header = os.pread(descriptor, made.header, 0)
    if weights_digest(header, [tensor.sha256 or "" for _, tensor in tensors]) != made.sha256:
        yield Fault(file, "its header is not what it was")
