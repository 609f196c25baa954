"""Reuse: tensors whose bytes lie finished already, in a staging folder or in an earlier output, and are still sound."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mergec.errors import RunError
from mergec.execute.crew import Progress, Report
from mergec.execute.work import Finished
from mergec.io.journal import Placed
from mergec.io.lockfile import LockFile
from mergec.io.staging import Staging
from mergec.plan import Output, Plan


@dataclass(frozen=True)
class Found:
    """Where the bytes of a tensor lie, and the SHA-256 they had when they were written."""

    path: Path
    begin: int
    sha256: str


@dataclass(frozen=True)
class Decision:
    """What a run does with each tensor, by name.

    `kept` was finished by an interrupted run, `reused` lies in the output of an earlier one. The rest is computed;
    where there is an earlier output, `computed` names it by the reason.
    """

    computed: Mapping[str, tuple[str, ...]]
    kept: tuple[str, ...]
    reused: tuple[str, ...]


def staged(placed: Mapping[str, Placed], folder: Path, keys: Mapping[str, str]) -> dict[str, Found]:
    """The tensors, by name, that an interrupted run has finished; `keys` are those under which they were recorded."""
    return {
        name: Found(folder / found.file, found.begin, found.sha256)
        for name, key in keys.items()
        if (found := placed.get(key)) is not None
    }


def published(lock: LockFile, folder: Path, keys: Mapping[str, str]) -> dict[str, Found]:
    """The tensors, by name, that an output holds; `keys` are their action keys."""
    held = {
        tensor.action: Found(folder / tensor.file, tensor.range[0], tensor.sha256)
        for tensor in lock.made.tensors.values()
        if tensor.file and tensor.range and tensor.sha256
    }
    return {name: held[key] for name, key in keys.items() if key in held}


def take_over(
    plan: Plan,
    found: Mapping[str, Found],
    staging: Staging,
    *,
    finished: Finished,
    report: Report | None = None,
) -> set[str]:
    """Copy tensors to their places, or leave them where they lie there, and keep those whose bytes are as they were.

    Returns their names. Several threads read, copy and hash.
    """
    files = _Files()
    sound: set[str] = set()

    def one(output: Output) -> None:
        begun, where, size = time.perf_counter(), found[output.name], output.end - output.begin
        is_in_place = (where.path, where.begin) == (staging.part(output.shard), output.begin)
        if not is_in_place:
            try:
                staging.copy(output.shard, output.begin, files.descriptor(where.path), where.begin, size)
            except (OSError, RunError) as error:
                if isinstance(error, RunError) and error.code != "E411":
                    raise
                return  # it is not there any more, or was cut short: it is computed instead
        if staging.digest(output.shard, output.begin, output.end) != where.sha256:
            return
        finished(output, where.sha256)
        sound.add(output.name)
        if report:
            with files.lock:
                report(Progress(1, size, size, write_seconds=time.perf_counter() - begun))

    outputs = [output for output in plan.outputs if output.name in found]
    _in_parallel(one, outputs, plan.memory.workers)
    files.close()
    return sound


def _in_parallel(one: object, outputs: Sequence[Output], workers: int) -> None:
    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(one, outputs):  # type: ignore[arg-type]
            pass
    finally:
        pool.shutdown(cancel_futures=True)


class _Files:
    """Files that are read from, opened once each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}

    def descriptor(self, path: Path) -> int:
        with self.lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY)
            return self._descriptors[path]

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
