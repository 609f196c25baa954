"""Tensors of a plan's result in memory, without a file of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mergec.execute.evaluate import Hand, evaluate
from mergec.execute.process import one_thread
from mergec.io.reader import Reader
from mergec.io.tensors import ITEM_BYTES, TensorRef
from mergec.plan import Output, Plan

if TYPE_CHECKING:
    from torch import Tensor


class PlanTensors(Mapping[str, "Tensor"]):
    """A plan's tensors by name, each made anew whenever it is asked for; CPU tensors, nothing is kept."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outputs = {output.name: output for output in plan.outputs}

    def __len__(self) -> int:
        return len(self._outputs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __contains__(self, name: object) -> bool:
        return name in self._outputs

    def __getitem__(self, name: str) -> Tensor:
        output = self._outputs[name]
        files = ((source.path, source.file_bytes) for source in self._plan.files)
        with Reader(files) as reader, one_thread(self._plan):  # as a run does, so that matrix products are equal
            return _made(self._plan, output, reader)


def _made(plan: Plan, output: Output, reader: Reader) -> Tensor:
    import torch

    kind = plan.kinds[output.kind]
    sources = dict(zip(kind.slots, output.sources, strict=True))
    result = torch.empty(output.numel, dtype=getattr(torch, output.dtype))

    def load(slot: int, start: int, stop: int) -> Tensor:
        return read_entries(reader, sources[slot], start, stop)

    def emit(start: int, tile: Tensor) -> None:
        result[start : start + tile.numel()] = tile

    evaluate(kind, plan.nodes, name=output.tensor, tile=plan.memory.tile, hand=Hand(load, emit))
    return result.view(output.shape)


def read_entries(reader: Reader, ref: TensorRef, start: int, stop: int) -> Tensor:
    """Entries [start, stop) of a tensor, flat, as stored."""
    import torch

    values = torch.empty(stop - start, dtype=getattr(torch, ref.dtype))
    reader.read(ref, start * ITEM_BYTES[ref.dtype], values.view(torch.uint8).numpy().data)
    return values
