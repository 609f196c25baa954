"""Break every file that mergec reads, in thousands of ways: each gives a clean error or a correct result.
python benchmarks/fuzz.py --cases 20000

A case is (seed, number): a file of a small workplace is mutated, one command is run on it. It fails if an exception
escapes, an exit code or a message is not of those there are, it takes over 5 s, or 512 MiB more than before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1] / "tests"
MOST_SECONDS, MOST_MEGABYTES = 5, 512
RUNS = 0.06  # share of cases that merge, where the file allows it


class Target(NamedTuple):
    """A file to break, and the commands that read it."""

    file: str
    commands: tuple[tuple[str, ...], ...]


LOOKS = (("check", "r.yml"), ("plan", "r.yml"), ("explain", "r.yml", "lm_head.weight"), ("diff", "r.yml", "ok.yml"))
RECIPES = (*LOOKS, ("fmt", "--check", "r.yml"), ("canon", "r.yml"), ("lock", "r.yml"), ("run", "r.yml", "new"))
HEADERS = (("check", "r.yml"), ("plan", "r.yml"), ("inspect", "a"), ("lock", "r.yml"), ("run", "r.yml", "new"))
TARGETS = (
    Target("r.yml", RECIPES),
    Target("slices.yml", tuple(tuple(part.replace("r.yml", "slices.yml") for part in one) for one in LOOKS)),
    Target("stages.yml", tuple(tuple(part.replace("r.yml", "stages.yml") for part in one) for one in LOOKS)),
    Target("pipeline.yml", tuple(tuple(part.replace("r.yml", "pipeline.yml") for part in one) for one in LOOKS)),
    Target("a/model.safetensors", HEADERS),
    Target("a/config.json", HEADERS),
    Target("b/model.safetensors.index.json", (("check", "r.yml"), ("inspect", "b"), ("run", "r.yml", "new"))),
    Target("c/pytorch_model.bin", (("check", "bin.yml"), ("inspect", "c"), ("run", "bin.yml", "new"))),
    Target("mergec.lock", (("status", "r.yml"), ("run", "--frozen", "r.yml", "new"), ("diff", "mergec.lock", "r.yml"))),
    Target(
        "out/mergec.lock", (("verify", "out"), ("status", "out"), ("run", "r.yml", "out"), ("diff", "out", "r.yml"))
    ),
    Target("out/model.safetensors", (("verify", "out"), ("inspect", "out"), ("run", "r.yml", "out"))),
    Target("art/mergec_artifact.json", (("inspect", "art"), ("materialize", "art", "--task", "a", "new"))),
    Target("plan.json", (("run", "plan.json", "new"), ("diff", "plan.json", "r.yml"))),
)


# ------------------------------------------------------------------------------------------- mutations

WORDS = [b"null", b"true", b"-1", b"1e999", b"99999999999999999999", b"NaN", b"[]", b"{}", b'""', b"../../x", b"\0"]
WORDS += [b"[" * 200, b"{a: " * 60, b"&a [*a]", b"*a", b"!!python/name:os.system", b"\xff\xfe", b"\xed\xa0\x80", b"\t"]
WORDS += [b"---\n", b"'", b'"', b"9" * 400, b": ", b"- ", b"# ", b"<<: *x", b"\r\n", "\u2028".encode(), b"\\ud800"]


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS) + data[at:]


def cut(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 40) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A piece once more: a key that stands twice, an entry of its own brother."""
    at = rng.randrange(len(data))
    piece = data[at : at + rng.randrange(1, 200)]
    return data[:at] + piece * rng.choice((2, 2, 3, 50)) + data[at + len(piece) :]


def number(data: bytes, rng: random.Random) -> bytes:
    """Another number in the place of one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not found:
        return insert(data, rng)
    one = rng.choice(found)
    value = rng.choice(
        (b"0", b"-1", b"1", b"2", b"4294967296", b"18446744073709551616", b"1e308", b"0.5", b"nan", one[0] + b"0")
    )
    return data[: one.start()] + value + data[one.end() :]


def word(data: bytes, rng: random.Random) -> bytes:
    """Another word of the file, or something odd, in the place of one."""
    found = list(re.finditer(rb"[A-Za-z_][\w.]*", data[:100_000]))
    if not found:
        return insert(data, rng)
    one, other = rng.choice(found), rng.choice(found)[0]
    return data[: one.start()] + rng.choice((other, rng.choice(WORDS))) + data[one.end() :]


def value(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON document, anywhere in it, replaced by one of another type."""
    start = 8 + int.from_bytes(data[:8], "little") if data[8:9] == b"{" else 0
    try:
        document = json.loads(data[8:start] if start else data)
    except ValueError:
        return word(data, rng)
    paths = list(_paths(document, ()))
    path = rng.choice(paths)
    odd: list[Any] = [None, True, -1, 0, 2**63, 1.5, "", "x" * 300, [], {}, [[]], {"a": {}}, "\ud800", "../x", "F32"]
    text = json.dumps(_with(document, path, rng.choice(odd))).encode()
    return len(text).to_bytes(8, "little") + text + data[start:] if start else text


def _paths(document: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, item in items:
        yield from _paths(item, (*path, key))


def _with(document: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = _with(document[path[0]], path[1:], new)
    return copied


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(flip, truncate, insert, insert, cut, repeat, number, number, word, word, value, value),
)


# ------------------------------------------------------------------------------------------- workplace


def make_workplace(folder: Path) -> None:
    """Small models, recipes, a lock, an output and an artifact: one of every kind of file that is read."""
    import torch
    from recipes_fixtures import CONFIG, SHAPES, mergec, write_model

    for name, shards in (("base", 1), ("a", 1), ("b", 2)):
        write_model(folder / name, seed=name, shards=shards)
    (folder / "c").mkdir()
    (folder / "c/config.json").write_text(json.dumps(CONFIG))
    torch.save({name: torch.zeros(shape) for name, shape in SHAPES.items()}, folder / "c/pytorch_model.bin")
    ties = "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n    parameters: {weight: 0.4, density: 0.5}\n"
    ties += "  - model: b\n    parameters:\n      weight: [{filter: mlp, value: [0.2, 0.6]}, {value: 0.4}]\n"
    ties += "parameters: {density: 0.7, normalize: false}\ndtype: bfloat16\n"
    texts = {
        "r.yml": ties,
        "ok.yml": ties.replace("0.7", "0.6"),
        "bin.yml": "merge_method: linear\nmodels: [{model: a}, {model: c}]\nparameters: {weight: 1}\n",
        "slices.yml": "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n"
        "- sources: [{model: b, layer_range: [1, 2], parameters: {scale: 0.5}}]\n",
        "stages.yml": f"name: first\n{ties}---\nmerge_method: slerp\nbase_model: first\nmodels: [{{model: b}}]\n"
        "parameters: {t: 0.3}\n",
        "pipeline.yml": "merge_method: pipeline\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
        "steps: [diff, {trim: {keep: largest, density: 0.5}}, elect, {fuse: agreeing}]\npost: [svc: {alpha: 0.5}]\n",
        "emr.yml": "merge_method: emr\nbase_model: base\nmodels: [{model: a}, {model: b}]\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    os.chdir(folder)
    for arguments in (("lock", "r.yml"), ("run", "r.yml", "out"), ("run", "emr.yml", "art")):
        called = mergec(*arguments)
        assert called.code == 0, called.err
    (folder / "plan.json").write_text(mergec("plan", "r.yml", "--json").out)


def case(seed: int, number: int, pristine: Path, work: Path) -> tuple[str, str]:
    """Make and run one case in a fresh copy of the workplace; what was run, and what is wrong with it ("": nothing)."""
    rng = random.Random(f"{seed}/{number}")
    target = rng.choice(TARGETS)
    merges = [one for one in target.commands if one[0] in ("run", "materialize")]
    looks = [one for one in target.commands if one not in merges]
    command = rng.choice(merges) if merges and (not looks or rng.random() < RUNS) else rng.choice(looks)
    data = (pristine / target.file).read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, rng) if data else b"\0"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    (work / target.file).write_bytes(data)
    os.chdir(work)
    code, wrong = outcome(command)
    return f"{target.file}: mergec {' '.join(command)}", wrong or _wrong_result(target, command, code, data, pristine)


def _wrong_result(target: Target, command: Sequence[str], code: int, data: bytes, pristine: Path) -> str:
    """What is wrong with a command that went well: it passed what was changed, or made something else."""
    if code != 0:
        return ""
    weights = "model.safetensors"
    if command[0] == "verify" and target.file.endswith(weights) and data != (pristine / target.file).read_bytes():
        return "verify passed weights that were changed"
    if command[0] not in ("run", "materialize"):
        return ""
    made = Path(command[-1])
    if target.file.startswith(("mergec.lock", "out/")):  # which say nothing of what is to be made
        same = (made / weights).read_bytes() == (pristine / "out" / weights).read_bytes()
        return "" if same else "other bytes than those of a clean run"
    checked, wrong = outcome(("verify", str(made)))
    return wrong or ("" if checked == 0 else "what was made is not what its lock says")


def outcome(command: Sequence[str]) -> tuple[int, str]:
    """Run a command of mergec in this process: its exit code, and what is wrong with how it ended."""
    from mergec.cli.main import _run

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    signal.alarm(MOST_SECONDS + 1)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _run(list(command))
    except _TooLongError:
        return -1, f"not done after {MOST_SECONDS} s"
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        return -1, traceback.format_exc()
    finally:
        signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if time.monotonic() - start > MOST_SECONDS:
        return code, f"took {time.monotonic() - start:.1f} s"
    if grown > MOST_MEGABYTES:
        return code, f"took {grown:.0f} MiB"
    return code, _wrong_end(command[0], code, _written(out), _written(err))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")


def _wrong_end(command: str, code: int, out: str, err: str) -> str:
    text = out + err
    if "Traceback" in text:
        return text
    if code not in (0, 1, 2):
        return f"exit code {code}: {text}"
    if code == 2 and not re.search(r"error\[[EW]\d{3}\]|[EW]\d{3}|Usage:|Error:", text):
        return f"exit code 2 and no error with a code: {text}"
    if code == 1 and command in ("run", "materialize") and not re.search(r"error\[E\d{3}\]", text):
        return f"exit code 1 and no error with a code: {text}"
    return ""


class _TooLongError(BaseException):
    pass


def _stop(*_: object) -> None:
    raise _TooLongError


# ------------------------------------------------------------------------------------------- processes


def worker(seed: int, numbers: Sequence[int], pristine: Path, work: Path, results: Any) -> None:
    """Run cases one after the other and report each."""
    signal.signal(signal.SIGALRM, _stop)
    os.environ["MERGEC_CACHE"] = str(work.parent / f"cache-{work.name}")
    import torch

    torch.set_num_threads(1)
    for number in numbers:
        start = time.monotonic()
        label, wrong = case(seed, number, pristine, work)
        results.put((number, label, wrong, time.monotonic() - start))
    results.put((-1, "", "", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def fuzz(cases: int, seed: int, workers: int, first: int = 0) -> int:
    """Run cases, print each failure with the command that shows it again, and a summary; the number of failures."""
    sys.path.insert(0, str(TESTS))
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pristine").mkdir()
        make_workplace(root / "pristine")
        os.chdir(root)
        context = multiprocessing.get_context("fork")
        results: Any = context.Queue()
        shares = [range(first + n, first + cases, workers) for n in range(workers)]
        processes = [
            context.Process(target=worker, args=(seed, share, root / "pristine", root / f"work{n}", results))
            for n, share in enumerate(shares)
        ]
        for process in processes:
            process.start()
        failures = _collect(results, processes, seed)
        os.chdir("/")
    return failures


def _collect(results: Any, processes: Sequence[Any], seed: int) -> int:
    commands: Counter[str] = Counter()
    failures, slowest, peak, running = 0, (0.0, ""), 0.0, len(processes)
    while running:
        try:
            number, label, wrong, taken = results.get(timeout=60)
        except Exception:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            print(f"a worker is stuck or died: {[process.exitcode for process in dead]}", flush=True)
            for process in processes:
                process.kill()
            return failures + 1
        if number < 0:
            running, peak = running - 1, max(peak, taken)
            continue
        commands[label] += 1
        slowest = max(slowest, (taken, f"case {number}, {label}"))
        if wrong:
            failures += 1
            print(
                f"case {number}: {label}\n{wrong}\n  again: fuzz.py --seed {seed} --first {number} --cases 1",
                flush=True,
            )
    print(f"{sum(commands.values()):,} cases of {len(commands)} kinds, {failures} failures")
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}), peak memory of a worker {peak:.0f} MiB")
    return failures


def main() -> int:
    """Read the command line; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    return 1 if fuzz(arguments.cases, arguments.seed, arguments.workers, arguments.first) else 0


if __name__ == "__main__":
    sys.exit(main())
