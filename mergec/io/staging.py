"""Staging: a hidden folder in which the result grows; journals of what is done; one rename that publishes it.

Nothing in it looks like a model until it is whole: weights are called `*.part` until the last moment.
An interrupted run leaves the folder and its journals, and the next run of the same plan goes on from there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mergec.errors import InputError, RunError, UsageError, path_text, size_text
from mergec.io import hub
from mergec.io.download import cache_folder
from mergec.io.journal import is_record
from mergec.io.layout import Shard, SideFile
from mergec.io.lockfile import LOCK_NAME, LockFile, MadeFile, read_lock
from mergec.io.spans import span_digest
from mergec.io.tensors import MAX_HEADER_BYTES

_COPY_BYTES = 8 << 20
_PAGE_BYTES = 4096


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
            what = f"the output {out} is the folder of an input, or inside it or around it: {path_text(source)}"
            raise UsageError("E400", what, "choose another output folder")
    nearest = next(path for path in (place, *place.parents) if path.exists())
    if not nearest.is_dir():
        blocked = "is a file" if nearest == place else f"lies in {nearest.name}, which is a file"
        raise UsageError("E401", f"the output {out} {blocked}", "choose another output folder")
    if not force and place.is_dir() and any(place.iterdir()) and not made_here(place):
        what = f"the output {out} is not empty and was not made by mergec"
        raise UsageError("E401", what, f"choose another folder, or --force to move it aside to {aside(out).name}")


def check_space(folder: Path, needed_bytes: int, fetched_bytes: int = 0) -> None:
    """Refuse to start when a disk cannot hold the result, or what is fetched from the hub before it (E402)."""
    folder = _nearest(folder)
    if fetched_bytes:
        cache = _nearest(cache_folder())
        if cache.stat().st_dev == folder.stat().st_dev:
            what = f"the result takes {size_text(needed_bytes)}, and the files to be fetched"
            hint = "make room; the output folder and the hub's cache (HF_HOME) may be on different disks"
            _require(folder, needed_bytes + fetched_bytes, f"{what} {size_text(fetched_bytes)}", hint)
            return
        what = f"the files to be fetched take {size_text(fetched_bytes)}"
        _require(cache, fetched_bytes, what, "make room, or set HF_HOME to a folder on another disk")
    what = f"the result takes {size_text(needed_bytes)}"
    _require(folder, needed_bytes, what, "make room, or choose an output folder on another disk")


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _require(folder: Path, needed_bytes: int, what: str, hint: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UsageError("E402", f"{what}, {folder} has {size_text(free)} free", hint)


def aside(out: Path) -> Path:
    """The first free name to which a folder that mergec did not make is moved: `OUT.old`, `OUT.old-2`."""
    number, moved = 1, out.with_name(f"{out.name}.old")
    while moved.exists():
        number += 1
        moved = out.with_name(f"{out.name}.old-{number}")
    return moved


class Staging:
    """The files a run writes, at their planned offsets; used by any number of threads and processes at once.

    A part is named after the file it will be and its header, so parts of another layout stay what they are until
    `discard_others`.
    """

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        self.folder = folder
        self._shards = shards
        self._descriptors: dict[int, int] = {}
        self._unsynced: set[int] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def part(self, number: int) -> Path:
        shard = self._shards[number]
        return self.folder / _part_name(shard.file, shard.header)

    def prepare(self) -> None:
        """Make every output file at its full size, its header written. Harmless if done before."""
        for number in range(len(self._shards)):
            self.part(number).parent.mkdir(parents=True, exist_ok=True)
        self._tidy()
        for number, shard in enumerate(self._shards):
            descriptor = self._descriptor(number)
            _reserve(descriptor, shard.file_bytes)
            self.write(number, 0, memoryview(shard.header))

    def _tidy(self) -> None:
        """Undo a publication that was cut off: files with a final name become parts again, others go."""
        for entry in _files(self.folder):
            if entry.suffix == ".safetensors":
                os.replace(entry, entry.with_name(_part_name(entry.name, _header_of(entry))))
            elif entry.suffix != ".part" and not is_record(entry.name):
                entry.unlink(missing_ok=True)

    def discard_others(self) -> None:
        """Remove the parts of other layouts."""
        ours = {self.part(number) for number in range(len(self._shards))}
        for entry in _files(self.folder):
            if entry not in ours and not is_record(entry.name):
                entry.unlink(missing_ok=True)
        for entry in sorted(self.folder.rglob("*"), reverse=True):  # what a folder holds comes before it
            if entry.is_dir() and not any(entry.iterdir()):
                entry.rmdir()

    def held_bytes(self) -> int:
        """What the parts of this layout take on the disk already."""
        parts = (self.part(number) for number in range(len(self._shards)))
        return sum(part.stat().st_blocks * 512 for part in parts if part.exists())

    def _descriptor(self, number: int) -> int:
        with self._lock:
            if number not in self._descriptors:
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
                self._descriptors[number] = os.open(self.part(number), flags, 0o644)
            return self._descriptors[number]

    def write(self, shard: int, position: int, buffer: memoryview) -> None:
        """Put bytes at a position of an output file."""
        _write(self._descriptor(shard), buffer, position)
        self._written(shard)

    def _written(self, shard: int) -> None:
        with self._lock:
            self._unsynced.add(shard)

    def copy(self, shard: int, position: int, source: int, begin: int, size: int) -> None:
        """Copy bytes [begin, begin + size) of an open file, inside the kernel where it can.

        Between equal offsets whole pages are copied in one go each, so that a file system which can share blocks
        between files (XFS, Btrfs) does so.
        """
        target = self._descriptor(shard)
        with _disk_errors():
            while size:
                step = min(size, _COPY_BYTES - begin % _PAGE_BYTES)
                done = _copy_range(source, target, step, begin, position)
                if done == 0:
                    raise RunError("E411", "an input ended before its last tensor", "it was changed during the run")
                begin, position, size = begin + done, position + done, size - done
        self._written(shard)

    def digest(self, shard: int, begin: int, end: int) -> str:
        """The SHA-256 of bytes [begin, end) of an output file as they are on disk."""
        with _disk_errors():
            return span_digest(self._descriptor(shard), begin, end)

    def sync(self) -> None:
        """Put on the disk what was written so far."""
        with self._lock:
            numbers, self._unsynced = self._unsynced, set()
        with _disk_errors():
            for number in numbers:
                os.fsync(self._descriptor(number))

    def place(self, side_files: Iterable[SideFile]) -> dict[str, MadeFile]:
        """Put the small files beside the parts; returns what a lock says of them."""
        with _disk_errors():
            return {one.name: _place(one, self.folder / one.name) for one in side_files}

    def publish(self, lock: str, out: Path) -> Path | None:
        """Give the parts their names, write the lock, and rename the folder to `out`.

        Everything is on the disk before the rename. Returns where a foreign folder was moved to, if any.
        """
        with _disk_errors():
            self.sync()
            with open(self.folder / LOCK_NAME, "w", encoding="utf-8") as stream:
                stream.write(lock)
                stream.flush()
                os.fsync(stream.fileno())
            for number, shard in enumerate(self._shards):
                os.rename(self.part(number), self.folder / shard.file)
            for folder in {(self.folder / shard.file).parent for shard in self._shards} | {self.folder}:
                _sync_folder(folder)
            return _swap(self.folder, out.resolve())


def _files(folder: Path) -> list[Path]:
    return [entry for entry in folder.rglob("*") if not entry.is_dir()]


def _part_name(file: str, header: bytes) -> str:
    return f"{file}-{zlib.crc32(header):08x}.part"


def _header_of(path: Path) -> bytes:
    with open(path, "rb") as stream:
        first = stream.read(8)
        return first + stream.read(min(int.from_bytes(first, "little"), MAX_HEADER_BYTES))


def _place(side_file: SideFile, path: Path) -> MadeFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    if side_file.source is not None:
        shutil.copyfile(hub.fetch(side_file.source), path)
    else:
        path.write_text(side_file.text or "", encoding="utf-8")
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return made_file(path)


def made_file(path: Path) -> MadeFile:
    """What a lock says of a small file."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return MadeFile(bytes=size, sha256=span_digest(stream.fileno(), 0, size))


def side_file_digest(side_file: SideFile) -> MadeFile:
    """What a lock will say of a side file that is not written yet."""
    if side_file.source is not None:
        return made_file(Path(hub.fetch(side_file.source)))
    data = (side_file.text or "").encode()
    return MadeFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(staged: Path, out: Path) -> Path | None:
    """Rename a staged folder to its final name; what was there is carried over, moved aside or removed."""
    old = out.parent / f".{out.name}.mergec-old"
    if old.exists() and out.exists():  # an earlier publication was cut off after its second rename
        _carry_over(old, out)
    elif old.exists():  # after its first
        os.rename(old, out)
    moved = None
    if made_here(out):
        os.rename(out, old)
    elif out.exists() and any(out.iterdir()):
        moved = aside(out)
        os.rename(out, moved)
    elif out.exists():
        out.rmdir()
    os.rename(staged, out)
    _sync_folder(out.parent)
    if old.exists():
        _carry_over(old, out)
    for entry in list(out.iterdir()):
        if is_record(entry.name):
            entry.unlink()
    return moved


def made_here(out: Path) -> LockFile | None:
    """The lock of a folder that mergec made, None of any other."""
    try:
        lock = read_lock(out / LOCK_NAME)
    except InputError:
        return None
    return lock if lock.files is not None else None


def _carry_over(old: Path, new: Path) -> None:
    """Move what somebody put beside a model to its successor, and remove the rest."""
    lock = made_here(old)
    if lock is not None:  # gone when this was cut off while it removed the rest
        ours = {*(lock.files or {}), LOCK_NAME}
        folders = {parent.as_posix() for name in ours for parent in PurePosixPath(name).parents}
        for entry in list(old.rglob("*")):
            name = entry.relative_to(old).as_posix()
            is_ours = name in ours | folders or is_record(entry.name)
            if not is_ours and entry.exists() and not (new / name).exists():
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
