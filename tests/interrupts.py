"""Runs that are cut off in the middle, for tests: a signal in place of one of a process' writes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import mergec
from mergec.io.staging import Staging


def signal_at(write: int, number: int) -> None:
    """Send this process a signal in place of one of its writes; a deadly one when the journal has been written."""
    whole, left = Staging.write, [write]

    def counted(self: Staging, shard: int, position: int, buffer: memoryview) -> None:
        left[0] -= 1
        if left[0] == 0:
            time.sleep(0.3 if number == signal.SIGKILL else 0)
            os.kill(os.getpid(), number)
        elif -8 < left[0] < 0 and number == signal.SIGKILL:  # another worker, which is to come no further
            time.sleep(60)
        whole(self, shard, position, buffer)

    Staging.write = counted  # type: ignore[method-assign]


def run_until_killed(plan: mergec.Plan, out: Path, write: int) -> None:
    """Run a plan in a process that dies at its n-th write."""

    def run() -> None:
        signal_at(write, signal.SIGKILL)
        plan.run(out, device="cpu")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
