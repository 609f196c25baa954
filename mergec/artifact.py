"""A merge artifact in Python: its tasks, its router, and each task's tensors, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergec.compiler.materialize import compile_task
from mergec.errors import UsageError, did_you_mean
from mergec.execute.evaluate import evaluate
from mergec.execute.work import one_thread
from mergec.io.artifact import ArtifactFiles, open_artifact
from mergec.io.reader import Reader
from mergec.io.tensors import ITEM_BYTES, TensorRef
from mergec.plan import Output, Plan

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

    @property
    def router(self) -> ArtifactRouter:
        """How a mixture of the experts is chosen for an input."""
        return ArtifactRouter(self._files)

    def for_task(self, name: str, dtype: str | None = None) -> TaskTensors:
        """The state dict of one task, equal to what `mergec materialize` writes.

        `dtype` is that of floats; left out: as in the backbone. Raises InputError (E641) for an unknown task.
        """
        return TaskTensors(compile_task(self._folder, name, dtype))


class ArtifactRouter:
    """The subspace gate of an artifact, a reference to try out or to port; see docs/artifacts.md.

    The score of a task for an input x of a matrix is the length of x in the subspace that the task's delta answers
    to most: ||V_t x||. SMILE, arXiv:2408.10174. `file` is a router of the user's own, None if there is none.
    """

    def __init__(self, files: ArtifactFiles) -> None:
        self._files = files
        self.tasks = tuple(files.manifest.files)
        self.rule, self.top_k = files.manifest.router.rule, files.manifest.router.top_k
        file = files.manifest.router.file
        self.file = files.folder / file if file else None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The matrices whose inputs can be scored."""
        first = next(iter(self._files.experts.values()), {})
        return tuple(name.removesuffix(".gate") for name in first if name.endswith(".gate"))

    def scores(self, hidden: Tensor, tensor: str | None = None) -> Tensor:
        """How much inputs of a matrix lie in each task's subspace: [..., n] gives [..., tasks], float32.

        `tensor` is one of `tensors`, by default the first that takes n inputs. Raises UsageError (E645) if none does.
        """
        import torch

        name = tensor or next((one for one in self.tensors if self._width(one) == hidden.shape[-1]), None)
        if name not in self.tensors or self._width(name) != hidden.shape[-1]:
            what = f"the router has no gate for {tensor or 'any matrix'} with {hidden.shape[-1]} inputs"
            raise UsageError("E645", what, did_you_mean(tensor or "", self.tensors))
        gates = (self._gate(task, name) for task in self.tasks)
        return torch.stack([(hidden.float() @ gate.float().T).norm(dim=-1) for gate in gates], dim=-1)

    def weights(self, hidden: Tensor, tensor: str | None = None) -> Tensor:
        """The share of each expert in the mixture for inputs, by the rule; they add up to 1. [..., tasks]."""
        import torch

        shares = self.scores(hidden, tensor).softmax(dim=-1)
        kept = {"softmax": len(self.tasks), "argmax": 1}.get(self.rule, min(self.top_k, len(self.tasks)))
        values, places = shares.topk(kept, dim=-1)
        return torch.zeros_like(shares).scatter(-1, places, values / values.sum(dim=-1, keepdim=True))

    def _width(self, name: str) -> int:
        return self._files.experts[self.tasks[0]][f"{name}.gate"].shape[1]

    def _gate(self, task: str, name: str) -> Tensor:
        ref = self._files.experts[task][f"{name}.gate"]
        with Reader((file.path, file.file_bytes) for file in self._files.files) as reader:
            return _read(reader, ref, 0, ref.numel).view(ref.shape)


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
        return _read(reader, sources[slot], start, stop)

    def emit(start: int, tile: Tensor) -> None:
        result[start : start + tile.numel()] = tile

    evaluate(kind, plan.nodes, name=output.tensor, tile=plan.memory.tile, load=load, emit=emit)
    return result.view(output.shape)


def _read(reader: Reader, ref: TensorRef, start: int, stop: int) -> Tensor:
    """Entries [start, stop) of a tensor."""
    import torch

    size = ITEM_BYTES[ref.dtype]
    buffer = bytearray((stop - start) * size)
    reader.read(ref, start * size, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=getattr(torch, ref.dtype), count=stop - start)
