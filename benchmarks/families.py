"""Synthetic checkpoints in the shapes of real ones, and commands run under the clock; used by every benchmark."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mergec.io.tensors import header_bytes

Shapes = Mapping[str, tuple[int, ...]]
SIZES = {  # layers, width, inner width, vocabulary, width of keys and values
    "0.06B": (6, 768, 2048, 16000, 256),
    "0.25B": (14, 1024, 2816, 32000, 512),
    "1GB": (8, 2048, 6144, 32000, 512),
    "1B": (20, 2048, 5632, 32000, 512),
    "8B": (32, 4096, 14336, 128256, 1024),
}


def llama_shapes(layers: int, width: int, inner: int, vocabulary: int, kv_width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama: untied, without biases."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width), ("o_proj", width)):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (rows, width)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = shapes[f"{prefix}.mlp.up_proj.weight"] = (inner, width)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (width, inner)
        shapes[f"{prefix}.input_layernorm.weight"] = (width,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def experts_shapes(layers: int, experts: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a mixture of experts with one tensor per expert and projection."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, 2048)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (2048, 2048)
        shapes[f"{prefix}.mlp.gate.weight"] = (experts, 2048)
        for expert in range(experts):
            for name, shape in (("gate_proj", (768, 2048)), ("up_proj", (768, 2048)), ("down_proj", (2048, 768))):
                shapes[f"{prefix}.mlp.experts.{expert}.{name}.weight"] = shape
    return {**shapes, "model.norm.weight": (2048,), "lm_head.weight": (32000, 2048)}


def write_headers(folder: Path, shapes: Shapes, per_shard: int) -> None:
    """A sharded bfloat16 checkpoint whose headers are real and whose data are holes in the files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(shapes)
    groups = [names[start : start + per_shard] for start in range(0, len(names), per_shard)]
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        entries, end = _entries(group, shapes)
        header = header_bytes(entries)
        with open(folder / file, "wb") as stream:
            stream.write(header)
            stream.truncate(len(header) + end)
        weight_map |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_config(folder, shapes)


def _entries(names: Sequence[str], shapes: Shapes) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], int]:
    entries, end = {}, 0
    for name in names:
        begin = end
        size = 2
        for length in shapes[name]:
            size *= length
        end += size
        entries[name] = ("bfloat16", shapes[name], begin, end)
    return entries, end


def write_config(folder: Path, shapes: Shapes) -> None:
    """A config.json that transformers and mergekit read as a Llama of these shapes."""
    vocabulary, width = shapes["model.embed_tokens.weight"]
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("model.layers."))
    kv_width = shapes["model.layers.0.self_attn.k_proj.weight"][0]
    inner = shapes.get("model.layers.0.mlp.up_proj.weight", (width, width))[0]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": width // 64,
        "num_key_value_heads": kv_width // 64,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_family(folder: Path, shapes: Shapes, labels: Sequence[str]) -> None:
    """Real bfloat16 checkpoints: `base`, and for each label the base plus its own small changes. Made once."""
    import torch
    from safetensors.torch import save_file

    for number, label in enumerate(["base", *labels]):
        if (folder / label / "config.json").exists():
            continue
        (folder / label).mkdir(parents=True, exist_ok=True)
        tensors = {}
        for index, (name, shape) in enumerate(shapes.items()):
            tensor = torch.randn(shape, generator=torch.Generator().manual_seed(index)) * 0.02
            if number:
                tensor += torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + index)) * 0.002
            tensors[name] = tensor.to(torch.bfloat16)
        save_file(tensors, folder / label / "model.safetensors", metadata={"format": "pt"})
        write_config(folder / label, shapes)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own: a child's peak memory counts what its parent held when it was forked."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@dataclass(frozen=True)
class Measured:
    """A command's wall and CPU seconds, the most memory it held, in all and without that of files, and its output."""

    seconds: float
    peak_mib: float
    cpu_seconds: float = 0.0
    anonymous_mib: float = 0.0
    output: str = ""


def measure(command: Sequence[str], cwd: Path, codes: Sequence[int] = (0,)) -> Measured:
    """Run a whole command; raises CalledProcessError with its output if it ends with another exit code."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode beside it
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
        anonymous = 0.0
        while True:
            anonymous = max(anonymous, anonymous_mib(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode not in codes:
        raise subprocess.CalledProcessError(process.returncode, command, text)
    return Measured(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, anonymous, text)


def anonymous_mib(pid: int | str = "self") -> float:
    """Memory of a process that no file backs; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def mergec(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mergec", *arguments]


def median(runs: Sequence[Measured]) -> Measured:
    return Measured(statistics.median(run.seconds for run in runs), statistics.median(run.peak_mib for run in runs))


def recipe(method: str, labels: Sequence[str], settings: Mapping[str, object], base: bool = True) -> str:
    """A recipe's text, in JSON, which is YAML."""
    document: dict[str, object] = {"merge_method": method, "models": [{"model": label} for label in labels]}
    if base:
        document["base_model"] = "base"
    return json.dumps({**document, "parameters": settings, "dtype": "bfloat16"}, indent=2)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Aligned text columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        yield "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
