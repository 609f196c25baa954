"""Round trip: how far an extracted adapter takes its base to the model it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mergec.execute.tensors import PlanTensors, read_entries
from mergec.io.adapter import ADAPTER_PREFIX, factor_names
from mergec.io.checkpoint import open_checkpoint
from mergec.io.reader import Reader
from mergec.io.tensors import TensorRef
from mergec.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

_ENTRIES = 1 << 22


class Distance(NamedTuple):
    """Squared Frobenius norms, summed over tensors: of what the model changed, and of what is missing of it."""

    changed: float = 0.0
    missing: float = 0.0

    def __add__(self, other: object) -> Distance:
        assert isinstance(other, Distance)
        return Distance(self.changed + other.changed, self.missing + other.missing)

    @property
    def error(self) -> float:
        """|X - (W + B A)| / |X - W|; 0 where nothing was changed."""
        return sqrt(self.missing / self.changed) if self.changed else 0.0


def round_trip(
    rows: Mapping[str, tuple[TensorRef, TensorRef]], sizes: Mapping[str, int], out: Path, merge: Plan | None = None
) -> dict[str, Distance]:
    """The distances of each kind of tensor, by the last word of its module.

    `rows` are base and model by name, `sizes` the bytes of their files, `out` is the adapter's folder. `merge` makes
    the model's tensors where they are in no file.
    """
    adapter = open_checkpoint(out, adapter=True)
    found: dict[str, Distance] = {}
    with Reader([*sizes.items(), *((file.path, file.file_bytes) for file in adapter.files)]) as reader:
        for name, (base, model) in rows.items():
            module, _, part = name.rpartition(".")
            kind = module.rpartition(".")[2] if part == "weight" else part
            made = PlanTensors(merge)[name] if merge else None
            distance = _distance(reader, base, model if made is None else made, module, part, adapter.tensors)
            found[kind] = found.get(kind, Distance()) + distance
    return found


def _distance(
    reader: Reader, base: TensorRef, model: TensorRef | Tensor, module: str, part: str, adapter: Mapping[str, TensorRef]
) -> Distance:
    """Of one tensor, a block of rows at a time."""
    is_saved = any(f"{ADAPTER_PREFIX}{module}{inner}.{part}" in adapter for inner in ("", ".base_layer"))
    factors = _factors(reader, module, adapter) if part == "weight" else ()
    rows = base.shape[0] if base.shape else 1
    step = max(1, _ENTRIES * rows // max(1, base.numel))
    total = Distance()
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        tuned = _read(reader, model, begin, end) if isinstance(model, TensorRef) else _rows(model, begin, end)
        change = tuned - _read(reader, base, begin, end)
        missing = change - factors[0][begin:end] @ factors[1] if factors else change
        total += Distance(float((change * change).sum()), 0.0 if is_saved else float((missing * missing).sum()))
    return total


def _factors(reader: Reader, module: str, adapter: Mapping[str, TensorRef]) -> tuple[Tensor, ...]:
    """Two matrices whose product is what the adapter adds to a weight, in float64; none if it adds nothing."""
    for is_embedding in (False, True):
        refs = [adapter[name] for name in factor_names(module, is_embedding) if name in adapter]
        if refs:
            left, right = (_read(reader, ref, 0, ref.shape[0]) for ref in refs)
            return (right.T, left.T) if is_embedding else (left, right)
    return ()


def _rows(tensor: Tensor, begin: int, end: int) -> Tensor:
    """Some rows of a tensor in memory, in float64; a 0-d tensor is one row."""
    return (tensor[begin:end] if tensor.shape else tensor).double()


def _read(reader: Reader, ref: TensorRef, begin: int, end: int) -> Tensor:
    """Some rows of a tensor, in float64; a 0-d tensor is one row."""
    shape = (end - begin, *ref.shape[1:]) if ref.shape else ()
    row = prod(ref.shape[1:])
    return read_entries(reader, ref, begin * row, end * row).view(shape).double()
