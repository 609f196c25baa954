"""A merge artifact in Python: its tasks, its router, and each task's tensors, made when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mergec.compiler.materialize import compile_task
from mergec.errors import UsageError, did_you_mean
from mergec.execute.tensors import PlanTensors, read_entries
from mergec.io.artifact import ArtifactFiles, open_artifact
from mergec.io.reader import Reader

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

    def for_task(self, name: str, dtype: str | None = None) -> PlanTensors:
        """The state dict of one task, equal to what `mergec materialize` writes.

        `dtype` is that of floats; left out: as in the backbone. Raises InputError (E641) for an unknown task.
        """
        return PlanTensors(compile_task(self._folder, name, dtype))


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
            return read_entries(reader, ref, 0, ref.numel).view(ref.shape)
