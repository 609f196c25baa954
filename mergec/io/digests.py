"""SHA-256 of whole files: remembered from an earlier run, or computed right behind those who read them.

A digest is remembered by the file's path, size, times and inode, in a file of its own below the user's cache folder
(`MERGEC_CACHE`, else the system's). `FollowedFiles` hashes on a thread of its own what workers have just read, while
it is still in memory, and what they skipped at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mergec.errors import RunError
from mergec.io import hub
from mergec.io.replace import replace

BLOCK_BYTES = 1 << 20
_SETTLED_NS = 2 * 10**9  # a file written to later than this before it was hashed may change again unnoticed

Report = Callable[[int], None]
"""Takes the number of bytes hashed since the last call."""


def cache_folder() -> Path:
    """Where digests are remembered: `$MERGEC_CACHE`, else `mergec` in the user's cache folder."""
    chosen = os.environ.get("MERGEC_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergec"


def state_of(path: str | Path | int) -> list[int]:
    """What tells one content of a file from another without reading it: size, times, inode."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def state_id(path: str) -> str:
    """A word for the content a file has now, good on this machine; of a file on the hub its address."""
    if hub.is_hub_path(path):
        return path
    try:
        return f"state {state_of(path)}"
    except OSError as error:
        raise RunError("E410", f"cannot read {path}: {error.strerror}") from None


def remembered(path: str | Path) -> str | None:
    """The digest of a file that was hashed before and has not changed since."""
    try:
        state, digest = json.loads(_note(path).read_text())
        return str(digest) if state == state_of(path) else None
    except (OSError, ValueError, TypeError):
        return None


def remember(path: str | Path, state: list[int], digest: str, hashed_ns: int | None = None) -> None:
    """Keep a digest for later, unless the file was written to so lately that its times may not show another change."""
    hashed_ns = time.time_ns() if hashed_ns is None else hashed_ns
    if hashed_ns - max(state[1], state[2]) < _SETTLED_NS:
        return
    note = _note(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        note.parent.mkdir(parents=True, exist_ok=True)
        replace(note, json.dumps([state, digest]).encode())


def _note(path: str | Path) -> Path:
    name = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "digests" / name


def file_digest(path: str, report: Report | None = None, verify: bool = False) -> str:
    """The SHA-256 of a file, remembered or, with `verify` in any case, computed; one on the hub is fetched.

    Raises RunError if it cannot be read (E410) or changes meanwhile (E411).
    """
    local = hub.fetch(path)
    known = None if verify else remembered(local)
    if known:
        return known
    with FollowedFiles([path], report) as files:
        return files.finish()[path]


class _Followed:
    """A file on its way: how far it is hashed, how far it may be."""

    def __init__(self, path: str) -> None:
        self.path, self.local = path, hub.fetch(path)
        self.descriptor = os.open(self.local, os.O_RDONLY)
        self.state, self.begun_ns = state_of(self.descriptor), time.time_ns()
        self.size, self.position, self.limit = self.state[0], 0, 0
        self.sha256 = hashlib.sha256()

    def advance(self, buffer: bytearray) -> int:
        want = min(len(buffer), self.limit - self.position)
        got = os.preadv(self.descriptor, [memoryview(buffer)[:want]], self.position)
        if got == 0:
            raise RunError("E411", f"{self.path} became shorter", "it was changed during the run")
        self.sha256.update(memoryview(buffer)[:got])
        self.position += got
        return got

    def done(self) -> str:
        """The digest; remembered at once, so that it is there for the next run if this one is cut off."""
        if state_of(self.descriptor) != self.state or state_of(self.local) != self.state:
            raise RunError("E411", f"{self.path} was changed during the run", "run it again")
        digest = self.sha256.hexdigest()
        remember(self.local, self.state, digest, self.begun_ns)
        return digest


class FollowedFiles:
    """Hashes files on a thread, each up to where somebody has `passed`, and to their ends on `finish`."""

    def __init__(self, paths: Iterable[str], report: Report | None = None) -> None:
        self._report = report
        self._paths = list(paths)
        self._files: dict[str, _Followed] = {}
        self._digests: dict[str, str] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="digests", daemon=True)

    def __enter__(self) -> FollowedFiles:
        try:
            for path in self._paths:
                self._files[path] = _Followed(path)
        except OSError as error:
            raise RunError("E410", f"cannot read {error.filename}: {error.strerror}") from None
        finally:
            if len(self._files) < len(set(self._paths)):
                self._close()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            os.close(file.descriptor)

    def passed(self, path: str, position: int) -> None:
        """Somebody has read the file about up to `position`: it is in memory, and now is the time to hash it."""
        file = self._files.get(path)
        if file is not None and position > file.limit:
            with self._changed:
                file.limit = min(max(position, file.limit), file.size)
                self._changed.notify()

    def finish(self) -> Mapping[str, str]:
        """Hash what is left and return all digests by path. Raises RunError if a file cannot be read or changed."""
        with self._changed:
            for file in self._files.values():
                file.limit = file.size
            self._stopped = not self._files
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digests

    def _work(self) -> None:
        buffer = bytearray(BLOCK_BYTES)
        try:
            while file := self._next():
                if file.position < file.size:
                    got = file.advance(buffer)
                    if self._report:
                        self._report(got)
                if file.position == file.size:
                    self._digests[file.path] = file.done()
        except OSError as error:
            self._error = RunError("E410", f"cannot read {file.path if file else 'a file'}: {error.strerror}")
        except RunError as error:
            self._error = error

    def _next(self) -> _Followed | None:
        """A file that can be hashed further; waits for one. None when all are done, or on a stop."""
        with self._changed:
            while not self._stopped and len(self._digests) < len(self._files):
                for file in self._files.values():
                    if file.position < file.limit or (file.limit == file.size and file.path not in self._digests):
                        return file
                self._changed.wait()
        return None
