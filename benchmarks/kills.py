"""Kill a merge at random moments, fill its disk, break its reads: the next run ends in the same bytes.
python benchmarks/kills.py --kills 50 --megabytes 200
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

RECIPE = {"merge_method": "ties", "base_model": "base", "parameters": {"density": 0.5, "weight": 0.5}}


def write_family(folder: Path, megabytes: int, layers: int = 24) -> Path:
    """A base and two models that give a result of so many megabytes in bfloat16; returns a recipe for them."""
    side = int((megabytes * 1e6 / 2 / layers) ** 0.5)
    for number, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            f"model.layers.{layer}.mlp.up_proj.weight": torch.randn(side, side, generator=generator).bfloat16()
            for layer in range(layers)
        }
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    recipe = folder / "ties.yml"
    recipe.write_text(json.dumps({**RECIPE, "models": [{"model": "a"}, {"model": "b"}]}))
    return recipe


def start(recipe: Path, out: Path, before: str = "") -> subprocess.Popen[str]:
    """`mergec run` as a process of its own; `before` is Python that it runs first."""
    code = f"import sys; {before or 'pass'}\nfrom mergec.cli.main import main; main(sys.argv[1:])"
    arguments = ["run", str(recipe), str(out), "--json", "--device", "cpu"]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """What a run that must succeed says about itself."""
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0, lines
    done: dict[str, int] = json.loads(lines[-1])
    return done


def digest(out: Path) -> str:
    files = sorted(path for path in out.iterdir() if path.name != "mergec.lock")
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def assert_no_model(out: Path) -> None:
    """Nothing that a loader would take for a model, whole or half, where there was none before."""
    assert not out.exists()
    assert not [
        path for path in out.parent.glob(f".{out.name}.mergec*/**/*") if path.suffix in (".safetensors", ".json")
    ]


def kill_at(recipe: Path, out: Path, seconds: float, expected: str) -> tuple[str, int, int]:
    """Kill a run after so many seconds and run again: how that went, tensors kept and bytes read by the second."""
    process = start(recipe, out)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    how = "killed"
    if out.exists():
        how = "published before"
        assert digest(out) == expected
    else:
        assert_no_model(out)
    done = finish(start(recipe, out))
    assert digest(out) == expected
    shutil.rmtree(out)
    return how, done["kept"], done["read_bytes"]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of so many megabytes; only root can make one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(recipe: Path, folder: Path, megabytes: int, expected: str) -> None:
    """A disk that is too small from the start, and one that fills up on the way; then there is room again."""
    with small_disk(folder / "disk", megabytes // 2) as disk:
        out = disk / "out"
        process = start(recipe, out)
        assert (process.communicate()[0], process.returncode) in (("", 1), ("", 2))
        assert_no_model(out)
    with small_disk(folder / "filling", int(megabytes * 1.5)) as disk:
        out = disk / "out"
        no_reserve = "import os; del os.posix_fallocate"
        process = start(recipe, out, no_reserve)
        while not list(disk.glob(".out.mergec/*.part")) and process.poll() is None:
            time.sleep(0.01)
        free = shutil.disk_usage(disk).free
        (disk / "somebody else's").write_bytes(bytes(max(0, free - megabytes * 300_000)))
        process.communicate()
        assert process.returncode == 1
        assert_no_model(out)
        (disk / "somebody else's").unlink()
        done = finish(start(recipe, out))
        assert digest(out) == expected
        print(f"full disk: failed as it should, then kept {done['kept']} tensors")


def broken_read(recipe: Path, out: Path, expected: str) -> None:
    """The n-th read of an input fails."""
    for number in (1, 40, 120):
        before = (
            "import os, itertools; real = os.preadv; calls = itertools.count(1)\n"
            "def fail(*a):\n"
            f"    if next(calls) == {number}: raise OSError(5, 'Input/output error')\n"
            "    return real(*a)\n"
            "os.preadv = fail"
        )
        process = start(recipe, out, before)
        process.communicate()
        assert process.returncode == 1
        assert_no_model(out)
        done = finish(start(recipe, out))
        assert digest(out) == expected
        shutil.rmtree(out)
        print(f"read {number} failed as it should, then kept {done['kept']} tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MERGEC_CACHE"] = str(folder / "cache")
        recipe, out = write_family(folder / "models", options.megabytes), folder / "out"
        begun = time.monotonic()
        whole = finish(start(recipe, out))
        seconds, expected = time.monotonic() - begun, digest(out)
        shutil.rmtree(out)
        print(f"{options.megabytes} MB in {seconds:.1f} s, {whole['read_bytes']:,} bytes read")
        source = random.Random(options.seed)
        moments = sorted(source.uniform(0, seconds) for _ in range(options.kills))
        for moment in moments:
            how, kept, read = kill_at(recipe, out, moment, expected)
            share = read / whole["read_bytes"]
            print(f"{how} at {moment:5.2f} s: kept {kept:2} of {whole['tensors']}, then read {share:4.0%}")
        broken_read(recipe, out, expected)
        if os.geteuid() == 0:
            full_disk(recipe, folder, options.megabytes, expected)


if __name__ == "__main__":
    main()
