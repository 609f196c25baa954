"""Journal: what is done in a staging folder, so that an interrupted run can go on, and who is at work in it."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mergec.errors import UsageError

_LOCK_NAME = "lock"
_JOURNAL_STEM = "journal-"


class Journal:
    """What is done in a staging folder: a JSON line per finished tensor, with the CRC-32 of its bytes.

    Each process writes a journal of its own; `done` is what all of them held when this one was opened, the last
    word counting. `identity` says what the lines are about: journals with another one are removed. A run has the
    folder to itself; any number of processes that compute parts of one plan may be `shared` in it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], shared: bool = False) -> None:
        self._folder, self._shared = folder, shared
        self._identity = json.dumps(identity, sort_keys=True)
        self._streams: list[IO[str]] = []
        self._lock = threading.Lock()
        self.done: dict[str, int | None] = {}

    def __enter__(self) -> Journal:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = open(self._folder / _LOCK_NAME, "a+", encoding="utf-8")
        self._streams.append(lock)
        _lock_file(lock, self._shared)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        for path in _journals(self._folder):
            identity, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
            if identity == self._identity:
                self.done |= dict(entry for line in lines if (entry := _entry(line)))
            elif identity:
                path.unlink()
        self._streams.append(_new_journal(self._folder))
        self._write(self._identity)
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in self._streams:
            stream.close()

    def record(self, name: str, checksum: int | None) -> None:
        """Note that a tensor's bytes are all in their place; None stands for bytes that were copied unseen."""
        self._write(json.dumps([name, checksum]))

    def _write(self, line: str) -> None:
        with self._lock:
            self._streams[-1].write(f"{line}\n")
            self._streams[-1].flush()


def is_record(name: str) -> bool:
    return name == _LOCK_NAME or name.startswith(_JOURNAL_STEM)


def _journals(folder: Path) -> list[Path]:
    """The journals in a folder, oldest first."""
    return sorted(folder.glob(f"{_JOURNAL_STEM}*"), key=_number)


def _number(journal: Path) -> int:
    return int(journal.name.removeprefix(_JOURNAL_STEM))


def _new_journal(folder: Path) -> IO[str]:
    last = max(map(_number, _journals(folder)), default=0)
    for number in itertools.count(last + 1):
        try:
            return open(folder / f"{_JOURNAL_STEM}{number}", "x", encoding="utf-8")
        except FileExistsError:  # another process took the number
            continue
    raise AssertionError


def _entry(line: str) -> tuple[str, int | None] | None:
    try:
        name, checksum = json.loads(line)
    except ValueError:
        return None
    return name, checksum


def _lock_file(stream: IO[str], shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: runs are not kept apart there
        return
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        pid = stream.readline().strip()
        raise UsageError("E404", f"process {pid} is writing to the same output", "wait for it, or stop it") from None
    except OSError:  # a file system without locks
        return
