"""A merge artifact in Python: its tasks, its router, and each task's tensors, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergec.compiler.materialize import compile_task
from mergec.execute.evaluate import evaluate
from mergec.execute.work import one_thread
from mergec.graph import Output, Plan
from mergec.io.artifact import open_artifact
from mergec.io.reader import Reader
from mergec.io.tensors import ITEM_BYTES

if TYPE_CHECKING:
    from torch import Tensor


class LoadedArtifact:
    """An artifact whose headers have been read; see `mergec.load_artifact`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = open_artifact(folder)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order in which the recipe named their models."""
        return tuple(self._files.manifest.files)

    def for_task(self, name: str, dtype: str | None = None) -> TaskTensors:
        """The state dict of one task, equal to what `mergec materialize` writes.

        `dtype` is that of floats; left out: as in the backbone. Raises InputError (E641) for an unknown task.
        """
        return TaskTensors(compile_task(self._folder, name, dtype))


class TaskTensors(Mapping[str, "Tensor"]):
    """Tensors by name, each read and computed anew whenever it is asked for; CPU tensors, nothing is kept."""

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
        ref = sources[slot]
        size = ITEM_BYTES[ref.dtype]
        buffer = bytearray((stop - start) * size)
        reader.read(ref, start * size, memoryview(buffer))
        return torch.frombuffer(buffer, dtype=getattr(torch, ref.dtype), count=stop - start)

    def emit(start: int, tile: Tensor) -> None:
        result[start : start + tile.numel()] = tile

    evaluate(kind, plan.nodes, name=output.tensor, tile=plan.memory.tile, load=load, emit=emit)
    return result.view(output.shape)
