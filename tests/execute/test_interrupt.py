"""Runs that are interrupted or killed: nothing looks like a model, the next run goes on and ends in the same bytes."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import contents, dare, merged
from interrupts import run_until_killed
from models import Family

import mergec
from mergec.io.journal import Journal, Placed
from mergec.io.staging import staging_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


@pytest.fixture
def plan(family: Callable[..., Family], tmp_path: Path) -> mergec.Plan:
    """A merge of 30 tensors in some 300 tiles, on two workers."""
    llama = family("llama", torch.bfloat16)
    made = mergec.compile(dare(tmp_path, llama.base, *llama.tunes), workers=2)
    return dataclasses.replace(made, memory=dataclasses.replace(made.memory, tile=100))


@pytest.fixture
def clean(plan: mergec.Plan, tmp_path: Path) -> dict[str, bytes]:
    """What a run that nobody disturbs makes."""
    plan.run(tmp_path / "clean", device="cpu")
    return contents(tmp_path / "clean")


def recorded(out: Path) -> list[Placed]:
    """The tensors that the journals call done, and where they lie."""
    with Journal(staging_folder(out), None, sync=lambda: None) as journal:
        return list(journal.placed.values())


def assert_no_model(out: Path) -> None:
    staged = staging_folder(out)
    assert not out.exists()
    assert staged.is_dir()
    assert not list(staged.rglob("*.safetensors"))
    assert not list(staged.rglob("*.json"))


@pytest.mark.parametrize("write", [1, 2, 100, 190, 280])
def test_a_killed_run_leaves_no_model_and_is_taken_up_again(
    plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path, write: int
) -> None:
    out = tmp_path / "out"
    run_until_killed(plan, out, write)
    assert_no_model(out)
    done = recorded(out)
    result = plan.run(out, device="cpu")
    assert result.kept == len(done)
    assert (result.kept > 0) == (write >= 100)
    assert contents(out) == clean
    assert not staging_folder(out).exists()


def test_transformers_finds_no_model_in_the_staging_folder(plan: mergec.Plan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run_until_killed(plan, tmp_path / "out", 250)
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(staging_folder(tmp_path / "out"))


def test_a_run_may_be_killed_again_and_again(plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path) -> None:
    out, kept = tmp_path / "out", 0
    for _ in range(3):
        run_until_killed(plan, out, 90)
        assert_no_model(out)
        assert len(set(recorded(out))) > kept
        kept = len(set(recorded(out)))
    assert plan.run(out, device="cpu").kept == kept
    assert contents(out) == clean


def test_the_output_of_an_earlier_run_stays_until_the_new_one_is_whole(
    plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = merged(tmp_path / "recipe.yml", out, overrides={"seed": 99})
    run_until_killed(plan, out, 100)
    assert contents(out) == before
    plan.run(out, device="cpu")
    assert contents(out) == clean


def test_a_staged_tensor_that_was_damaged_is_computed_again(
    plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_until_killed(plan, out, 200)
    done = recorded(out)
    damaged = done[len(done) // 2]
    with open(staging_folder(out) / damaged.file, "r+b") as stream:
        stream.seek(damaged.end - 1)
        last = stream.read(1)[0]
        stream.seek(damaged.end - 1)
        stream.write(bytes([last ^ 1]))
    assert plan.run(out, device="cpu").kept == len(done) - 1
    assert contents(out) == clean


def test_nothing_is_kept_when_the_recipe_or_an_input_has_changed(
    plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_until_killed(plan, out, 200)
    other = mergec.compile(tmp_path / "recipe.yml", overrides={"seed": 8})
    assert other.run(out, device="cpu").kept == 0
    run_until_killed(plan, out, 200)
    source = Path(plan.files[0].path)
    os.utime(source, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns + 1))
    assert plan.run(out, device="cpu").kept == 0
    assert contents(out) == clean


def test_tensors_that_another_recipe_has_in_common_are_kept(plan: mergec.Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_until_killed(plan, out, 250)
    done = len(recorded(out))
    weight = [{"filter": "mlp", "value": 0.3}, {"value": 0.5}]
    other = mergec.compile(tmp_path / "recipe.yml", overrides={"parameters.weight": weight})
    result = other.run(out, device="cpu")
    assert 0 < result.kept < done
    other.run(tmp_path / "clean", device="cpu")
    assert contents(out) == contents(tmp_path / "clean")


@pytest.mark.parametrize("shard_bytes", [1, 20_000])
def test_another_layout_keeps_everything(plan: mergec.Plan, tmp_path: Path, shard_bytes: int) -> None:
    out = tmp_path / "out"
    run_until_killed(plan, out, 250)
    done = len(recorded(out))
    other = mergec.compile(tmp_path / "recipe.yml", shard_bytes=shard_bytes)
    run_until_killed(other, out, done // 2)
    assert_no_model(out)
    assert other.run(out, device="cpu").kept >= done
    other.run(tmp_path / "clean", device="cpu")
    assert contents(out) == contents(tmp_path / "clean")


@pytest.mark.parametrize("call", [1, 77, 150])
@pytest.mark.parametrize(
    ("function", "error", "code"), [("preadv", errno.EIO, "E410"), ("pwrite", errno.ENOSPC, "E412")]
)
def test_a_disk_that_fails_leaves_no_model_and_the_next_run_goes_on(
    plan: mergec.Plan,
    clean: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    error: int,
    code: str,
    call: int,
) -> None:
    real, calls = getattr(os, function), itertools.count(1)

    def fail(*arguments: Any) -> int:
        is_probe = len(arguments) > 3  # whether a byte is cached, whose failure is no news
        if not is_probe and next(calls) == call:
            raise OSError(error, os.strerror(error))
        return int(real(*arguments))

    monkeypatch.setattr(os, function, fail)
    out = tmp_path / "out"
    with pytest.raises(mergec.RunError, match=code):
        plan.run(out, device="cpu")
    assert_no_model(out)
    monkeypatch.undo()
    done = len(recorded(out))
    assert done == 0 or call > 1
    assert plan.run(out, device="cpu").kept == done
    assert contents(out) == clean


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 2)])
def test_ctrl_c_says_that_nothing_was_touched_and_the_same_command_goes_on(
    plan: mergec.Plan, clean: dict[str, bytes], tmp_path: Path, number: int, workers: int
) -> None:
    out = tmp_path / "out"
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        # a job in the background is started with SIGINT ignored; one at a terminal is not
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from interrupts import signal_at; from mergec.cli.main import main\n"
        f"signal_at(12, {int(number)}); main(sys.argv[2:])"
    )
    arguments = ["run", tmp_path / "recipe.yml", out, "--workers", str(workers), "--device", "cpu"]
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, tests, *arguments],
        env={**os.environ, "PYTHONPATH": str(tests.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "the same command goes on" in done.stderr
    assert_no_model(out)
    result = plan.run(out, device="cpu")
    assert 0 < result.kept < result.tensors
    assert contents(out) == clean
