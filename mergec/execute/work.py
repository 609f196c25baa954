"""Work: tensors handed out to workers by a bounded queue, each read and then evaluated and written, or surveyed."""

from __future__ import annotations

import ctypes
import hashlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergec.errors import RunError, path_text
from mergec.execute.ahead import expect, reading_order
from mergec.execute.compiled import Compiler
from mergec.execute.devices import Devices, computes
from mergec.execute.evaluate import evaluate, feed, one_torch_thread
from mergec.execute.loops import Program
from mergec.execute.statistics import Statistics
from mergec.graph import walk
from mergec.io.reader import Reader
from mergec.io.staging import Staging
from mergec.io.tensors import ITEM_BYTES
from mergec.ops.pool import Part, Values
from mergec.plan import Output, Plan

if TYPE_CHECKING:
    from torch import Tensor


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Progress:
    """What a run has done: sums over all workers since the last report. Times are seconds of worker time."""

    tensors: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0


Report = Callable[[Progress], None]
Finished = Callable[[Output, str], None]
"""(tensor, SHA-256): its bytes are in their place."""
Passed = Callable[[str, int], None]
"""(file, position): an input file was read about up to there."""


def work(
    plan: Plan,
    outputs: Sequence[Output],
    staging: Staging,
    *,
    devices: Devices,
    report: Report | None = None,
    finished: Finished,
    passed: Passed | None = None,
    statistics: Statistics | None = None,
    states: Mapping[int, Tensor] = MappingProxyType({}),
    compiler: Compiler | None = None,
) -> int:
    """Compute outputs into a staging folder on the plan's workers; returns the bytes read.

    `statistics` and `states` must have been found (`survey`, `find_states`) as far as the outputs need any.
    """

    def compute(crew: Crew, output: Output, reader: Reader, device: Any) -> None:
        if plan.kinds[output.kind].kind_class == "copy":
            digest = _copy(crew, staging, output, reader)
        else:
            known = statistics.known(output) if statistics else {}
            digest = _Writer(crew, output, reader, device, staging).run(known, states)
        finished(output, digest)
        if passed:
            for source in output.sources:
                passed(source.file, source.end)

    return _hand_out(plan, outputs, compute, devices, report, compiler)


def survey(
    plan: Plan,
    statistics: Statistics,
    outputs: Sequence[Output],
    *,
    devices: Devices,
    report: Report | None = None,
    found: Callable[[str, Values], None] | None = None,
) -> int:
    """Find the statistics that outputs need, sweeping over all tensors that feed them; returns the bytes read.

    What is already known is not found again; `found` is told what is.
    """
    read_bytes = 0
    for turn, members in statistics.sweeps(outputs, found):

        def one(crew: Crew, output: Output, reader: Reader, device: Any, turn: int = turn) -> None:
            with statistics.parts(output) as parts:
                _Loader(crew, output, reader, device).feed(turn, parts, statistics.known(output))

        read_bytes += _hand_out(plan, members, one, devices, report)
        _give_back_freed_memory()
    return read_bytes


def _hand_out(
    plan: Plan,
    outputs: Sequence[Output],
    job: Job,
    devices: Devices,
    report: Report | None,
    compiler: Compiler | None = None,
) -> int:
    """Do a job for every output on the plan's workers, each on one of the devices; returns the bytes read.

    A bounded queue hands out tensors in the order of the input files; the first failure stops all workers.
    """
    ordered = sorted(outputs, key=reading_order(plan))
    tasks: queue.Queue[Output | None] = queue.Queue(maxsize=2 * plan.memory.workers)
    crew = Crew(plan, report, job, compiler)
    with Reader((source.path, source.file_bytes) for source in plan.files) as reader, one_thread(plan):
        threads = [
            threading.Thread(target=crew.work, args=(tasks, reader, device), name=f"worker-{number}", daemon=True)
            for number, device in enumerate(islice(cycle(devices), min(plan.memory.workers, max(1, len(ordered)))))
        ]
        for thread in threads:
            thread.start()
        try:
            for task in [*ordered, *[None] * len(threads)]:
                if task and plan.kinds[task.kind].kind_class != "copy":  # which the kernel reads ahead for itself
                    expect(reader, task)
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


@contextmanager
def one_thread(plan: Plan) -> Iterator[None]:
    """One thread for each worker: torch's own would wait for each other at every tile, long on a busy machine."""
    if not computes(plan):
        yield
        return
    _hold_freed_memory()
    with one_torch_thread():
        yield


def _hold_freed_memory() -> None:
    """Ask glibc to use a freed tile's memory for the next one: returned to the system, each page is faulted in anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _give_back_freed_memory() -> None:
    """Ask glibc for it: what threads that have ended held is of no use to those that come."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


Job = Callable[["Crew", Output, Reader, Any], None]
"""(crew, tensor, open files, device): what is done for a tensor."""


def _is_finite(tile: Tensor) -> bool:
    """Whether no entry is infinite or NaN: both would show in the extremes, which are found much faster."""
    low, high = tile.aminmax()
    return math.isfinite(low) and math.isfinite(high)


@dataclass
class Crew:
    """What workers share: the plan, what each does for an output, the first error, and the sign to stop."""

    plan: Plan
    report: Report | None
    job: Job
    compiler: Compiler | None = None
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
                self.job(self, output, reader, device)
            except BaseException as error:  # whatever it is, the other workers must stop and the caller must know
                with self.lock:
                    self.error = self.error or error
                self.stop.set()

    def tell(self, progress: Progress) -> None:
        with self.lock:
            self.read_bytes += progress.read_bytes
            if self.report:
                self.report(progress)

    def check(self) -> None:
        if self.stop.is_set():
            raise RunError("E499", "stopped")


def _copy(crew: Crew, staging: Staging, output: Output, reader: Reader) -> str:
    """Copy a tensor's bytes; returns their SHA-256."""
    (source,) = output.sources
    size = output.end - output.begin
    start = time.perf_counter()
    staging.copy(output.shard, output.begin, reader.descriptor(source.file), source.begin, size)
    digest = staging.digest(output.shard, output.begin, output.end)
    crew.tell(Progress(1, size, size, write_seconds=time.perf_counter() - start))
    return digest


class _Loader:
    """The inputs of one output tensor on one worker: buffers for them, and the clock."""

    def __init__(self, crew: Crew, output: Output, reader: Reader, device: Any) -> None:
        self._crew, self._output, self._reader, self._device = crew, output, reader, device
        self._kind = crew.plan.kinds[output.kind]
        self._sources = dict(zip(self._kind.slots, output.sources, strict=True))
        self._buffers: dict[int, tuple[bytearray, Tensor]] = {}
        self._read_bytes, self._read, self._write = 0, 0.0, 0.0  # since the last report
        self._reported = time.perf_counter()

    def feed(self, round: int, parts: Mapping[int, Part], known: Mapping[int, Values]) -> None:
        """Show the tensor to parts of statistics."""
        feed(self._kind, round, self._crew.plan.nodes, parts=parts, known=known, load=self._load, **self._shape())
        self._report()

    def _shape(self) -> dict[str, Any]:
        return {"name": self._output.tensor, "tile": self._crew.plan.memory.tile, "device": self._device}

    def _report(self, tensors: int = 0, written_bytes: int = 0) -> None:
        now = time.perf_counter()
        compute = now - self._reported - self._read - self._write
        self._crew.tell(Progress(tensors, self._read_bytes, written_bytes, self._read, compute, self._write))
        self._read_bytes, self._read, self._write = 0, 0.0, 0.0
        self._reported = now

    def _load(self, slot: int, start: int, stop: int) -> Tensor:
        self._crew.check()
        begun = time.perf_counter()
        ref = self._sources[slot]
        item_bytes = ITEM_BYTES[ref.dtype]
        size = (stop - start) * item_bytes
        buffer, tensor = self._room(slot, ref.dtype, stop - start, size)
        self._reader.read(ref, start * item_bytes, memoryview(buffer)[:size])
        if self._device.type != "cpu":
            tensor = tensor.to(self._device)
        self._read += time.perf_counter() - begun
        self._read_bytes += size
        if slot == self._kind.slots[0]:
            self._report()
        return tensor

    def _room(self, slot: int, dtype: str, entries: int, size: int) -> tuple[bytearray, Tensor]:
        """A buffer for an input's entries, and these as a tensor, used again from tile to tile.

        Every call of torch's lets the other workers have the interpreter, and waits to have it back.
        """
        import torch

        buffer, tensor = self._buffers.get(slot) or (bytearray(), None)
        if tensor is None or tensor.numel() != entries:
            if len(buffer) < size:
                buffer = bytearray(size)
            tensor = torch.frombuffer(buffer, dtype=getattr(torch, dtype), count=entries)
            self._buffers[slot] = buffer, tensor
        return buffer, tensor


class _Writer(_Loader):
    """One output tensor on one worker, computed and written."""

    def __init__(self, crew: Crew, output: Output, reader: Reader, device: Any, staging: Staging) -> None:
        super().__init__(crew, output, reader, device)
        self._staging = staging
        self._sha256 = hashlib.sha256()

    def run(self, known: Mapping[int, Values], states: Mapping[int, Tensor]) -> str:
        """Compute and write the tensor; returns the SHA-256 of its bytes."""
        evaluate(
            self._kind,
            self._crew.plan.nodes,
            known=known,
            states={node: values.to(self._device) for node, values in states.items()},
            load=self._load,
            emit=self._emit,
            compiled=self._compiled,
            **self._shape(),
        )
        self._report(tensors=1)
        return self._sha256.hexdigest()

    def _compiled(self, number: int) -> Program | None:
        compiler = self._crew.compiler
        return compiler.program(self._output.kind, number) if compiler else None

    def _emit(self, start: int, tile: Tensor) -> None:
        import torch

        if not tile.numel():  # nothing of this tile was kept
            return
        result = tile.contiguous() if self._device.type == "cpu" else tile.cpu().contiguous()
        if not self._crew.plan.allow_nonfinite and not _is_finite(result):
            raise RunError("E413", self._nonfinite(start, tile), "--allow-nonfinite writes it all the same")
        begun = time.perf_counter()
        view = result.view(torch.uint8).numpy().data
        self._sha256.update(view)
        self._staging.write(self._output.shard, self._output.begin + start * tile.dtype.itemsize, view)
        self._write += time.perf_counter() - begun
        self._report(written_bytes=view.nbytes)

    def _nonfinite(self, start: int, tile: Tensor) -> str:
        """Which input brought the value in, or that it overflowed on the way."""
        import torch

        bad = [
            f"{ref.name} of {path_text(ref.file)}"
            for slot, ref in self._sources.items()
            if not all(bool(torch.isfinite(self._load(slot, *span)).all()) for span in self._spans(slot, start, tile))
        ]
        first = start + int((~torch.isfinite(tile)).nonzero()[0])
        cause = f"from {' and '.join(bad)}" if bad else f"the inputs are finite, so it overflowed {self._output.dtype}"
        return f"{self._output.name} is not finite at entry {first:,}: {cause}"

    def _spans(self, slot: int, start: int, tile: Tensor) -> list[tuple[int, int]]:
        """Where in an input to look for what made a tile of the result: the same entries, or all of them."""
        ref = self._sources[slot]
        loads = (node for node in walk(self._crew.plan.root(self._kind)) if node.op == "load")
        is_table = any(node.type.space == "table" and node.attr("slot") == slot for node in loads)
        if ref.numel == self._output.numel and not is_table:
            return [(start, start + tile.numel())]
        step = self._crew.plan.memory.tile
        return [(begin, min(begin + step, ref.numel)) for begin in range(0, ref.numel, step)]
