"""Process: torch's threads and the C allocator, set for workers that go from tile to tile."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mergec.execute.devices import computes
from mergec.plan import Plan

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread: the last bits of LAPACK depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    if mallopt := _of_glibc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def give_back_freed_memory() -> None:
    """Ask glibc for it: what threads that have ended held is of no use to those that come."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library, or None where it has no such."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
