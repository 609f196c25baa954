"""Inductor: make shared libraries of chains with torch's compiler and the system's, in a process of its own.

`python -m mergec.execute.inductor FOLDER` takes chains on its standard input, one JSON object of key and text a line,
and leaves `KEY.so` in the folder for each, or `KEY.no` with the reason why not. Torch's compiler takes seconds to
import and hundreds of megabytes, which a merge does not want in its own process.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import Any

from mergec.execute.chain import counts_of, function, made_by
from mergec.ops import bits
from mergec.ops.registry import methods

_ITEM = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8, "int32": 4, "bool": 1, "int8": 1}
_STRICT = (  # as torch's kernels compute: each operation for itself, in order, signed zeros and wrapping integers
    "-ffp-contract=off -fsigned-zeros -fno-unsafe-math-optimizations -fno-associative-math -fno-reciprocal-math"
    " -fno-finite-math-only -fwrapv"
)

_LOOPS = re.compile(r"(\w+) = async_compile\.cpp_pybinding\((\[.*?\]), r?'''(.*?)'''\)", re.DOTALL)


class UnfitError(Exception):
    """Torch's compiler made something of a chain that is more than loops over its tensors."""


def main() -> None:
    folder = Path(sys.argv[1])
    os.nice(10)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    methods()
    for line in sys.stdin:
        key, text = json.loads(line).values()
        try:
            _build(folder, key, _source(text))
        except Exception as error:
            (folder / f"{key}.no").write_text(f"{type(error).__name__}: {str(error)[:2000]}\n", encoding="utf-8")


def _build(folder: Path, key: str, source: str) -> None:
    """Compile to a file of another name first: a reader finds a whole library or none."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    with tempfile.TemporaryDirectory(dir=folder) as work:
        path = Path(work) / "chain.cpp"
        path.write_text(source, encoding="utf-8")
        options = CppTorchOptions(vec_isa=pick_vec_isa(), warning_all=False)
        builder = CppBuilder("chain", str(path), options, output_dir=work)
        command = [*builder.get_command_line().split(), *_STRICT.split(), "-g0"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnfitError(done.stderr)
        os.replace(builder.get_target_file_path(), folder / f"{key}.so")


def _source(text: str) -> str:
    """The C++ of a chain: Inductor's loops, and a function that calls them for one tile after another."""
    return _translated(_generated(text), len(json.loads(text)["sources"]) + 2, made_by(text))


def _generated(text: str) -> str:
    """The Python text that Inductor would run, with its loops in C++ as strings."""
    from torch._inductor import compile, config
    from torch._inductor.graph import GraphLowering
    from torch.fx.experimental.proxy_tensor import make_fx

    class Generated(BaseException):
        pass

    def stop(code: str) -> None:
        raise Generated(code)

    GraphLowering.save_output_code = staticmethod(stop)
    config.cpp.threads = 1
    config.cpp.vec_isa_ok = True
    config.fx_graph_cache = False
    with bits.plain():
        graph = make_fx(function(text), tracing_mode="fake")(*_examples(json.loads(text)))
    try:
        compile(graph, _examples(json.loads(text)))
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Generated):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        return str(cause)
    raise UnfitError("no code was generated")


def _examples(chain: dict[str, Any]) -> list[Any]:
    import torch

    counts = [counts_of(op, sources, attrs) for op, sources, attrs in chain["body"]]
    return [
        *(torch.zeros(chain["tile"], dtype=getattr(torch, dtype)) for dtype in chain["sources"]),
        torch.zeros(max(1, sum(one for one, _ in counts)), dtype=getattr(torch, chain["real"])),
        torch.zeros(1 + sum(one for _, one in counts), dtype=torch.int32),
    ]


def _translated(generated: str, inputs: int, results: int) -> str:
    """A C++ function in place of Inductor's Python that allocates, calls loops, returns; else raises UnfitError."""
    loops, types = [], {}
    for name, given, body in _LOOPS.findall(generated):
        types[name] = ast.literal_eval(given)
        loops.append(re.sub(r'extern "C"\s+void\s+kernel\(', f"static void {name}(", body))
    runner = next(node for node in ast.walk(ast.parse(generated)) if getattr(node, "name", "") == "call")
    driver = _Driver(types, inputs, results)
    for statement in runner.body:  # type: ignore[attr-defined]
        driver.take(statement)
    return "\n".join([*loops, driver.text()])


class _Driver:
    """Reads the statements of Inductor's `call` and writes what they do to one tile in C++.

    A place is a buffer - an input by number, or what was allocated by name - and an offset in bytes.
    """

    def __init__(self, types: dict[str, list[str]], inputs: int, results: int) -> None:
        self._types, self._inputs, self._results = types, inputs, results
        self._places: dict[str, tuple[int | str, int]] = {}
        self._allocated: dict[str, tuple[int, int]] = {}  # bytes, bytes of an item
        self._calls: list[tuple[str, list[tuple[int | str, int]]]] = []
        self._returned: list[tuple[int | str, int]] = []

    def take(self, statement: ast.stmt) -> None:
        text = ast.unparse(statement)
        match statement:
            case ast.Delete():
                pass
            case ast.Expr() if text.startswith(("args.clear()", "assert_size_stride(")):
                pass
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Name("args")) if len(names) == self._inputs:
                self._places = {ast.unparse(name): (number, 0) for number, name in enumerate(names)}
            case ast.Assign(targets=[ast.Name(name)], value=value):
                self._places[name] = self._new(name, value) or self._place(value)
            case ast.Expr(ast.Call(ast.Name(name), arguments)) if name in self._types:
                self._calls.append((name, [self._place(one) for one in arguments]))
            case ast.Return(ast.Tuple(elts=values)):
                self._returned = [self._place(one) for one in values]
            case _:
                raise UnfitError(text)

    def _new(self, name: str, value: ast.expr) -> tuple[str, int] | None:
        found = re.fullmatch(r"empty_strided_cpu\((\(.*?\)), \(.*?\), torch\.(\w+)\)", ast.unparse(value))
        if not found:
            return None
        self._allocated[name] = prod(ast.literal_eval(found[1])) * _ITEM[found[2]], _ITEM[found[2]]
        return name, 0

    def _place(self, value: ast.expr) -> tuple[int | str, int]:
        text = ast.unparse(value)
        view = re.fullmatch(r"reinterpret_tensor\((\w+), .*, (\d+)\)", text)
        name, items = (view[1], int(view[2])) if view else (text, 0)
        if name not in self._places:
            raise UnfitError(text)
        buffer, offset = self._places[name]
        if items and buffer not in self._allocated:
            raise UnfitError(text)
        return buffer, offset + (items * self._allocated[str(buffer)][1] if items else 0)

    def text(self) -> str:
        results = [buffer for buffer, offset in self._returned if buffer in self._allocated and not offset]
        if len(results) != self._results or len(set(results)) != self._results:
            raise UnfitError(f"returns {self._returned}")
        where: dict[int | str, str] = {number: f"p[{number}] + t * step[{number}]" for number in range(self._inputs)}
        where |= {name: f"p[{n}] + t * step[{n}]" for n, name in enumerate(results, self._inputs)}
        scratch = 0
        for name, (size, _) in self._allocated.items():
            if name not in where:
                where[name] = f"p[{self._inputs + self._results}] + {scratch}"
                scratch += -(-size // 64) * 64
        return "\n".join(
            [
                f'extern "C" int64_t chain_scratch() {{ return {scratch}; }}',
                'extern "C" void chain_run(char** p, const int64_t* step, int64_t count, int64_t entries) {',
                "    for (int64_t t = 0; t < count; ++t) {",
                f"        *(int32_t*)p[{self._inputs - 1}] = (int32_t)(t * entries);",
                *(f"        {self._call(name, places, where)}" for name, places in self._calls),
                "    }",
                "}",
                "",
            ]
        )

    def _call(self, name: str, places: list[tuple[int | str, int]], where: dict[int | str, str]) -> str:
        given = zip(self._types[name], places, strict=True)
        return f"{name}({', '.join(f'({kind})({where[buffer]} + {offset})' for kind, (buffer, offset) in given)});"


if __name__ == "__main__":
    main()
