"""Tiny checkpoints written byte by byte, and the command line run in this process."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mergec.cli.main import _run
from mergec.io.tensors import ITEM_BYTES, header_bytes

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.0.mlp.down_proj.weight": (4, 6),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.input_layernorm.weight": (4,),
    "model.layers.1.mlp.down_proj.weight": (4, 6),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "vocab_size": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def tensor_bytes(name: str, dtype: str, shape: Iterable[int], seed: object) -> bytes:
    """Bytes of a tensor: random float32 values around 0, or small integers."""
    numel = 1
    for size in shape:
        numel *= size
    source = random.Random(f"{seed}/{name}")
    if dtype == "float32":
        return struct.pack(f"<{numel}f", *(source.uniform(-1, 1) for _ in range(numel)))
    if dtype in ("bfloat16", "float16"):
        return struct.pack(f"<{numel}H", *(0x3C00 + source.randrange(64) for _ in range(numel)))
    return bytes(source.randrange(2) for _ in range(numel * ITEM_BYTES[dtype]))


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], seed: object = 0) -> bytes:
    """A whole safetensors file of tensors given as name -> (dtype, shape)."""
    spans, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        values = tensor_bytes(name, dtype, shape, seed)
        spans[name] = (dtype, shape, len(data), len(data) + len(values))
        data += values
    return header_bytes(spans) + data


TOKENIZER = {"model": {"type": "WordLevel", "vocab": {token: number for number, token in enumerate("abcdefgh")}}}


def write_model(
    folder: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    dtypes: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = CONFIG,
    seed: object = 0,
    shards: int = 1,
) -> Path:
    """A model folder: float32 tensors of the shapes, unless `dtypes` says otherwise, in one file or sharded."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: ((dtypes or {}).get(name, "float32"), shape) for name, shape in shapes.items()}
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, seed))
        return folder
    names = list(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        (folder / file).write_bytes(safetensors_bytes(part, seed))
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_family(folder: Path, names: Iterable[str] = ("base", "a", "b", "c")) -> Path:
    """Models of one architecture, each in a folder of its own name."""
    for name in names:
        write_model(folder / name, seed=name)
    return folder


def tensors_of(file: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a safetensors file, by name."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    entries.pop("__metadata__", None)
    spans = {name: entry["data_offsets"] for name, entry in entries.items()}
    return {name: data[start + begin : start + end] for name, (begin, end) in sorted(spans.items())}


class Called(NamedTuple):
    """What a call of the command line printed and returned."""

    code: int
    out: str
    err: str


def mergec(*arguments: object) -> Called:
    """Run `mergec ARGUMENTS` in this process, through its real entry."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _run([str(argument) for argument in arguments])
        except SystemExit as stop:  # --help and --version
            code = int(stop.code or 0)
    return Called(code, out.getvalue(), err.getvalue())
