"""Merge state dicts that are already in memory, by the same recipe rules, graphs and kernels as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from mergec.compiler.assemble import assemble
from mergec.compiler.lower import Lowered, lower
from mergec.compiler.models import Model
from mergec.compiler.schedule import LARGEST_TILE, schedule
from mergec.errors import Place, Problem, RecipeError
from mergec.execute.evaluate import Emit, Hand, evaluate, feed
from mergec.execute.process import one_torch_thread
from mergec.execute.statistics import Statistics
from mergec.graph import Graph
from mergec.io.artifact import part_name
from mergec.io.checkpoint import Checkpoint
from mergec.io.tensors import CODE_OF, TensorRef
from mergec.ops.pool import Part, Values
from mergec.plan import Kind, Output, Plan
from mergec.recipe.bind import bind
from mergec.recipe.document import Document
from mergec.recipe.load import read_recipe

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "base"


def merge_tensors(
    method: str,
    models: Mapping[str, Mapping[str, Tensor]],
    *,
    base: Mapping[str, Tensor] | None,
    parameters: Mapping[str, Any],
    model_parameters: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """See `mergec.merge`."""
    dicts = {**({_BASE: base} if base is not None else {}), **models}
    document = _document(method, models, base is not None, parameters, model_parameters, settings)
    recipe, problems = read_recipe(document)
    if base is not None and _BASE in models:
        problems.append(Problem(document.place(()), "E212", "a model is called 'base', which is the base's own name"))
    unknown = [name for name in model_parameters if name not in models]
    problems += [Problem(document.place(()), "E101", f"parameters for a model that is not there: {n}") for n in unknown]
    bounds, found = bind(recipe) if recipe else ((), [])
    if problems or found or not bounds:
        raise RecipeError([*problems, *found])
    opened = [_model(one.reference, dicts[one.reference], one.place) for one in bounds[0].inputs]
    parts, problems = assemble(bounds, {model.reference: model for model in opened})
    if problems:
        raise RecipeError(problems)
    _, lowered, graph, problems = lower(parts)
    if problems:
        raise RecipeError(problems)
    return _merged(lowered, graph, dicts, document)


def _merged(
    lowered: Sequence[Lowered], graph: Graph, dicts: Mapping[str, Mapping[str, Tensor]], document: Document
) -> dict[str, Tensor]:
    """What a run of a plan does, on tensors in memory."""
    plan = schedule(lowered, graph, place=lambda parameter: document.place(("parameters", parameter)))
    merge, found = _Merge(plan, dicts), Statistics(plan, {})
    for turn, members in found.sweeps(plan.outputs):
        for output in members:
            with found.parts(output) as parts:
                merge.feed(turn, output, parts, found.known(output))
    made = {output.name: merge.evaluate(output, found.known(output)) for output in plan.outputs}
    result: dict[str, Tensor] = {}
    for one in lowered:
        result |= _pieces(one, made[one.name]) if len(one.entries) > 1 else {one.name: made[one.name]}
    return result


def _pieces(one: Lowered, made: Tensor) -> dict[str, Tensor]:
    """A part that is stored as several tensors, such as factors."""
    import torch

    sizes = [prod(shape) for _, shape in one.entries]
    names = [part_name(one.file, one.tensor, entry.rpartition(".")[2]) for entry, _ in one.entries]
    shaped = zip(torch.split(made, sizes), one.entries, strict=True)
    return dict(zip(names, (piece.view(shape) for piece, (_, shape) in shaped), strict=True))


def _document(
    method: str,
    models: Mapping[str, Any],
    has_base: bool,
    parameters: Mapping[str, Any],
    model_parameters: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> Document:
    entries = [{"model": name, "parameters": dict(model_parameters.get(name, {}))} for name in models]
    value = {"merge_method": method, "models": entries, "parameters": dict(parameters), **settings}
    if has_base:
        value["base_model"] = _BASE
    return Document("mergec.merge", "", {k: v for k, v in value.items() if v is not None}, {}, {})


def _model(name: str, tensors: Mapping[str, Tensor], place: Place) -> Model:
    refs = {key: TensorRef(name, key, _dtype(tensor), tuple(tensor.shape), 0, 0) for key, tensor in tensors.items()}
    return Model(name, place, "in memory", Checkpoint(name, (), refs, None, {}))


def _dtype(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in CODE_OF:
        raise TypeError(f"cannot merge tensors of dtype {dtype}")
    return dtype


@dataclass(frozen=True)
class _Merge:
    """What is merged: a plan, and the tensors in memory that are loaded into them, by model and name."""

    plan: Plan
    tensors: Mapping[str, Mapping[str, Tensor]]

    def feed(self, turn: int, output: Output, parts: Mapping[int, Part], known: Mapping[int, Values]) -> None:
        with _threads(self.plan.kinds[output.kind]):
            feed(self.plan.kinds[output.kind], turn, self.plan.nodes, parts=parts, known=known, **self._inputs(output))

    def evaluate(self, output: Output, known: Mapping[int, Values]) -> Tensor:
        import torch

        made = self.plan.nodes[self.plan.kinds[output.kind].root].type
        result = torch.empty(made.numel, dtype=getattr(torch, made.dtype), device=self._device(output))

        def emit(start: int, tile: Tensor) -> None:
            result[start : start + tile.numel()] = tile

        with _threads(self.plan.kinds[output.kind]):
            evaluate(self.plan.kinds[output.kind], self.plan.nodes, known=known, **self._inputs(output, emit))
        return result.view(made.shape)

    def _inputs(self, output: Output, emit: Emit | None = None) -> dict[str, Any]:
        refs = zip(self.plan.kinds[output.kind].slots, output.sources, strict=True)
        flat = {slot: self.tensors[ref.file][ref.name].detach().reshape(-1) for slot, ref in refs}

        def load(slot: int, start: int, stop: int) -> Tensor:
            return flat[slot][start:stop]

        hand = Hand(load, emit)
        return {"name": output.tensor, "tile": LARGEST_TILE, "hand": hand, "device": self._device(output)}

    def _device(self, output: Output) -> Any:
        import torch

        return next((self.tensors[ref.file][ref.name].device for ref in output.sources), torch.device("cpu"))


def _threads(kind: Kind) -> AbstractContextManager[None]:
    """What gives the bits that a run gives: one thread for whole matrices."""
    return one_torch_thread() if kind.kind_class == "whole" else nullcontext()
