"""Journal: which tensors lie finished in a staging folder, so that an interrupted run can go on, and who is at work.

A line is written when the bytes it speaks of are on the disk: one thread gathers what is finished, syncs the data,
writes the lines, syncs them, and begins again. So a line never precedes its data, and workers never wait for a disk.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from mergec.errors import RunError, UsageError

_PREFIX = ".mergec-"  # of what is no part of a result
_LOCK_NAME = f"{_PREFIX}running"
_JOURNAL_STEM = f"{_PREFIX}journal-"


class Placed(NamedTuple):
    """Where the bytes of a tensor with a certain key lie in a staging folder, and the SHA-256 they had."""

    file: str
    begin: int
    end: int
    sha256: str


class Journal:
    """Finished tensors and numbers about the whole model by key, over any number of interruptions.

    Each process writes a journal of its own; `placed` and `statistics` are what all of them held when this one was
    opened, the last word counting, `statistics` also what was noted since. `numerics` says where the bytes were
    computed; journals of another place are passed over, unless it is None: then it becomes what the journals say. A run
    has the folder to itself; any number of processes that compute parts of one plan may be `shared` in it. `sync` puts
    on the disk what was written before it is called.
    """

    def __init__(
        self, folder: Path, numerics: Mapping[str, str] | None, sync: Callable[[], None], shared: bool = False
    ) -> None:
        self.numerics = numerics
        self.placed: dict[str, Placed] = {}
        self.statistics: dict[str, tuple[float, ...]] = {}
        self._folder, self._sync, self._shared = folder, sync, shared
        self._streams: list[IO[str]] = []
        self._pending: list[str] = []
        self._changed = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)

    def __enter__(self) -> Journal:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._streams.append(_occupy(self._folder / _LOCK_NAME, self._shared))
        for path in _journals(self._folder):
            head, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
            numerics = _mapping(head)
            self.numerics = numerics if self.numerics is None else self.numerics
            if numerics == self.numerics:
                self.placed |= dict(entry for line in lines if (entry := _entry(line)))
                self.statistics |= dict(found for line in lines if (found := _statistic(line)))
        self._streams.append(_new_journal(self._folder))
        self._pending.append(json.dumps(self.numerics))
        self._writer.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        for stream in self._streams:
            stream.close()
        if self._error is not None and error is None:
            raise self._error

    def record(self, key: str, placed: Placed) -> None:
        """Note that a tensor's bytes are all in their place."""
        self._note(json.dumps([key, *placed]))

    def record_statistic(self, key: str, values: tuple[float, ...]) -> None:
        """Note numbers about the whole model; they read back with the same bits."""
        self.statistics[key] = values
        self._note(json.dumps({"statistic": key, "values": values}))

    def _note(self, line: str) -> None:
        with self._changed:
            if self._error is not None:
                raise self._error
            self._pending.append(line)
            self._changed.notify()

    def _write(self) -> None:
        try:
            while lines := self._next():
                self._sync()
                stream = self._streams[-1]
                stream.write("".join(f"{line}\n" for line in lines))
                stream.flush()
                os.fsync(stream.fileno())
        except (OSError, RunError) as error:
            with self._changed:
                self._error = error if isinstance(error, RunError) else _unwritten(error)

    def _next(self) -> list[str]:
        """The lines to be written next; waits for some. None are left on closing."""
        with self._changed:
            while not self._pending and not self._closing:
                self._changed.wait()
            lines, self._pending = self._pending, []
            return lines


def is_record(name: str) -> bool:
    """Whether a file of a staging folder is about the run, and no part of its result."""
    return name.startswith(_PREFIX)


def _unwritten(error: OSError) -> RunError:
    return RunError("E412", f"cannot write the journal: {error.strerror or error}", "is the disk full?")


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


def _mapping(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _entry(line: str) -> tuple[str, Placed] | None:
    try:
        key, file, begin, end, sha256 = json.loads(line)
    except (ValueError, TypeError):
        return None
    is_sound = all(isinstance(text, str) for text in (key, file, sha256)) and ".." not in Path(str(file)).parts
    return (key, Placed(file, begin, end, sha256)) if is_sound and type(begin) is type(end) is int else None


def _statistic(line: str) -> tuple[str, tuple[float, ...]] | None:
    found = _mapping(line)
    key, values = found.get("statistic"), found.get("values")
    if not isinstance(key, str) or not isinstance(values, list):
        return None
    return (key, tuple(values)) if all(isinstance(value, float) for value in values) else None


def _occupy(path: Path, shared: bool) -> IO[str]:
    """Open the file that says who is at work in a folder, or raise UsageError (E404) with the process that is."""
    stream = open(path, "a+", encoding="utf-8")
    stream.seek(0)
    holder = stream.readline().strip()
    try:
        taken = not _locks(stream, shared)
    except OSError:  # a file system without locks: go by the process that is written there
        taken = not shared and _is_alive(holder)
    if taken:
        stream.close()
        who = f"process {holder}" if holder else "another process"
        raise UsageError("E404", f"{who} is writing to the same output", "wait for it, or stop it")
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def _locks(stream: IO[str], shared: bool) -> bool:
    """Whether the file could be locked, until it is closed or the process ends; raises OSError if it has no locks."""
    import fcntl

    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(holder: str) -> bool:
    """Whether the process of that number runs; ours, left by an earlier one of the same number, does not count."""
    if not holder.isdecimal() or int(holder) == os.getpid():
        return False
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
