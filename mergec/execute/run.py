"""Run a plan: refuse what cannot work, compute on workers into the staging folder, publish by a rename."""

from __future__ import annotations

import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergec.errors import RunError, UsageError, count
from mergec.execute.evaluate import evaluate
from mergec.graph import Kind, Output, Plan
from mergec.io.reader import Reader
from mergec.io.staging import Journal, Staging, check_output, check_space, staging_folder
from mergec.io.tensors import ITEM_BYTES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """What a run has done: sums over all workers since the last report. Times are seconds of worker time."""

    tensors: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """What a run made: the folder, and how it went. `kept` counts tensors an interrupted run had finished."""

    folder: Path
    tensors: int
    kept: int
    read_bytes: int
    written_bytes: int
    seconds: float
    moved_aside: Path | None = None


Report = Callable[[Progress], None]
Finished = Callable[[str, "int | None"], None]
"""(name, CRC-32): a tensor's bytes are in their place; None where they were copied without being looked at."""


def run(
    plan: Plan, out: str | Path, *, device: str = "auto", force: bool = False, report: Report | None = None
) -> Result:
    """Run a plan and publish its result at `out`.

    Raises UsageError for an output that must not be written, RunError if the run fails. Interrupted at any point
    it leaves the output as it was, and a staging folder from which the next run of the same plan goes on.
    """
    out = Path(out)
    start = time.monotonic()
    check_output(out, [model.origin for model in plan.models], force)
    check_space(staging_folder(out).parent, plan.written_bytes - _staged_bytes(out))
    target = choose_device(device, plan)
    folder = staging_folder(out)
    with Journal(folder, _identity(plan)) as journal, Staging(folder, plan.shards) as staging:
        todo = _todo(plan.outputs, journal, staging)
        read_bytes = work(plan, todo, staging, device=target, report=report, finished=journal.record)
        moved = staging.publish(plan.side_files, out, plan.hash())
    kept = len(plan.outputs) - len(todo)
    seconds = time.monotonic() - start
    return Result(out, len(plan.outputs), kept, read_bytes, plan.written_bytes, seconds, moved)


def run_part(plan: Plan, names: Sequence[str], folder: str | Path, *, device: str = "auto") -> None:
    """Compute some of a plan's tensors into a shared staging folder, and publish nothing.

    Any number of processes may do so at once, each with its own names; `publish` then makes the model.
    """
    wanted = set(names)
    unknown = wanted - {output.name for output in plan.outputs}
    if unknown:
        raise UsageError("E405", f"the plan has no tensor {min(unknown)!r}")
    outputs = [output for output in plan.outputs if output.name in wanted]
    target = choose_device(device, plan)
    folder = Path(folder)
    with Journal(folder, _identity(plan), shared=True) as journal, Staging(folder, plan.shards) as staging:
        work(plan, _todo(outputs, journal, staging), staging, device=target, finished=journal.record)


def publish(plan: Plan, folder: str | Path, out: str | Path, *, force: bool = False) -> Path | None:
    """Publish a staging folder in which every tensor of the plan has been computed.

    Returns where a folder that was in the way has been moved to. Raises RunError (E414) if a tensor is missing or
    is not what was computed, UsageError for an output that must not be written.
    """
    folder, out = Path(folder), Path(out)
    check_output(out, [model.origin for model in plan.models], force)
    with Journal(folder, _identity(plan)) as journal, Staging(folder, plan.shards) as staging:
        missing = _todo(plan.outputs, journal, staging, copies=False)
        if missing:
            what = f"{count(len(missing), 'tensor')} of {len(plan.outputs):,} not computed yet, {missing[0].name} first"
            raise RunError("E414", f"{folder} is not complete: {what}", "compute the missing parts, then publish")
        return staging.publish(plan.side_files, out, plan.hash())


def _identity(plan: Plan) -> dict[str, Any]:
    """What the bytes in a staging folder depend on: the plan, its layout, and the state of its inputs."""
    sources = []
    for source in plan.files:
        stat = os.stat(source.path) if os.path.exists(source.path) else None
        sources.append([source.path, source.file_bytes, stat.st_mtime_ns if stat else 0, stat.st_ino if stat else 0])
    layout = [[output.name, output.shard, output.begin] for output in plan.outputs]
    return {"plan": plan.hash(), "layout": zlib.crc32(repr(layout).encode()), "sources": sources}


def _staged_bytes(out: Path) -> int:
    """Blocks an interrupted run already holds on the disk."""
    folder = staging_folder(out)
    parts = folder.glob("*.part") if folder.is_dir() else []
    return sum(part.stat().st_blocks * 512 for part in parts)


def _todo(outputs: Sequence[Output], journal: Journal, staging: Staging, copies: bool = True) -> list[Output]:
    """The tensors that are not in the staging folder, or not as they were recorded.

    What was copied has no checksum: it is copied again if `copies`, and taken for whole otherwise.
    """
    staging.prepare()
    return [output for output in outputs if not _is_done(output, journal.done, staging, copies)]


def _is_done(output: Output, done: Mapping[str, int | None], staging: Staging, copies: bool) -> bool:
    if output.name not in done:
        return False
    checksum = done[output.name]
    return not copies if checksum is None else staging.checksum(output.shard, output.begin, output.end) == checksum


def work(
    plan: Plan,
    outputs: Sequence[Output],
    staging: Staging,
    *,
    device: Any,
    report: Report | None = None,
    finished: Finished | None = None,
) -> int:
    """Compute outputs into a staging folder on the plan's workers; returns the bytes read.

    A bounded queue hands out tensors in the order of the input files; the first failure stops all workers.
    """
    ordered = sorted(outputs, key=lambda output: _reading_place(plan, output))
    tasks: queue.Queue[Output | None] = queue.Queue(maxsize=2 * plan.memory.workers)
    crew = _Crew(plan, staging, report, finished)
    with Reader((source.path, source.file_bytes) for source in plan.files) as reader, _torch_threads(plan):
        threads = [
            threading.Thread(target=crew.work, args=(tasks, reader, device), name=f"worker-{number}", daemon=True)
            for number in range(min(plan.memory.workers, max(1, len(ordered))))
        ]
        for thread in threads:
            thread.start()
        try:
            for task in [*ordered, *[None] * len(threads)]:
                crew.put(tasks, task)
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C above all: let the workers end their tile before the files are closed
            crew.stop.set()
            for thread in threads:
                thread.join()
            raise
    if crew.error is not None:
        raise crew.error
    return crew.read_bytes


def _reading_place(plan: Plan, output: Output) -> tuple[str, int]:
    first = output.sources[0]
    return first.file, first.begin


@contextmanager
def _torch_threads(plan: Plan) -> Iterator[None]:
    """One thread for each worker: torch's own would wait for each other at every tile, long on a busy machine."""
    if not _computes(plan):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _computes(plan: Plan) -> bool:
    """Whether anything is computed at all: a plan of copies runs without torch."""
    return any(kind.kind_class != "copy" for kind in plan.kinds)


def choose_device(wanted: str, plan: Plan) -> Any:
    """The torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; raises UsageError if it is not there (E503)."""
    if not _computes(plan):
        return "cpu"
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError("E503", f"no device '{wanted}' here", "use --device auto, or cpu") from None
    return device


@dataclass
class _Crew:
    """What workers share: the plan, where results go, the first error, and the sign to stop."""

    plan: Plan
    staging: Staging
    report: Report | None
    finished: Finished | None
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    read_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, tasks: queue.Queue[Output | None], task: Output | None) -> None:
        while not self.stop.is_set():
            try:
                return tasks.put(task, timeout=0.2)
            except queue.Full:
                continue

    def work(self, tasks: queue.Queue[Output | None], reader: Reader, device: Any) -> None:
        while not self.stop.is_set():
            try:
                output = tasks.get(timeout=0.2)
            except queue.Empty:
                continue
            if output is None:
                return
            try:
                self._one(output, reader, device)
            except BaseException as error:  # whatever it is, the other workers must stop and the caller must know
                with self.lock:
                    self.error = self.error or error
                self.stop.set()

    def _one(self, output: Output, reader: Reader, device: Any) -> None:
        kind = self.plan.kinds[output.kind]
        checksum = None
        if kind.kind_class == "copy":
            self._copy(output, reader)
        else:
            checksum = _Task(self, output, kind, reader, device).run()
        if self.finished:
            self.finished(output.name, checksum)

    def _copy(self, output: Output, reader: Reader) -> None:
        (source,) = output.sources
        size = output.end - output.begin
        start = time.perf_counter()
        self.staging.copy(output.shard, output.begin, reader.descriptor(source.file), source.begin, size)
        self.tell(Progress(1, size, size, write_seconds=time.perf_counter() - start))

    def tell(self, progress: Progress) -> None:
        with self.lock:
            self.read_bytes += progress.read_bytes
            if self.report:
                self.report(progress)

    def check(self) -> None:
        if self.stop.is_set():
            raise RunError("E499", "stopped")


class _Task:
    """One output tensor on one worker: buffers for its inputs and its result, and the clock."""

    def __init__(self, crew: _Crew, output: Output, kind: Kind, reader: Reader, device: Any) -> None:
        self._crew, self._output, self._kind, self._reader, self._device = crew, output, kind, reader, device
        self._sources = dict(zip(kind.slots, output.sources, strict=True))
        self._buffers: dict[int, bytearray] = {}
        self._result = bytearray()
        self._checksum = 0
        self._read_bytes = 0
        self._read = self._write = 0.0

    def run(self) -> int:
        """Compute and write the tensor; returns the CRC-32 of its bytes."""
        plan, output = self._crew.plan, self._output
        start = time.perf_counter()
        evaluate(
            self._kind,
            plan.nodes,
            name=output.name,
            entries=output.numel,
            tile=plan.memory.tile,
            load=self._load,
            emit=self._emit,
            device=self._device,
        )
        compute = time.perf_counter() - start - self._read - self._write
        size = output.end - output.begin
        self._crew.tell(Progress(1, self._read_bytes, size, self._read, compute, self._write))
        return self._checksum

    def _load(self, slot: int, start: int, stop: int) -> Tensor:
        import torch

        self._crew.check()
        begun = time.perf_counter()
        ref = self._sources[slot]
        item_bytes = ITEM_BYTES[ref.dtype]
        size = (stop - start) * item_bytes
        buffer = self._buffers.get(slot)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[slot] = bytearray(size)
        self._reader.read(ref, start * item_bytes, memoryview(buffer)[:size])
        tensor = torch.frombuffer(buffer, dtype=getattr(torch, ref.dtype), count=stop - start)
        on_device = tensor.to(self._device)
        self._read += time.perf_counter() - begun
        self._read_bytes += size
        return on_device

    def _emit(self, start: int, tile: Tensor) -> None:
        import torch

        item_bytes = tile.dtype.itemsize
        size = tile.numel() * item_bytes
        if len(self._result) < size:
            self._result = bytearray(size)
        result = torch.frombuffer(self._result, dtype=tile.dtype, count=tile.numel())
        result.copy_(tile)
        if not self._crew.plan.allow_nonfinite and not bool(torch.isfinite(result).all()):
            raise RunError("E413", self._nonfinite(start, tile), "--allow-nonfinite writes it all the same")
        begun = time.perf_counter()
        view = memoryview(self._result)[:size]
        self._checksum = zlib.crc32(view, self._checksum)
        self._crew.staging.write(self._output.shard, self._output.begin + start * item_bytes, view)
        self._write += time.perf_counter() - begun

    def _nonfinite(self, start: int, tile: Tensor) -> str:
        """Which input brought the value in, or that it overflowed on the way."""
        import torch

        stop = start + tile.numel()
        bad = [
            f"{ref.name} of {ref.file}"
            for slot, ref in self._sources.items()
            if not bool(torch.isfinite(self._load(slot, start, stop)).all())
        ]
        first = start + int((~torch.isfinite(tile)).nonzero()[0])
        cause = f"from {' and '.join(bad)}" if bad else f"the inputs are finite, so it overflowed {self._output.dtype}"
        return f"{self._output.name} is not finite at entry {first:,}: {cause}"
