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
    """A file beside the weights: either `text`, or a copy of `source`."""

    name: str
    text: str | None = None
    source: str | None = None
