"""Crew: workers that are handed tensors by a bounded queue; who has none left helps with the tiles of the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from mergec.errors import RunError
from mergec.execute.ahead import expect, reading_order
from mergec.execute.devices import Devices, out_of_memory
from mergec.execute.process import one_thread
from mergec.io.reader import Reader
from mergec.plan import Output, Plan


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


@dataclass(eq=False)
class Offer:
    """Work on a tensor that workers of the same device may join: each calls `join`, which returns when none is left."""

    join: Callable[[], None]
    device: Any
    helpers: int = 0
    is_open: bool = True


@dataclass
class Crew:
    """What workers share: the plan, what each does for an output, the first error, and the sign to stop."""

    plan: Plan
    report: Report | None
    job: Job
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    read_bytes: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _offers: list[Offer] = field(default_factory=list)
    _busy: int = 0  # workers that may still make an offer

    def run(self, outputs: Sequence[Output], reader: Reader, devices: Sequence[Any]) -> None:
        """Do the job for every output, with a worker for each device given; the first failure stops all."""
        tasks: queue.Queue[Output | None] = queue.Queue(maxsize=2 * len(devices))
        self._busy = len(devices)
        threads = [
            threading.Thread(target=self._work, args=(tasks, reader, device), name=f"worker-{number}", daemon=True)
            for number, device in enumerate(devices)
        ]
        for thread in threads:
            thread.start()
        try:
            for task in [*outputs, *[None] * len(threads)]:
                if task and self.plan.kinds[task.kind].kind_class != "copy":  # which the kernel reads ahead for itself
                    expect(reader, task)
                self._put(tasks, task)
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C above all: let the workers end their tile before the files are closed
            self.stop.set()
            for thread in threads:
                thread.join()
            raise

    def _put(self, tasks: queue.Queue[Output | None], task: Output | None) -> None:
        while not self.stop.is_set():
            try:
                return tasks.put(task, timeout=0.2)
            except queue.Full:
                continue

    def _next(self, tasks: queue.Queue[Output | None]) -> Output | None:
        while not self.stop.is_set():
            try:
                return tasks.get(timeout=0.2)
            except queue.Empty:
                continue
        return None

    def _work(self, tasks: queue.Queue[Output | None], reader: Reader, device: Any) -> None:
        try:
            self._do(tasks, reader, device)
            self._help(device)
        except BaseException as error:  # whatever it is, the other workers must stop and the caller must know
            with self._changed:
                self.error = self.error or error
            self.stop.set()

    def _do(self, tasks: queue.Queue[Output | None], reader: Reader, device: Any) -> None:
        """Do the job for tensors until there are no more."""
        try:
            while output := self._next(tasks):
                self.job(self, output, reader, device)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _help(self, device: Any) -> None:
        """Join what the others offer until nobody has a tensor."""
        while offer := self._joined(device):
            try:
                offer.join()
            finally:
                with self._changed:
                    offer.is_open = False
                    offer.helpers -= 1
                    self._changed.notify_all()

    @contextmanager
    def offered(self, offer: Offer) -> Iterator[None]:
        """Inside, workers that have no tensor may join; left when these are done."""
        with self._changed:
            self._offers.append(offer)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._offers.remove(offer)
                self._changed.wait_for(lambda: not offer.helpers)

    def _joined(self, device: Any) -> Offer | None:
        """The offer that needs a helper most, once there is any; None when there will be none."""

        def found() -> list[Offer]:
            return [offer for offer in self._offers if offer.is_open and offer.device == device]

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._busy)
            offer = min(found(), key=lambda offer: offer.helpers, default=None)
            if offer is not None:
                offer.helpers += 1
            return offer

    def tell(self, progress: Progress) -> None:
        with self._changed:
            self.read_bytes += progress.read_bytes
            if self.report:
                self.report(progress)

    def check(self) -> None:
        if self.stop.is_set():
            raise RunError("E499", "stopped")


Job = Callable[[Crew, Output, Reader, Any], None]
"""(crew, tensor, open files, device): what is done for a tensor."""


def hand_out(plan: Plan, outputs: Sequence[Output], job: Job, devices: Devices, report: Report | None) -> int:
    """Do a job for every output on the plan's workers, each on one of the devices; returns the bytes read.

    Tensors are handed out in the order of the input files.
    """
    crew = Crew(plan, report, job)
    with Reader((source.path, source.file_bytes) for source in plan.files) as reader, one_thread(plan):
        workers = list(islice(cycle(devices), plan.memory.workers if outputs else 0))
        crew.run(sorted(outputs, key=reading_order(plan)), reader, workers)
    if crew.error is not None:
        raise out_of_memory(crew.error, plan) or crew.error
    return crew.read_bytes
