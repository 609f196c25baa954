"""Experts: packed ones, a tensor for all of a layer, taken apart where another model stores one tensor for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mergec.compiler.models import Model, is_staged
from mergec.compiler.names import fold
from mergec.compiler.source import Source
from mergec.errors import InputError, Problem
from mergec.io.tensors import ITEM_BYTES, TensorRef

_PACKED = re.compile(r"(?P<stack>.+\.experts)\.(?P<part>gate_up_proj|down_proj)(?:\.weight)?")
_SINGLE = re.compile(r"(?P<stack>.+\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight")
_STYLES = {"w1": ("w1", "w3", "w2"), "gate_proj": ("gate_proj", "up_proj", "down_proj")}  # gate, up, down


def taken_apart(
    reference: str, table: Mapping[str, Source], others: Sequence[Mapping[str, Source]]
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """A model's tensors with packed experts as spans of one expert each, if `others` have them so, and a note of it.

    Packed are `experts.gate_up_proj`, experts x 2 rows x columns with the gates first, and `experts.down_proj`, as
    transformers holds them in memory; Mixtral's are called otherwise there. Raises InputError (E347) for others.
    """
    singles = dict(_singles(others))
    result: dict[str, Source] = {}
    packed = []
    for name, source in table.items():
        found = _PACKED.fullmatch(name)
        stack = _twin(found["stack"], singles) if found else ""
        if found and stack:
            packed.append(name)
            result |= _spans(reference, name, source, found["part"], stack, singles[stack])
        else:
            result[_router(name, singles)] = source
    note = (f"{reference}: packed experts are taken apart: {', '.join(fold(packed)[:3])}",) if packed else ()
    return (result, note) if packed else (dict(table), ())


def _singles(tables: Sequence[Mapping[str, Source]]) -> Iterator[tuple[str, dict[str, Source]]]:
    """For each layer with an expert in a tensor of its own, that of number 0 by its parts."""
    found: dict[str, dict[str, Source]] = {}
    for table in tables:
        for name, source in table.items():
            match = _SINGLE.fullmatch(name)
            if match and match["number"] == "0":
                found.setdefault(match["stack"], {})[match["part"]] = source
    yield from found.items()


def _twin(stack: str, singles: Mapping[str, object]) -> str:
    """What a layer's experts are called where they are single; "" if nowhere."""
    return next((name for name in (stack, _mixtral(stack)) if name in singles), "")


def _mixtral(name: str) -> str:
    return name.replace(".mlp.", ".block_sparse_moe.")


def _router(name: str, singles: Mapping[str, object]) -> str:
    """The name of a layer's router beside its single experts."""
    twin = _mixtral(name)
    return (
        twin if name.endswith(".mlp.gate.weight") and twin.removesuffix("gate.weight") + "experts" in singles else name
    )


def _spans(
    reference: str, name: str, source: Source, part: str, stack: str, single: Mapping[str, Source]
) -> Iterator[tuple[str, TensorRef]]:
    """Each expert's tensors of a packed one, in the order in which they lie in it."""
    gate, up, down = next((words for key, words in _STYLES.items() if key in single), ("", "", ""))
    parts = (down,) if part == "down_proj" else (gate, up)
    if not set(parts) <= single.keys():
        raise _misfit(reference, name, source, f"{', '.join(sorted(single))} of each expert")
    rows, columns = single[parts[0]].shape
    if source.shape[1:] != (len(parts) * rows, columns) or not isinstance(source, TensorRef) or is_staged(source):
        raise _misfit(reference, name, source, f"[experts, {len(parts) * rows}, {columns}]")
    size = rows * columns * ITEM_BYTES[source.dtype]
    for number in range(source.shape[0]):
        for half, word in enumerate(parts):
            begin = source.begin + (number * len(parts) + half) * size
            one = f"{stack}.{number}.{word}.weight"
            yield one, TensorRef(source.file, one, source.dtype, (rows, columns), begin, begin + size)


def _misfit(reference: str, name: str, source: Source, expected: str) -> InputError:
    what = f"'{reference}' has packed experts in {name} of shape {list(source.shape)}, expected {expected}"
    hint = "load the model with transformers and save it again: that stores all models of a kind alike"
    return InputError("E347", what, hint)


def like_others(models: Mapping[str, Model]) -> tuple[dict[str, Model], list[Problem]]:
    """Models whose experts are stored alike: one tensor for each expert, where any model has them so."""
    result = dict(models)
    problems = []
    for reference, model in models.items():
        others = [other.tensors for name, other in models.items() if name != reference]
        try:
            sources, notes = taken_apart(reference, model.tensors, others)
        except InputError as error:
            problems.append(error.at(model.place))
        else:
            result[reference] = replace(model, sources=sources, notes=(*model.notes, *notes)) if notes else model
    return result, problems
