"""Digests of spans of an open file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

_BLOCK_BYTES = 1 << 20


def span_digest(descriptor: int, begin: int, end: int, report: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of bytes [begin, end) of an open file, or of those there are; `report` takes each block's size."""
    sha256, buffer = hashlib.sha256(), bytearray(min(_BLOCK_BYTES, max(1, end - begin)))
    while begin < end:
        got = os.preadv(descriptor, [memoryview(buffer)[: end - begin]], begin)
        if got == 0:
            break
        sha256.update(memoryview(buffer)[:got])
        begin += got
        if report:
            report(got)
    return sha256.hexdigest()
