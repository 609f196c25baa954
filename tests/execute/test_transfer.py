"""Transfer to a GPU, a pretended one: what is copied late is waited for, and every method makes its bytes there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import any_method, write_one_tensor
from pretend import GPU, RUBBISH, Gpu, pretended
from recipes_fixtures import write_model
from safetensors.torch import load_file, save_file

import mergec
from mergec.execute.run import run_part
from mergec.execute.transfer import PinnedTransfer, Transfer, streams, transfer
from mergec.ops.registry import methods

SHAPE = 90, 700


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A pretended GPU in this test."""
    with pretended(monkeypatch) as made:
        yield made


def filled(value: int) -> Any:
    """What fills memory of int32 with a value."""

    def fill(view: memoryview) -> None:
        view[:] = torch.full((len(view) // 4,), value, dtype=torch.int32).numpy().tobytes()

    return fill


def test_only_a_gpu_has_streams(gpu: Gpu) -> None:
    assert type(transfer(GPU)) is PinnedTransfer
    assert type(transfer(torch.device("cpu"))) is Transfer


def test_all_threads_have_the_same_streams(gpu: Gpu) -> None:
    """Torch never gives memory that was used on one stream to another, so that each would take as much as all."""
    assert streams(GPU) is streams(GPU)
    assert len(set(streams(GPU))) == 2


def test_memory_is_filled_again_when_it_was_copied(gpu: Gpu) -> None:
    ways = transfer(GPU)
    made = [ways.load(0, "int32", entries, filled(value)) for value, entries in enumerate((5, 5, 3, 8))]
    assert [one.tolist() for one in made] == [[0] * 5, [1] * 5, [2] * 3, [3] * 8]
    assert all(one.device == GPU for one in made)
    assert gpu.late_copies == 4


def test_kernels_wait_for_what_they_compute_with(gpu: Gpu) -> None:
    sent = transfer(GPU).load(0, "int32", 3, filled(5))
    assert sent in gpu.computing.keeps
    assert (sent + 1).tolist() == [6] * 3


def test_a_tile_is_there_when_it_was_waited_for_and_not_before(gpu: Gpu) -> None:
    tile = torch.arange(12, device=GPU)[::2]
    landing = transfer(GPU).fetch(tile)
    landing.values.fill_(RUBBISH)
    landing.wait()
    assert landing.values.tolist() == [0, 2, 4, 6, 8, 10]
    assert not landing.is_lent


def test_a_tile_leaves_when_it_was_computed_and_its_memory_is_kept_until_it_has_left(gpu: Gpu) -> None:
    ways, tile = transfer(GPU), torch.arange(6, device=GPU)
    assert isinstance(ways, PinnedTransfer)
    ways.fetch(tile)
    assert ways._back.waited == [gpu.computing]
    assert tile in ways._back.keeps


def test_the_processor_copies_nothing() -> None:
    ways = transfer(torch.device("cpu"))
    first = ways.load(0, "bfloat16", 4, lambda view: None)
    assert ways.load(0, "bfloat16", 4, lambda view: None) is first
    assert ways.fetch(first).values is first
    assert ways.fetch(first).is_lent


def compiled(folder: Path, name: str, workers: int, limit: int | None = 1 << 40, **parameters: Any) -> mergec.Plan:
    """The plan of a method, in small tiles, which stay small where memory is limited."""
    plan = mergec.compile(any_method(folder, name, folder, **parameters))
    memory = dataclasses.replace(plan.memory, tile=1 << 12, workers=workers, limit_bytes=limit)
    return dataclasses.replace(plan, memory=memory)


def assert_same_bytes(plan: mergec.Plan, folder: Path, gpu: Gpu) -> None:
    plan.run(folder / "here", device="cpu", compile="off")
    assert not gpu.operations
    plan.run(folder / "there", device="cuda")
    assert gpu.operations
    assert gpu.late_copies
    for path in (folder / "here").glob("*.safetensors"):
        assert path.read_bytes() == (folder / "there" / path.name).read_bytes()


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_makes_the_bytes_of_the_processors_kernels(gpu: Gpu, tmp_path: Path, name: str) -> None:
    for model in ("base", "a", "b", "c"):
        write_model(tmp_path / model, seed=model)
    assert_same_bytes(compiled(tmp_path, name, 2, scale=0.5), tmp_path, gpu)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Models base, a, b and c of one tensor of many tiles."""
    write_one_tensor(tmp_path, SHAPE)
    return tmp_path


SHARED: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("model_stock", {}),
    ("ties", {}),
    ("ties", {"scope": "model"}),
    ("breadcrumbs", {}),
    ("sce", {}),
    ("della", {}),
]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("name", "parameters"), SHARED)
def test_workers_share_the_tiles_of_a_tensor(
    gpu: Gpu, large: Path, name: str, parameters: dict[str, Any], workers: int
) -> None:
    assert_same_bytes(compiled(large, name, workers, **parameters), large, gpu)


def test_larger_tiles_start_fewer_kernels(gpu: Gpu, large: Path) -> None:
    started = []
    for number, limit in enumerate((1 << 40, None)):
        gpu.operations = 0
        compiled(large, "della", 1, limit).run(large / str(number), device="cuda")
        started.append(gpu.operations)
    assert started[1] < started[0] / 10
    assert (large / "0/model.safetensors").read_bytes() == (large / "1/model.safetensors").read_bytes()
    gpu.operations = 0
    run_part(compiled(large, "della", 1, None), ["w"], large / "part", device="cuda")
    assert gpu.operations == started[1]


def test_a_value_that_is_not_finite_is_named(gpu: Gpu, large: Path) -> None:
    values = torch.ones(SHAPE)
    values[80, 600] = float("inf")
    save_file({"w": values.to(torch.bfloat16)}, large / "b" / "model.safetensors")
    with pytest.raises(mergec.RunError) as caught:
        compiled(large, "linear", 2).run(large / "out", device="cuda")
    what = f"w is not finite at entry {80 * 700 + 600:,}: from w of {large / 'b' / 'model.safetensors'}"
    assert (caught.value.code, caught.value.what) == ("E413", what)


def test_a_gpu_without_memory_is_told_of(gpu: Gpu, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    monkeypatch.setattr(PinnedTransfer, "fetch", full)
    with pytest.raises(mergec.RunError) as caught:
        compiled(large, "linear", 2).run(large / "out", device="cuda")
    what = "no memory for 2 workers with tiles of 4,096 entries: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert (caught.value.code, caught.value.what) == ("E415", what)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("name", "parameters"), SHARED)
def test_a_gpu_that_is_there(large: Path, name: str, parameters: dict[str, Any]) -> None:
    """The same bytes for any workers and tiles, and but for the rounding of its kernels those of the processor."""
    compiled(large, name, 1, **parameters).run(large / "one", device="cuda:0")
    compiled(large, name, 3, **parameters).run(large / "three", device="cuda:0")
    compiled(large, name, 3, None, **parameters).run(large / "whole", device="cuda:0")
    assert len({(large / one / "model.safetensors").read_bytes() for one in ("one", "three", "whole")}) == 1
    compiled(large, name, 1, **parameters).run(large / "here", device="cpu")
    here, there = (load_file(large / one / "model.safetensors")["w"].float() for one in ("here", "one"))
    assert ((here - there).abs() > 2**-7 * here.abs()).float().mean() < 1e-3
