"""Progress by bytes: a bar on a terminal, plain lines elsewhere, JSON lines or nothing on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from mergec.execute.crew import Progress, Report
from mergec.plan import Plan

_LINE_SECONDS = 5.0


@contextmanager
def show(plan: Plan, *, quiet: bool, as_json: bool) -> Iterator[Report | None]:
    """A report function for `run`, drawn as the options and the terminal say."""
    if quiet:
        yield None
    elif as_json:
        yield _Lines(plan, lambda totals: click.echo(json.dumps({"event": "progress", **totals.facts()}))).report
    elif sys.stderr.isatty():
        with _bar(plan) as report:
            yield report
    else:
        yield _Lines(plan, lambda totals: click.echo(totals.text(), err=True)).report


@contextmanager
def bytes_read(total: int | None = None) -> Iterator[Callable[[int], None] | None]:
    """A function that takes the sizes of blocks that were read; on a terminal it draws how many there were."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = [BarColumn(bar_width=10), DownloadColumn(), TransferSpeedColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)


class _Totals:
    """Sums of what was reported, with rates and the time that is left."""

    def __init__(self, plan: Plan) -> None:
        self.all_bytes = sum(output.end - output.begin for output in plan.outputs)
        self.all_tensors = len(plan.outputs)
        self.begun = time.monotonic()
        self.tensors = self.read_bytes = self.written_bytes = 0
        self.read = self.compute = self.write = 0.0

    def add(self, progress: Progress) -> None:
        self.tensors += progress.tensors
        self.read_bytes += progress.read_bytes
        self.written_bytes += progress.written_bytes
        self.read += progress.read_seconds
        self.compute += progress.compute_seconds
        self.write += progress.write_seconds

    @property
    def left_seconds(self) -> float:
        share = self.written_bytes / self.all_bytes if self.all_bytes else 1.0
        return (time.monotonic() - self.begun) * (1 - share) / share if share else 0.0

    def facts(self) -> dict[str, Any]:
        return {
            "tensors": self.tensors,
            "of_tensors": self.all_tensors,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "of_bytes": self.all_bytes,
            "left_seconds": round(self.left_seconds, 1),
        }

    def rates(self) -> str:
        """Gigabytes per second of worker time spent on each: the smallest is the bottleneck."""
        read, compute = _rate(self.read_bytes, self.read), _rate(self.read_bytes, self.compute)
        return f"read {read}, compute {compute}, write {_rate(self.written_bytes, self.write)} GB/s"

    def text(self) -> str:
        share = 100 * self.written_bytes / self.all_bytes if self.all_bytes else 100
        done = f"{share:3.0f} %  {self.tensors} of {self.all_tensors} tensors"
        return f"{done}, {self.rates()}, {self.left_seconds:.0f} s left"


def _rate(size: float, seconds: float) -> str:
    return f"{size / seconds / 1e9:.2f}" if seconds > 1e-4 else "-"


class _Lines:
    """A line now and then."""

    def __init__(self, plan: Plan, say: Callable[[_Totals], None]) -> None:
        self._totals = _Totals(plan)
        self._say = say
        self._said = time.monotonic()

    def report(self, progress: Progress) -> None:
        self._totals.add(progress)
        done = self._totals.tensors == self._totals.all_tensors
        if done or time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            self._say(self._totals)


@contextmanager
def _bar(plan: Plan) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    totals = _Totals(plan)
    columns = [BarColumn(bar_width=10), DownloadColumn(), TextColumn("{task.description}"), TimeRemainingColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=totals.all_bytes)

        def report(progress: Progress) -> None:
            totals.add(progress)
            bar.update(task, completed=totals.written_bytes, description=totals.rates())

        yield report
