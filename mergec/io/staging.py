"""Staging: a hidden folder in which the result grows; journals of what is done; one rename that publishes it.

Nothing in it looks like a model until it is whole: weights are called `*.part` until the last moment.
An interrupted run leaves the folder and its journals, and the next run of the same plan goes on from there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mergec.errors import RunError, UsageError, size_text
from mergec.io import hub
from mergec.io.journal import is_record
from mergec.io.layout import Shard, SideFile

MANIFEST_NAME = ".mergec.json"
_COPY_BYTES = 8 << 20


def staging_folder(out: Path) -> Path:
    """Where a run into `out` works: beside it, hidden, so that publishing is a rename."""
    out = out.resolve()
    return out.parent / f".{out.name}.mergec"


def check_output(out: Path, sources: Iterable[str], force: bool) -> None:
    """Refuse an output folder that is a source, holds one, or was not made by mergec (E400, E401)."""
    place = out.resolve()
    for source in sources:
        if hub.is_hub_path(source):
            continue
        folder = Path(source).resolve()
        if place == folder or place in folder.parents or folder in place.parents:
            what = f"the output {out} is the folder of an input, or inside it or around it: {source}"
            raise UsageError("E400", what, "choose another output folder")
    nearest = next(path for path in (place, *place.parents) if path.exists())
    if not nearest.is_dir():
        blocked = "is a file" if nearest == place else f"lies in {nearest.name}, which is a file"
        raise UsageError("E401", f"the output {out} {blocked}", "choose another output folder")
    made_here = (place / MANIFEST_NAME).is_file()
    if not force and not made_here and place.is_dir() and any(place.iterdir()):
        what = f"the output {out} is not empty and was not made by mergec"
        raise UsageError("E401", what, f"choose another folder, or --force to move it aside to {aside(out).name}")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start when the disk cannot hold the result (E402)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        what = f"the result takes {size_text(needed_bytes)}, {folder} has {size_text(free)} free"
        raise UsageError("E402", what, "make room, or choose an output folder on another disk")


def aside(out: Path) -> Path:
    """The first free name to which a folder that mergec did not make is moved: `OUT.old`, `OUT.old-2`."""
    number, moved = 1, out.with_name(f"{out.name}.old")
    while moved.exists():
        number += 1
        moved = out.with_name(f"{out.name}.old-{number}")
    return moved


class Staging:
    """The files a run writes, at their planned offsets; used by any number of threads and processes at once."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        self.folder = folder
        self._shards = shards
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def part(self, number: int) -> Path:
        return self.folder / f"{self._shards[number].file}.part"

    def prepare(self) -> None:
        """Make every output file at its full size, its header written. Harmless if done before."""
        for number in range(len(self._shards)):
            self.part(number).parent.mkdir(parents=True, exist_ok=True)
        self._tidy()
        for number, shard in enumerate(self._shards):
            descriptor = self._descriptor(number)
            _reserve(descriptor, shard.file_bytes)
            _write(descriptor, memoryview(shard.header), 0)

    def _tidy(self) -> None:
        """Undo a publication that was cut off, and remove what a run of another plan left."""
        for number, shard in enumerate(self._shards):
            if (self.folder / shard.file).exists():
                os.replace(self.folder / shard.file, self.part(number))
        ours = {self.part(number) for number in range(len(self._shards))}
        ours |= {parent for part in ours for parent in part.parents}
        for entry in sorted(self.folder.rglob("*"), reverse=True):  # what a folder holds comes before it
            if entry not in ours and not is_record(entry.name):
                entry.rmdir() if entry.is_dir() else entry.unlink(missing_ok=True)

    def _descriptor(self, number: int) -> int:
        with self._lock:
            if number not in self._descriptors:
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
                self._descriptors[number] = os.open(self.part(number), flags, 0o644)
            return self._descriptors[number]

    def write(self, shard: int, position: int, buffer: memoryview) -> None:
        """Put bytes at a position of an output file."""
        _write(self._descriptor(shard), buffer, position)

    def copy(self, shard: int, position: int, source: int, begin: int, size: int) -> None:
        """Copy bytes [begin, begin + size) of an open file, inside the kernel where it can."""
        target = self._descriptor(shard)
        with _disk_errors():
            while size:
                done = _copy_range(source, target, min(size, _COPY_BYTES), begin, position)
                if done == 0:
                    raise RunError("E411", "an input ended before its last tensor", "it was changed during the run")
                begin, position, size = begin + done, position + done, size - done

    def checksum(self, shard: int, begin: int, end: int) -> int:
        """The CRC-32 of bytes [begin, end) of an output file as they are on disk."""
        crc = 0
        while begin < end:
            block = os.pread(self._descriptor(shard), min(_COPY_BYTES, end - begin), begin)
            if not block:
                break
            crc, begin = zlib.crc32(block, crc), begin + len(block)
        return crc

    def publish(self, side_files: Iterable[SideFile], out: Path, plan_hash: str) -> Path | None:
        """Finish the files and rename the folder to `out`; returns where a foreign folder was moved to, if any."""
        with _disk_errors():
            names = [shard.file for shard in self._shards]
            for number in range(len(names)):
                os.fsync(self._descriptor(number))
            for side_file in side_files:
                _place(side_file, self.folder / side_file.name)
                names.append(side_file.name)
            manifest = {"plan": plan_hash, "files": sorted(names)}
            (self.folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")
            for number, shard in enumerate(self._shards):
                os.rename(self.part(number), self.folder / shard.file)
            for entry in list(self.folder.iterdir()):
                if is_record(entry.name):
                    entry.unlink()
            return _swap(self.folder, out.resolve())


def _place(side_file: SideFile, path: Path) -> None:
    if side_file.source is not None:
        shutil.copyfile(hub.fetch(side_file.source), path)
    else:
        path.write_text(side_file.text or "", encoding="utf-8")


def _swap(staged: Path, out: Path) -> Path | None:
    """Rename a staged folder to its final name; what was there is carried over, moved aside or removed."""
    old = out.parent / f".{out.name}.mergec-old"
    if old.exists() and out.exists():  # an earlier publication was cut off after its second rename
        _carry_over(old, out)
    elif old.exists():  # after its first
        os.rename(old, out)
    moved = None
    if out.exists() and (out / MANIFEST_NAME).is_file():
        os.rename(out, old)
    elif out.exists() and any(out.iterdir()):
        moved = aside(out)
        os.rename(out, moved)
    elif out.exists():
        out.rmdir()
    os.rename(staged, out)
    if old.exists():
        _carry_over(old, out)
    return moved


def _carry_over(old: Path, new: Path) -> None:
    """Move what somebody put beside a model to its successor, and remove the rest."""
    manifest = old / MANIFEST_NAME
    if manifest.is_file():  # gone when this was cut off while it removed the rest
        ours = {*json.loads(manifest.read_text())["files"], MANIFEST_NAME}
        folders = {parent.as_posix() for name in ours for parent in PurePosixPath(name).parents}
        for entry in list(old.rglob("*")):
            name = entry.relative_to(old).as_posix()
            if name not in ours | folders and entry.exists() and not (new / name).exists():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(entry, new / name)
    shutil.rmtree(old)


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its full size, and its blocks where the file system can, so that a full disk shows at once."""
    if os.fstat(descriptor).st_size == size:
        return
    with _disk_errors():
        if hasattr(os, "posix_fallocate") and size:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
        os.ftruncate(descriptor, size)


def _write(descriptor: int, buffer: memoryview, position: int) -> None:
    with _disk_errors():
        while buffer:
            done = os.pwrite(descriptor, buffer, position)
            buffer, position = buffer[done:], position + done


def _copy_range(source: int, target: int, size: int, begin: int, position: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, size, begin, position)
        except OSError:
            pass  # another file system, or a kernel that cannot: read and write instead
    block = memoryview(os.pread(source, size, begin))
    _write(target, block, position)
    return len(block)


class _disk_errors:  # noqa: N801 - reads as a statement
    """Turn an OSError of a write into a RunError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise RunError("E412", f"cannot write the result: {error.strerror or error}", "is the disk full?") from None
