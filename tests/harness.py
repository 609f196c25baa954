"""Small ways into mergec for tests: build a graph, evaluate it in tiles of any size, call a method with tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import oracle
import torch
from torch import Tensor

from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import make_kind
from mergec.execute.evaluate import Hand, evaluate
from mergec.graph import Graph, Node, TensorType
from mergec.ops.basic import cast, load
from mergec.ops.registry import Arithmetic, Draw, find_method

EVERYTHING = 1 << 40


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def loads(graph: Graph, tensors: Sequence[Tensor], space: Any = "weight") -> list[Node]:
    """A load node per tensor, in slots 0, 1, ..."""
    return [
        load(graph, slot, TensorType(tuple(tensor.shape), dtype_name(tensor), space))
        for slot, tensor in enumerate(tensors)
    ]


def run(root: Node, tensors: Sequence[Tensor], tile: int = EVERYTHING, name: str = "w") -> Tensor:
    """Evaluate a graph over tensors bound to its slots, `tile` entries at a time."""
    kind = make_kind(root, root.graph.nodes)
    flat = [tensor.reshape(-1) for tensor in tensors]
    dtype = getattr(torch, root.type.dtype)
    result = torch.full((root.type.numel,), float("nan") if dtype.is_floating_point else 1, dtype=dtype)

    def emit(start: int, values: Tensor) -> None:
        result[start : start + values.numel()] = values

    evaluate(
        kind,
        root.graph.nodes,
        name=name,
        tile=tile,
        hand=Hand(lambda slot, start, stop: flat[slot][start:stop], emit),
    )
    return result.view(root.type.shape)


def build(
    name: str,
    tensors: Sequence[Tensor],
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    mergekit: bool = False,
    compute: str = "float32",
    rewritten: bool = True,
) -> Node:
    """The graph of a method over tensors (the base first, if it takes one), as a recipe would make it.

    `values` are keyed by parameter; what is left out has its default; one value stands for every model.
    """
    method, graph = find_method(name), Graph()
    given = dtype_name(tensors[0])
    compute = "float64" if given == "float64" else given if mergekit else compute
    nodes = [cast(one, dtype=compute) for one in loads(graph, tensors)]
    base, models = (nodes[0], nodes[1:]) if method.base != "input" else (None, nodes)
    plain = {}
    for parameter in method.parameters.values():
        value = values.get(parameter.name, parameter.default)
        plain[parameter.name] = spread(value, len(models)) if parameter.per_model else value
    root = method(base, models, plain, Draw(seed, method.stream), Arithmetic(mergekit))
    root = cast(root, dtype=given)
    return rewrite(root) if rewritten else root


def spread(value: Any, models: int) -> tuple[Any, ...]:
    """A per-model value as one per model: a list is that already."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * models


def merged(name: str, tensors: Sequence[Tensor], values: Mapping[str, Any], **options: Any) -> Tensor:
    """What a method makes of tensors; `tile` and `name_of_tensor` beside the options of `build`."""
    tile, tensor = options.pop("tile", EVERYTHING), options.pop("name_of_tensor", "w")
    return run(build(name, tensors, values, **options), tensors, tile, tensor)


def expected(
    name: str, tensors: Sequence[Tensor], values: Mapping[str, Any], *, seed: int = 0, tensor: str = "w"
) -> oracle.Array:
    """What the oracle makes of the same call."""
    method = find_method(name)
    arrays = [one.double().numpy() for one in tensors]
    base, models = (arrays[0], arrays[1:]) if method.base != "input" else (None, arrays)
    plain: dict[str, Any] = {}
    for key, value in values.items():
        parameter = method.parameters[key]
        plain[parameter.argument] = list(spread(value, len(models))) if parameter.per_model else value
    if method.takes_draw:
        plain |= {"seed": seed, "tensor": tensor}
    if name == "passthrough":
        plain.setdefault("scale", [None])
    return np.asarray(oracle.METHODS[name](base, models, **plain))


def ulps(left: Tensor, right: Tensor) -> Tensor:
    """How many representable values apart two tensors of one dtype are, entry by entry; 0 and -0 are the same."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[left.element_size()]
    lowest = torch.iinfo(integers).min

    def ordered(values: Tensor) -> Tensor:
        bits = values.contiguous().view(integers)
        return torch.where(bits < 0, lowest - bits, bits).long()

    return (ordered(left) - ordered(right)).abs()


def family(
    shape: Sequence[int], dtype: torch.dtype = torch.float32, models: int = 3, seed: int = 0, noise: float = 0.1
) -> list[Tensor]:
    """A base and fine-tunes of one shape: the base plus small noise, stored in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    noises = [torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * noise for _ in range(models)]
    return [base.to(dtype), *((base + change).to(dtype) for change in noises)]
