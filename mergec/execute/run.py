"""Run a plan: refuse what cannot work, compute into the staging folder, publish by a rename."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergec.errors import RunError, UsageError, count
from mergec.execute.work import Report, choose_device, work
from mergec.graph import Output, Plan
from mergec.io.journal import Journal
from mergec.io.staging import Staging, check_output, check_space, staging_folder


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
    parts = folder.rglob("*.part") if folder.is_dir() else []
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
