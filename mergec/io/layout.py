"""The files of a result: shards with their exact headers, and the small files beside them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One output file: its final name, its exact header and its size."""

    file: str
    header: bytes
    file_bytes: int


@dataclass(frozen=True)
class SideFile:
    """A file beside the weights: either `text`, or a copy of `source`, whose bytes have the SHA-256 `digest`.

    Of a source on the hub, which is not fetched before a run, `digest` is the address, in which a commit stands for
    the bytes. A *record* tells how the result was made or how it lies in files, and is no part of what it is.
    """

    name: str
    text: str | None = None
    source: str | None = None
    digest: str = ""
    is_record: bool = False
