"""Ahead: the system is told what of the input files is needed soon, and reads it while something else is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from mergec.errors import RunError
from mergec.io.hub import is_hub_path
from mergec.io.reader import Reader
from mergec.plan import Output, Plan

FIRST_BYTES = 512 << 20
_BLOCK_BYTES = 8 << 20


def reading_order(plan: Plan) -> Callable[[Output], tuple[str, int]]:
    """A sort key: where a tensor's first input lies.

    It is "" for what is made from random numbers alone, or from states that are known.
    """

    def place(output: Output) -> tuple[str, int]:
        if plan.kinds[output.kind].kind_class == "states" or not output.sources:
            return "", 0
        return output.sources[0].file, output.sources[0].begin

    return place


def blocks(output: Output) -> Iterator[tuple[str, int, int]]:
    """The bytes of a tensor's inputs, side by side as they are read: (file, begin, end), 8 MiB at the most."""
    longest = max((source.end - source.begin for source in output.sources), default=0)
    for offset in range(0, longest, _BLOCK_BYTES):
        for source in output.sources:
            begin, end = source.begin + offset, min(source.begin + offset + _BLOCK_BYTES, source.end)
            if begin < end:
                yield source.file, begin, end


def read_ahead(plan: Plan, limit_bytes: int = FIRST_BYTES) -> threading.Thread:
    """Have the system read what a run needs first, up to a limit, while torch is imported; files that lie here only."""

    def ask() -> None:
        left = limit_bytes
        with Reader((source.path, source.file_bytes) for source in plan.files) as reader, suppress(RunError):
            for output in sorted(plan.outputs, key=reading_order(plan)):
                left -= expect(reader, output, left)
                if left <= 0:
                    return

    thread = threading.Thread(target=ask, name="ahead", daemon=True)
    thread.start()
    return thread


def expect(reader: Reader, output: Output, limit_bytes: int = FIRST_BYTES // 4) -> int:
    """Have the system read a tensor's inputs, up to a limit, since a worker takes it soon; returns how many bytes."""
    asked = 0
    for file, begin, end in blocks(output):
        if asked < limit_bytes and not is_hub_path(file):
            reader.advise(file, begin, end)
            asked += end - begin
    return asked
