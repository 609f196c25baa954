"""Embed: rows of tables looked up by number, so that a tensor gets the rows of another vocabulary block by block.

A *table* is a tensor of which rows are read, or computed (`ops/tables.py`), as they are asked for. Which row of it goes
where is an *index*: one number for each row of the result, -1 where the table gives nothing. As an attribute of a node
it is text, runs of consecutive rows: `0+3 -2 7+1` is [0, 1, 2, -1, -1, 7].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mergec.graph import Node
from mergec.ops.op import Reducer, SpaceError, Tile, op

if TYPE_CHECKING:
    from torch import Tensor

    Table = Callable[[int, int], Tensor]
    """(start, stop) -> the flat entries [start, stop) of a tensor, until the next call."""

INDEX_BYTES = 8  # what each row of an index takes in memory
_RUN = re.compile(r"(\d*)([+-])(\d+)")


def index_text(rows: Iterable[int]) -> str:
    """An index as text.

    >>> index_text([0, 1, 2, -1, -1, 7])
    '0+3 -2 7+1'
    """
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == (-1 if runs[-1][0] < 0 else sum(runs[-1])):
            runs[-1][1] += 1
        else:
            runs.append([row, 1])
    return " ".join(f"-{length}" if start < 0 else f"{start}+{length}" for start, length in runs)


def index_rows(text: str) -> int:
    """How many rows an index is for.

    >>> index_rows("0+3 -2 7+1")
    6
    """
    return sum(int(run[3]) for run in _RUN.finditer(text))


@lru_cache(maxsize=32)
def index_of(text: str) -> Any:
    """The numbers of an index, int64."""
    import numpy as np

    found = np.full(index_rows(text), -1, dtype=np.int64)
    begin = 0
    for run in _RUN.finditer(text):
        end = begin + int(run[3])
        if run[2] == "+":
            found[begin:end] = np.arange(int(run[1]), int(run[1]) + end - begin)
        begin = end
    return found


def _embedded(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    rows = {index_rows(text) for text in attrs["rows"]}
    if len(nodes) != len(attrs["rows"]) or len(rows) != 1:
        raise SpaceError(f"embed takes an index of one length for each table, got {sorted(rows)} for {len(nodes)}")
    before, after = nodes[0].type.shape[: attrs["axis"]], nodes[0].type.shape[attrs["axis"] + 1 :]
    return (*before, *rows, *after), attrs["dtype"]


def _scratch(node: Node) -> int:
    """Rows that are read are cast; what computed ones need beside is of one table at a time."""
    computed = any(table.op_class != "load" for table in node.inputs)
    return (12 if computed else 3) * node.type.item_bytes


@op("row", "table* -> weight", scratch_bytes=_scratch, gives=_embedded)
def embed(*tables: Table, rows: tuple[str, ...], axis: int, width: int, dtype: str, tile: Tile) -> Tensor:
    """Each row from the one table whose index has it, the mean where several have, and zeros where none has.

    Rows are counted along `axis`, before which tables have one entry only, and have `width` entries each. Values are
    cast to `dtype`; a mean is a sum in the order of the tables, divided by their number.
    """
    import numpy as np
    import torch

    result = torch.zeros(((tile.stop - tile.start) // width, width), dtype=getattr(torch, dtype), device=tile.device)
    given = np.zeros(len(result), dtype=np.int64)
    first = tile.start // width
    for table, text in zip(tables, rows, strict=True):
        index = index_of(text)[first : first + len(result)]
        is_given = index >= 0
        ends = (np.diff(index) != is_given[1:]) | (is_given[1:] != is_given[:-1])
        put = _add if (given[is_given] > 0).any() else _copy
        cuts = [0, *(np.flatnonzero(ends) + 1).tolist(), len(index)]
        for begin, end in pairwise(cuts):
            if begin < end and index[begin] >= 0:
                start = int(index[begin])
                found = table(start * width, (start + end - begin) * width).view(-1, width)
                put(result[begin:end], found, given[begin:end])
        given += is_given
    several = np.flatnonzero(given > 1)
    if len(several):
        numbers = torch.from_numpy(given[several]).to(result.device)
        result[torch.from_numpy(several).to(result.device)] /= numbers[:, None].to(result.dtype)
    return result


def _copy(result: Tensor, found: Tensor, given: Any) -> None:
    """Rows that are the first of their places; zeros keep their signs."""
    result.copy_(found)


def _add(result: Tensor, found: Tensor, given: Any) -> None:
    """Rows of which some have places where others are already."""
    for number, one in enumerate(found):
        if given[number]:
            result[number] += one.to(result.dtype)
        else:
            result[number] = one


class RowMean(Reducer):
    """The mean of the first `rows` rows of `width` entries, in float64: one number for each entry of a row.

    Rows are added one after the other, so that the sums do not depend on where tiles were cut.
    """

    def __init__(self, *, rows: int, width: int) -> None:
        self._left, self._rows, self._width = rows, rows, width
        self._sums: Tensor | None = None

    def update(self, tile: Tensor) -> None:
        from mergec.ops.tree import wide

        for row in tile.view(-1, self._width)[: self._left]:
            self._sums = wide(row).clone() if self._sums is None else self._sums.add_(wide(row))
            self._left -= 1

    def finish(self) -> tuple[float, ...]:
        return () if self._sums is None else tuple((self._sums / self._rows).tolist())


row_mean = op("reduce", "weight -> scalar", scratch_bytes=8, name="row_mean")(RowMean)


@op("row", "weight scalar -> weight", scratch_bytes=lambda node: node.type.item_bytes)
def pad(values: Tensor, row: tuple[float, ...], *, rows: int, width: int, tile: Tile) -> Tensor:
    """The rows with `row` in place of those after the first `rows`: mean rows for padding, as in
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html."""
    result = values.reshape(-1, width)
    begin = max(0, rows - tile.start // width)
    if begin < len(result):
        result = result.clone()
        result[begin:] = result.new_tensor(row)
    return result
