"""Merge state dicts that are already in memory, by the same recipe rules, graphs and kernels as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import prod
from typing import TYPE_CHECKING, Any

from mergec.compiler.inventory import Model, line_up
from mergec.compiler.lower import Lowered, lower
from mergec.compiler.schedule import LARGEST_TILE, make_kind
from mergec.errors import Place, Problem, RecipeError
from mergec.execute.evaluate import evaluate, one_torch_thread
from mergec.graph import Kind, Node, TensorType
from mergec.io.artifact import part_name
from mergec.io.checkpoint import Checkpoint
from mergec.io.tensors import CODE_OF, TensorRef
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
    bound, found = bind(recipe) if recipe else (None, [])
    if problems or found or bound is None:
        raise RecipeError([*problems, *found])
    opened = [_model(one.reference, dicts[one.reference], one.place) for one in bound.inputs]
    inventory, problems = line_up(opened)
    lowered, graph, found = lower(bound, inventory) if not problems else ([], None, [])
    if problems or found or graph is None:
        raise RecipeError([*problems, *found])
    kinds = {one.root.index: make_kind(one.root, graph.nodes) for one in lowered}
    result: dict[str, Tensor] = {}
    for one in lowered:
        kind = kinds[one.root.index]
        sources = {slot: dicts[ref.file][ref.name] for slot, ref in zip(kind.slots, one.sources, strict=True)}
        made = _evaluated(one.tensor or one.name, one.root.type, kind, graph.nodes, sources)
        result |= _pieces(one, made) if len(one.entries) > 1 else {one.name: made}
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


def _evaluated(name: str, type: TensorType, kind: Kind, nodes: Sequence[Node], sources: Mapping[int, Tensor]) -> Tensor:
    import torch

    flat = {slot: tensor.detach().reshape(-1) for slot, tensor in sources.items()}
    device = next((tensor.device for tensor in flat.values()), torch.device("cpu"))
    result = torch.empty(type.numel, dtype=getattr(torch, type.dtype), device=device)

    def load(slot: int, start: int, stop: int) -> Tensor:
        return flat[slot][start:stop]

    def emit(start: int, tile: Tensor) -> None:
        result[start : start + tile.numel()] = tile

    with one_torch_thread() if kind.kind_class == "whole" else nullcontext():  # the bits that a run gives
        evaluate(kind, nodes, name=name, tile=LARGEST_TILE, load=load, emit=emit, device=device)
    return result.view(type.shape)
