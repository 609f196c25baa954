"""Quantised models: which tensors stand for which weights, where the scheme is known; a refusal by name where not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, prod
from typing import Any

from mergec.compiler.names import few, natural
from mergec.compiler.source import Dequantised, Source
from mergec.errors import InputError, count
from mergec.io.checkpoint import Checkpoint
from mergec.io.tensors import FLOATS, TensorRef

_FP8 = ("float8_e4m3fn", "float8_e5m2")
_KNOWN = ("fp8", "compressed-tensors")
_SCALES = ("_scale_inv", "_scale")  # behind the name of the weight; what it is multiplied by, in spite of `inv`
_DROPPED = (*(f".weight{end}" for end in _SCALES), ".input_scale", ".output_scale", ".k_scale", ".v_scale", ".q_scale")
_MARKS = {  # names that give a scheme away where no config does
    ".qweight": "gptq or awq",
    ".absmax": "bitsandbytes",
    ".weight_packed": "compressed-tensors, packed",
    "_blocks": "mxfp4",
}


def dequantised(name: str, checkpoint: Checkpoint) -> tuple[Mapping[str, Source], tuple[str, ...]]:
    """A model's tensors with those that are float8 as the weights they stand for, and notes on what was left out.

    Raises InputError: E330 for a scheme that is not known, E345 for a scale that is absent or does not fit.
    """
    tensors = checkpoint.tensors
    scheme = _scheme(checkpoint)
    coded = [ref for ref in tensors.values() if ref.dtype in _FP8]
    _refuse(name, scheme, tensors.values())
    if not coded:
        return tensors, ()
    dtype = _dtype(checkpoint)
    made: dict[str, Source] = dict(tensors)
    for ref in coded:
        made[ref.name] = _dequantised(name, ref, tensors, scheme, dtype)
    dropped = sorted((one for one in tensors if one.endswith(_DROPPED)), key=natural)
    notes = [f"{name}: float8 is read as the {dtype} weights it stands for, in {count(len(coded), 'tensor')}"]
    if dropped:
        notes.append(f"{name}: scales are not in the result: {few(dropped)}")
    return {one: source for one, source in made.items() if one not in dropped}, tuple(notes)


def _scheme(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    for config in (checkpoint.config or {}, checkpoint.text_config):
        for key in ("quantization_config", "compression_config"):
            if isinstance(config.get(key), dict):
                return dict(config[key])
    return None


def _dtype(checkpoint: Checkpoint) -> str:
    """What the weights were before: the config's word, or bfloat16."""
    for config in (checkpoint.config or {}, checkpoint.text_config):
        for key in ("dtype", "torch_dtype"):
            if config.get(key) in FLOATS:
                return str(config[key])
    return "bfloat16"


def _refuse(name: str, scheme: Mapping[str, Any] | None, tensors: Iterable[TensorRef]) -> None:
    integers = [ref for ref in tensors if ref.dtype not in FLOATS and ref.dtype not in _FP8]
    method = str((scheme or {}).get("quant_method", ""))
    for ref in integers:
        mark = next((what for end, what in _MARKS.items() if ref.name.endswith(end)), "")
        if mark or (scheme and method not in _KNOWN):
            what = f"'{name}' is quantised ({method or mark}): {ref.name} is {ref.dtype}"
            raise InputError("E330", what, "merge the unquantised model and quantise the result")


def _dequantised(
    name: str, ref: TensorRef, tensors: Mapping[str, TensorRef], scheme: Mapping[str, Any] | None, dtype: str
) -> Dequantised:
    scale = next((tensors[ref.name + end] for end in _SCALES if ref.name + end in tensors), None)
    if scale is None:
        if scheme:
            what = f"'{name}' is quantised, and {ref.name} has no {ref.name}{_SCALES[0]} or {ref.name}{_SCALES[1]}"
            raise InputError("E345", what, "fetch the whole model")
        return Dequantised(ref.name, dtype, ref.shape, ref, None, (1, 1))
    rows, columns = ref.numel // ref.shape[-1] if ref.numel else 0, ref.shape[-1] if ref.shape else 1
    for block in _blocks(rows, columns, scheme):
        grid = (ceil(rows / block[0]), ceil(columns / block[1]))
        if scale.shape in _forms(grid) and scale.dtype in FLOATS:
            return Dequantised(ref.name, dtype, ref.shape, ref, scale._replace(shape=grid), block)
    what = f"'{name}' has {scale.name} as {scale.dtype} {list(scale.shape)} for {ref.name} {list(ref.shape)}"
    raise InputError("E345", what, "expected a scale for all, for each row, or for each block that the config names")


def _blocks(rows: int, columns: int, scheme: Mapping[str, Any] | None) -> list[tuple[int, int]]:
    """What a scale may be for: all entries, each row, or blocks of a size that the config gives."""
    found = [(max(1, rows), max(1, columns)), (1, max(1, columns))]
    sizes = [(scheme or {}).get("weight_block_size")]
    groups = (scheme or {}).get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        sizes.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    return found + [block for block in map(_block, sizes) if block]


def _block(size: Any) -> tuple[int, int] | None:
    is_block = isinstance(size, list) and len(size) == 2 and all(type(one) is int and one > 0 for one in size)
    return (size[0], size[1]) if is_block else None


def _forms(grid: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes a grid of scales may be stored in: without the last axes, where they have one entry."""
    return [grid[:axes] for axes in (2, 1, 0) if prod(grid[axes:]) == 1]
