"""Run a plan: refuse what cannot work, take over what is there already, compute the rest, publish by a rename."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergec.errors import RunError, UsageError, count
from mergec.execute import reuse
from mergec.execute.ahead import read_ahead
from mergec.execute.compiled import Compile, Compiler
from mergec.execute.crew import Report
from mergec.execute.devices import Devices, choose_devices, computes, fitted
from mergec.execute.reuse import Decision
from mergec.execute.states import find_states
from mergec.execute.statistics import Statistics
from mergec.execute.work import survey, work
from mergec.io.digests import FollowedFiles, remembered, state_id
from mergec.io.hub import is_hub_path, missing_bytes
from mergec.io.journal import Journal, Placed
from mergec.io.lockfile import LockedRecipe, LockFile, parse_lock
from mergec.io.staging import Staging, check_output, check_space, made_here, side_file_digest, staging_folder
from mergec.io.verify import verify
from mergec.keys import plan_keys, statistic_keys
from mergec.lock import (
    by_content,
    input_digests,
    locked_recipe,
    locked_statistics,
    made_lock,
    numerics,
    other_numerics,
    reasons,
)
from mergec.plan import Output, Plan

Notice = Callable[[Decision], None]
"""Takes what was decided, where there was anything to be taken over or compared with."""


@dataclass(frozen=True)
class Result:
    """What a run made: the folder, and how it went.

    `kept` counts tensors that an interrupted run had finished, `reused` those of an earlier output. `is_current` says
    that the output was all that it should be, and was left alone. `remarks` say what is odd about what was found.
    """

    folder: Path
    tensors: int
    kept: int
    reused: int
    read_bytes: int
    written_bytes: int
    seconds: float
    moved_aside: Path | None = None
    is_current: bool = False
    remarks: tuple[str, ...] = ()


def run(
    plan: Plan,
    out: str | Path,
    *,
    device: str = "auto",
    force: bool = False,
    rebuild: bool = False,
    compile: Compile = "auto",
    report: Report | None = None,
    notice: Notice | None = None,
) -> Result:
    """Run a plan and publish its result at `out`.

    Tensors that an interrupted run has finished, or that the output of an earlier run holds, are taken over after a
    look at every byte, unless `rebuild`. `compile` says whether loops may be compiled (`mergec.execute.compiled`): it
    changes the time, not a byte. Raises UsageError for an output that must not be written, RunError if the
    run fails. Interrupted at any point it leaves the output as it was, and a staging folder from which the next run
    goes on.
    """
    out, start = Path(out), time.monotonic()
    check_output(out, [model.origin for model in plan.models], force)
    devices = choose_devices(device, plan)
    plan = fitted(plan, devices)
    domain = numerics(plan, _class(devices))
    if not rebuild and _is_current(plan, out, domain):
        seconds, made = time.monotonic() - start, len(plan.outputs)
        return Result(out, made, 0, made, 0, plan.written_bytes, seconds, is_current=True)
    folder = staging_folder(out)
    with Staging(folder, plan.shards) as staging:
        _check_space(plan, folder, staging.held_bytes())
        with Journal(folder, domain, staging.sync) as journal:
            job = _Job(plan, staging, journal, report, compile)
            decision = job.take_over(out, rebuild)
            if notice and (decision.kept or decision.reused or decision.computed):
                notice(decision)
            taken = {*decision.kept, *decision.reused}
            read_bytes = job.compute([output for output in plan.outputs if output.name not in taken], devices)
            moved = job.publish(out)
    seconds = time.monotonic() - start
    kept, reused = len(decision.kept), len(decision.reused)
    return Result(
        out, len(plan.outputs), kept, reused, read_bytes, plan.written_bytes, seconds, moved, remarks=job.remarks
    )


def begin(plan: Plan, out: str | Path, *, force: bool = False, rebuild: bool = False) -> None:
    """Refuse what `run` would, as far as it shows at once; then have the first inputs read if nothing is there yet.

    So that this goes on while torch is imported. Raises UsageError.
    """
    out = Path(out)
    folder = staging_folder(out)
    check_output(out, [model.origin for model in plan.models], force)
    if not folder.exists() and (rebuild or not out.exists()):
        _check_space(plan, folder)
        read_ahead(plan)


def _check_space(plan: Plan, folder: Path, held_bytes: int = 0) -> None:
    """Refuse a run whose result, and inputs that are still to be fetched, do not fit; some of it is there already."""
    to_fetch = missing_bytes((one.path, one.file_bytes, one.sha256) for one in plan.files)
    check_space(folder.parent, plan.written_bytes - held_bytes, to_fetch)


def run_part(plan: Plan, names: Sequence[str], folder: str | Path, *, device: str = "auto") -> None:
    """Compute some of a plan's tensors into a shared staging folder, and publish nothing.

    Any number of processes may do so at once, each with its own names; `publish` then makes the model. Statistics that
    the tensors need are found by each process that does not see them in the folder's journals when it starts.
    """
    wanted = set(names)
    unknown = wanted - {output.name for output in plan.outputs}
    if unknown:
        raise UsageError("E405", f"the plan has no tensor {min(unknown)!r}")
    devices, folder = choose_devices(device, plan), Path(folder)
    plan = fitted(plan, devices)
    domain = numerics(plan, _class(devices))
    with Staging(folder, plan.shards) as staging, Journal(folder, domain, staging.sync, shared=True) as journal:
        job = _Job(plan, staging, journal)
        kept = job.keep(wanted)
        todo = [output for output in plan.outputs if output.name in wanted - kept]
        statistics, _ = job.survey(todo, devices)
        states = find_states(plan, todo, devices[0]).values
        work(plan, todo, staging, devices=devices, finished=job.finished, statistics=statistics, states=states)


def publish(plan: Plan, folder: str | Path, out: str | Path, *, force: bool = False) -> Path | None:
    """Publish a staging folder in which every tensor of the plan has been computed.

    Returns where a folder that was in the way has been moved to. Raises RunError (E414) if a tensor is missing or
    is not what was computed, UsageError for an output that must not be written.
    """
    folder, out = Path(folder), Path(out)
    check_output(out, [model.origin for model in plan.models], force)
    with Staging(folder, plan.shards) as staging, Journal(folder, None, staging.sync) as journal:
        job = _Job(plan, staging, journal)
        names = [output.name for output in plan.outputs]
        kept = job.keep(names)
        missing = [name for name in names if name not in kept]
        if missing:
            what = f"{count(len(missing), 'tensor')} of {len(names):,} not computed yet, {missing[0]} first"
            raise RunError("E414", f"{folder} is not complete: {what}", "compute the missing parts, then publish")
        return job.publish(out)


def _is_current(plan: Plan, out: Path, domain: Mapping[str, str]) -> bool:
    """Whether an output is, to the byte, what a run would make: its lock says so, and it is as its lock says."""
    lock = made_here(out)
    if lock is None or lock.made.numerics != domain or lock.made.tensors.keys() != {one.name for one in plan.outputs}:
        return False
    if {shard.file for shard in plan.shards} - (lock.files or {}).keys():
        return False
    recipe = locked_recipe(plan, input_digests(plan))
    tensors = {name: tensor.sha256 or "" for name, tensor in lock.made.tensors.items()}
    side_files = {one.name: side_file_digest(one) for one in plan.side_files}
    text = made_lock(plan, recipe, domain, tensors, side_files, locked_statistics(lock.made), out)
    if parse_lock(text, "") != lock:
        return False
    return not any(fault.file in (lock.files or {}) for fault in verify(out, lock))


def _remembered(path: str) -> str | None:
    return None if is_hub_path(path) else remembered(path)


def _class(devices: Devices) -> str:
    return str(getattr(devices[0], "type", devices[0]))


class _Job:
    """A plan at work in a staging folder: the keys under which tensors are recorded, what is made, which inputs."""

    def __init__(
        self,
        plan: Plan,
        staging: Staging,
        journal: Journal,
        report: Report | None = None,
        compile: Compile = "off",
    ) -> None:
        self.plan, self.staging, self.journal, self.report, self.compile = plan, staging, journal, report, compile
        self.states = {source.path: state_id(source.path) for source in plan.files}
        self.keys = plan_keys(plan, by_content(self.states))
        self.digests: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.remarks: tuple[str, ...] = ()
        staging.prepare()

    def finished(self, output: Output, digest: str) -> None:
        """Note that a tensor is in its place."""
        self.made[output.name] = digest
        file = self.staging.part(output.shard).relative_to(self.staging.folder).as_posix()
        self.journal.record(self.keys[output.name], Placed(file, output.begin, output.end, digest))

    def keep(self, names: Collection[str]) -> set[str]:
        """Take over the tensors, of these, that lie in the staging folder; returns their names."""
        found = reuse.staged(self.journal.placed, self.staging.folder, self.keys)
        found = {name: where for name, where in found.items() if name in names}
        return reuse.take_over(self.plan, found, self.staging, finished=self.finished, report=self.report)

    def take_over(self, out: Path, rebuild: bool) -> Decision:
        """Take over what an interrupted run and an earlier output hold, and say what is left and why."""
        names = [output.name for output in self.plan.outputs]
        kept = set() if rebuild else self.keep(names)
        left = [name for name in names if name not in kept]
        reused: set[str] = set()
        computed: dict[str, tuple[str, ...]] = {}
        previous = made_here(out) if left and not rebuild else None
        if previous:
            reused, computed = self._reuse(previous, out, left)
        self.staging.discard_others()
        return Decision(computed, tuple(kept), tuple(reused))

    def _reuse(self, lock: LockFile, out: Path, left: list[str]) -> tuple[set[str], dict[str, tuple[str, ...]]]:
        """Take over, of the tensors that are left, those of an earlier output; the others by the reason why not."""
        old, domain = lock.made, self.journal.numerics or {}
        if old.numerics != domain:
            return set(), {other_numerics(old.numerics or {}, domain): tuple(left)}
        self.digests = input_digests(self.plan)
        self._adopt_statistics(old)
        new = locked_recipe(self.plan, self.digests)
        found = reuse.published(lock, out, {name: new.tensors[name].action for name in left})
        reused = reuse.take_over(self.plan, found, self.staging, finished=self.finished, report=self.report)
        return reused, reasons([name for name in left if name not in reused], old, new)

    def _adopt_statistics(self, old: LockedRecipe) -> None:
        """Take over the statistics of an earlier output that depend on the same."""
        keys, known = statistic_keys(self.plan, by_content(self.states)), locked_statistics(old)
        for name, key in statistic_keys(self.plan, by_content(self.digests)).items():
            if key in known:
                self.journal.record_statistic(keys[name], known[key])

    def _found_statistics(self) -> dict[str, tuple[float, ...]]:
        """The statistics that are known, by keys of their inputs' contents."""
        keys, known = statistic_keys(self.plan, by_content(self.digests)), self.journal.statistics
        states = statistic_keys(self.plan, by_content(self.states))
        return {keys[name]: known[state] for name, state in states.items() if state in known}

    def survey(self, todo: Sequence[Output], devices: Devices) -> tuple[Statistics, int]:
        """Find the statistics of the whole model that tensors need; the journal keeps them. Also the bytes read."""
        keys = statistic_keys(self.plan, by_content(self.states))
        known = {name: self.journal.statistics[key] for name, key in keys.items() if key in self.journal.statistics}
        statistics = Statistics(self.plan, known)

        def found(name: str, values: tuple[float, ...]) -> None:
            self.journal.record_statistic(keys[name], values)

        return statistics, survey(self.plan, statistics, todo, devices=devices, report=self.report, found=found)

    def compute(self, todo: Sequence[Output], devices: Devices) -> int:
        """Compute tensors, hashing the input files that are not known behind the workers; returns the bytes read."""
        statistics, surveyed = self.survey(todo, devices)
        states = find_states(self.plan, todo, devices[0])
        self.remarks += states.remarks
        known = {source.path: source.sha256 or _remembered(source.path) for source in self.plan.files}
        self.digests = {path: digest for path, digest in known.items() if digest} | self.digests
        with (
            FollowedFiles(path for path in known if path not in self.digests) as files,
            Compiler(self.plan, todo, self.compile if computes(self.plan) else "off", devices[0]) as compiler,
        ):
            self.remarks += compiler.remarks
            read_bytes = work(
                self.plan,
                todo,
                self.staging,
                devices=devices,
                report=self.report,
                finished=self.finished,
                passed=files.passed,
                statistics=statistics,
                states=states.values,
                compiler=compiler,
            )
            self.digests |= files.finish()
        return surveyed + states.read_bytes + read_bytes

    def publish(self, out: Path) -> Path | None:
        if not self.digests:
            self.digests = input_digests(self.plan)
        for path, state in self.states.items():
            if state_id(path) != state:
                raise RunError("E411", f"{path} was changed during the run", "run it again")
        side_files = self.staging.place(self.plan.side_files)
        recipe = locked_recipe(self.plan, self.digests)
        domain, found = self.journal.numerics or {}, self._found_statistics()
        lock = made_lock(self.plan, recipe, domain, self.made, side_files, found, out)
        return self.staging.publish(lock, out)
