"""Work: what a worker does for an output tensor - copy it, read and compute and write it, or survey it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergec.errors import RunError, path_text
from mergec.execute.compiled import Compiler
from mergec.execute.crew import Crew, Offer, Progress, Report, hand_out
from mergec.execute.devices import Devices
from mergec.execute.evaluate import Hand, evaluate, feed
from mergec.execute.loops import Program
from mergec.execute.process import give_back_freed_memory
from mergec.execute.statistics import Statistics
from mergec.execute.transfer import Landing, transfer
from mergec.graph import walk
from mergec.io.reader import Reader
from mergec.io.staging import Staging
from mergec.io.tensors import ITEM_BYTES
from mergec.ops.pool import Part, Values
from mergec.plan import Output, Plan

if TYPE_CHECKING:
    from torch import Tensor


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
            digest = _Writer(crew, output, reader, device, staging, compiler).run(known, states)
        finished(output, digest)
        if passed:
            for source in output.sources:
                passed(source.file, source.end)

    return hand_out(plan, outputs, compute, devices, report)


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

        read_bytes += hand_out(plan, members, one, devices, report)
        give_back_freed_memory()
    return read_bytes


def _is_finite(tile: Tensor) -> bool:
    """Whether no entry is infinite or NaN: both would show in the extremes, which are found much faster."""
    low, high = tile.aminmax()
    return math.isfinite(low) and math.isfinite(high)


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
        self._transfer = transfer(device)
        self._read_bytes, self._read, self._write = 0, 0.0, 0.0  # since the last report
        self._reported = time.perf_counter()

    @property
    def hand(self) -> Hand:
        """What evaluates with these buffers; not held, for it holds this, and who is in a cycle keeps its buffers."""
        return Hand(self._load)

    def feed(self, round: int, parts: Mapping[int, Part], known: Mapping[int, Values]) -> None:
        """Show the tensor to parts of statistics."""
        feed(self._kind, round, self._crew.plan.nodes, parts=parts, known=known, **self._how())
        self.report()

    def _how(self) -> dict[str, Any]:
        """How the tensor is swept."""
        own = {"hand": self.hand, "share": self._share, "device": self._device}
        return {"name": self._output.tensor, "tile": self._crew.plan.memory.tile, **own}

    def _helper(self) -> _Loader:
        """The same tensor on another worker."""
        return _Loader(self._crew, self._output, self._reader, self._device)

    def _share(self, take_part: Callable[[Hand], None]) -> None:
        """Take part in a sweep, as helpers may."""

        def join() -> None:
            helper = self._helper()
            take_part(helper.hand)
            helper.report()

        with self._crew.offered(Offer(join, self._device)):
            take_part(self.hand)

    def report(self, tensors: int = 0, written_bytes: int = 0) -> None:
        now = time.perf_counter()
        compute = now - self._reported - self._read - self._write
        self._crew.tell(Progress(tensors, self._read_bytes, written_bytes, self._read, compute, self._write))
        self._read_bytes, self._read, self._write = 0, 0.0, 0.0
        self._reported = now

    def _load(self, slot: int, start: int, stop: int) -> Tensor:
        self._crew.check()
        ref = self._sources[slot]
        item_bytes = ITEM_BYTES[ref.dtype]

        def fill(view: memoryview) -> None:
            begun = time.perf_counter()
            self._reader.read(ref, start * item_bytes, view)
            self._read += time.perf_counter() - begun

        values = self._transfer.load(slot, ref.dtype, stop - start, fill)
        self._read_bytes += (stop - start) * item_bytes
        if slot == self._kind.slots[0]:
            self.report()
        return values


@dataclass
class _Result:
    """What is made of a tensor, whoever makes it: its digest so far, and the tile that is on its way (start, tile)."""

    sha256: Any = field(default_factory=hashlib.sha256)
    coming: tuple[int, Landing] | None = None


class _Writer(_Loader):
    """One output tensor on one worker, computed and written."""

    def __init__(
        self, crew: Crew, output: Output, reader: Reader, device: Any, staging: Staging, compiler: Compiler | None
    ) -> None:
        super().__init__(crew, output, reader, device)
        self._staging, self._compiler = staging, compiler
        self._program: tuple[int, Program] | None = None
        self._result = _Result()

    @property
    def hand(self) -> Hand:
        return Hand(self._load, self._emit, self._compiled)

    def run(self, known: Mapping[int, Values], states: Mapping[int, Tensor]) -> str:
        """Compute and write the tensor; returns the SHA-256 of its bytes."""
        evaluate(
            self._kind,
            self._crew.plan.nodes,
            known=known,
            states={node: values.to(self._device) for node, values in states.items()},
            **self._how(),
        )
        self._write_coming()
        self.report(tensors=1)
        return str(self._result.sha256.hexdigest())

    def _helper(self) -> _Writer:
        """The same tensor on another worker, with the result in common, since it is emitted in order."""
        helper = _Writer(self._crew, self._output, self._reader, self._device, self._staging, self._compiler)
        helper._result = self._result
        return helper

    def _compiled(self, number: int) -> Program | None:
        """The loops of a pass, with their buffers: made once for all sweeps of it, and gone with the next pass."""
        if self._program and self._program[0] == number:
            return self._program[1]
        made = self._compiler.program(self._output.kind, number) if self._compiler else None
        self._program = (number, made) if made else None
        return made

    def _emit(self, start: int, tile: Tensor) -> None:
        """Let a tile come, and write the one before it meanwhile."""
        if not tile.numel():  # nothing of this tile was kept
            return
        landing = self._transfer.fetch(tile)
        self._write_coming()
        self._result.coming = start, landing
        if landing.is_lent:
            self._write_coming()

    def _write_coming(self) -> None:
        import torch

        if self._result.coming is None:
            return
        (start, landing), self._result.coming = self._result.coming, None
        landing.wait()
        values = landing.values
        if not self._crew.plan.allow_nonfinite and not _is_finite(values):
            raise RunError("E413", self._nonfinite(start, values), "--allow-nonfinite writes it all the same")
        begun = time.perf_counter()
        view = values.view(torch.uint8).numpy().data
        self._result.sha256.update(view)
        self._staging.write(self._output.shard, self._output.begin + start * values.dtype.itemsize, view)
        self._write += time.perf_counter() - begun
        self.report(written_bytes=view.nbytes)

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
