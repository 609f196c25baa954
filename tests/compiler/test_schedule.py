"""Sweeps, byte layout, and the promise of memory."""

from __future__ import annotations

import json
import re

import harness
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergec.compiler.lower import Lowered
from mergec.compiler.schedule import (
    LARGEST_TILE,
    SMALLEST_TILE,
    lay_out,
    make_kind,
    peak_bytes,
    promise_memory,
    tile_entries,
)
from mergec.errors import InputError
from mergec.graph import Graph, TensorType, walk
from mergec.io.layout import Shard
from mergec.io.tensors import ITEM_BYTES
from mergec.ops.basic import load
from mergec.ops.op import OPS
from mergec.plan import Kind, Output

DTYPES = ["float64", "float32", "bfloat16", "float16", "int64", "uint8", "bool"]
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=25)


def placed(tensors: list[tuple[tuple[int, ...], str]], shard_bytes: int) -> tuple[list[Output], list[Shard]]:
    graph = Graph()
    roots = [load(graph, 0, TensorType(shape, dtype, "weight")) for shape, dtype in tensors]
    lowered = [Lowered(f"layers.{number}.w", root, ()) for number, root in enumerate(roots)]
    return lay_out(lowered, [0] * len(lowered), shard_bytes)


@given(TENSORS, st.integers(1, 5000))
def test_every_tensor_lies_in_one_shard_and_shards_are_filled_without_holes(
    tensors: list[tuple[tuple[int, ...], str]], shard_bytes: int
) -> None:
    outputs, shards = placed(tensors, shard_bytes)
    assert sorted(output.name for output in outputs) == sorted(f"layers.{n}.w" for n in range(len(tensors)))
    for number, shard in enumerate(shards):
        members = [output for output in outputs if output.shard == number]
        assert members
        position = len(shard.header)
        for output in members:
            assert output.begin == position
            assert output.end - output.begin == output.numel * ITEM_BYTES[output.dtype]
            assert output.begin % ITEM_BYTES[output.dtype] == 0
            position = output.end
        assert position == shard.file_bytes
        data = shard.file_bytes - len(shard.header)
        assert data <= shard_bytes or len([one for one in members if one.numel]) == 1


@given(TENSORS, st.integers(1, 5000))
def test_header_says_what_the_layout_says(tensors: list[tuple[tuple[int, ...], str]], shard_bytes: int) -> None:
    outputs, shards = placed(tensors, shard_bytes)
    for number, shard in enumerate(shards):
        assert len(shard.header) % 8 == 0
        assert int.from_bytes(shard.header[:8], "little") == len(shard.header) - 8
        entries = json.loads(shard.header[8:])
        assert entries.pop("__metadata__") == {"format": "pt"}
        members = {output.name: output for output in outputs if output.shard == number}
        assert entries.keys() == members.keys()
        for name, entry in entries.items():
            assert tuple(entry["shape"]) == members[name].shape
            start = len(shard.header)
            assert entry["data_offsets"] == [members[name].begin - start, members[name].end - start]


def test_shards_are_numbered_and_a_single_one_is_not() -> None:
    _, shards = placed([((10,), "float32")] * 3, 40)
    assert [shard.file for shard in shards] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    _, shards = placed([((10,), "float32")] * 3, 120)
    assert [shard.file for shard in shards] == ["model.safetensors"]


def test_shards_follow_layers_by_number_and_not_by_digit() -> None:
    outputs, _ = placed([((1,), "float32")] * 12, 4)
    assert [output.name for output in outputs] == [f"layers.{n}.w" for n in range(12)]


# ------------------------------------------------------------------------------------------------ sweeps

SWEEPS = {
    ("linear", ""): 1,
    ("task_arithmetic", ""): 1,
    ("slerp", ""): 2,
    ("ties", ""): 2,
    ("ties", "l1"): 3,
    ("breadcrumbs", "l1"): 3,
    ("dare_ties", ""): 1,
    ("dare_ties", "l1"): 2,
    ("della", ""): 1,
    ("della", "l1"): 2,
    ("model_stock", ""): 2,
}


def kind_of(name: str, rescale: str = "", shape: tuple[int, ...] = (12, 50)) -> tuple[Kind, Graph]:
    tensors = [torch.empty(()).expand(shape)] * (2 if name == "slerp" else 4)
    values = {"weight": 0.5, "density": 0.4, "t": 0.3} | ({"rescale": rescale} if rescale else {})
    root = harness.build(name, tensors, values)
    return make_kind(root, root.graph.nodes), root.graph


@pytest.mark.parametrize(("name", "rescale"), SWEEPS)
def test_a_method_sweeps_no_more_often_than_it_must(name: str, rescale: str) -> None:
    kind, _ = kind_of(name, rescale)
    assert len(kind.passes) == SWEEPS[name, rescale]


@pytest.mark.parametrize(("name", "rescale"), SWEEPS)
def test_a_value_is_there_when_it_is_used_and_freed_after_its_last_use(name: str, rescale: str) -> None:
    kind, graph = kind_of(name, rescale)
    reduced: set[int] = set()
    for steps in kind.passes:
        live: set[int] = set()
        computed = {step.node for step in steps}
        for position, step in enumerate(steps):
            node = graph.nodes[step.node]
            for source in node.inputs:
                if source.type.space != "scalar":
                    assert source.index in live
                elif source.op_class == "reduce":
                    assert source.index in reduced
                else:
                    assert source.index in computed
            live.add(step.node)
            for freed in step.frees:
                live.remove(freed)
                later = (source.index for after in steps[position + 1 :] for source in graph.nodes[after.node].inputs)
                assert freed not in later
        reduced |= {node for node in computed if graph.nodes[node].op_class == "reduce"}
    assert kind.passes[-1][-1].node == kind.root


@pytest.mark.parametrize(("name", "rescale"), SWEEPS)
def test_every_reduction_is_made_once(name: str, rescale: str) -> None:
    kind, graph = kind_of(name, rescale)
    made = [step.node for steps in kind.passes for step in steps if graph.nodes[step.node].op_class == "reduce"]
    wanted = [node.index for node in walk(graph.nodes[kind.root]) if node.op_class == "reduce"]
    assert sorted(made) == wanted


@pytest.mark.parametrize(
    ("name", "expected"),
    [("linear", "map"), ("ties", "reduce"), ("della", "row"), ("slerp", "reduce"), ("dare_ties", "map")],
)
def test_the_class_of_a_kind_follows_from_its_ops(name: str, expected: str) -> None:
    kind, _ = kind_of(name)
    assert kind.kind_class == expected
    assert kind.row == (50 if expected == "row" else 1)


def test_rows_are_never_cut() -> None:
    kind, _ = kind_of("della", shape=(12, 50))
    for tile in (1, 49, 50, 51, 149, 1000):
        assert tile_entries(kind, tile) % 50 == 0
        assert tile_entries(kind, tile) <= max(50, tile)


@pytest.mark.parametrize(("name", "rescale"), SWEEPS)
def test_bytes_per_entry_bound_what_a_sweep_holds(name: str, rescale: str) -> None:
    """The promise counts every live value; here they are counted again while the sweeps are played."""
    kind, graph = kind_of(name, rescale)
    for steps in kind.passes:
        live: set[int] = set()
        for step in steps:
            node = graph.nodes[step.node]
            live.add(step.node)
            scratch = OPS[node.op].scratch_bytes if node.op in OPS else 0
            assert sum(graph.nodes[one].type.item_bytes for one in live) + scratch <= kind.tile_bytes
            live -= set(step.frees)


def test_types_of_signs_and_chances_are_what_kernels_return() -> None:
    """An op whose type is narrower than its values would make the memory promise too small."""
    tensors = harness.family((8, 8), torch.bfloat16)
    for name in ("della", "ties", "dare_ties"):
        root = harness.build(name, tensors, {"weight": 0.5, "density": 0.5}, mergekit=True)
        for node in walk(root):
            if node.type.space in ("sign", "probability"):
                assert harness.run(node, tensors).dtype == getattr(torch, node.type.dtype)
                kind = make_kind(node, root.graph.nodes)
                assert _kernel_dtype(kind, root.graph, tensors) == node.type.dtype


def _kernel_dtype(kind: Kind, graph: Graph, tensors: list[torch.Tensor]) -> str:
    from mergec.execute.evaluate import Hand, evaluate

    found: list[str] = []
    flat = [one.reshape(-1) for one in tensors]
    evaluate(
        kind,
        graph.nodes,
        name="w",
        tile=64,
        hand=Hand(
            lambda slot, start, stop: flat[slot][start:stop], lambda start, tile: found.append(harness.dtype_name(tile))
        ),
    )
    return found[0]


# ------------------------------------------------------------------------------------------------ memory


def outputs_of(kind: Kind, entries: list[int]) -> list[Output]:
    return [Output(f"w{n}", "float32", (size // 50, 50), 0, (), 0, 0, 0) for n, size in enumerate(entries)]


def test_without_a_limit_the_wanted_workers_and_the_largest_tile_are_taken() -> None:
    kind, _ = kind_of("ties")
    memory = promise_memory([kind], outputs_of(kind, [10**7] * 8), 4, None)
    assert (memory.workers, memory.tile) == (4, LARGEST_TILE)
    assert memory.peak_bytes == peak_bytes([kind], outputs_of(kind, [10**7] * 8), LARGEST_TILE, 4)


def test_no_more_workers_than_tensors() -> None:
    kind, _ = kind_of("ties")
    assert promise_memory([kind], outputs_of(kind, [1000]), 16, None).workers == 1


def test_a_limit_shrinks_tiles_before_workers_and_is_kept() -> None:
    kind, _ = kind_of("ties")
    outputs = outputs_of(kind, [10**7] * 8)
    free = promise_memory([kind], outputs, 4, None)
    tight = promise_memory([kind], outputs, 4, free.peak_bytes - 1)
    assert tight.workers == 4
    assert tight.tile < free.tile
    assert tight.peak_bytes < free.peak_bytes
    least = peak_bytes([kind], outputs, SMALLEST_TILE, 1)
    tightest = promise_memory([kind], outputs, 4, least)
    assert (tightest.workers, tightest.tile, tightest.peak_bytes) == (1, SMALLEST_TILE, least)


@given(st.integers(20, 400), st.integers(1, 8))
def test_a_promise_is_never_above_its_limit(mebibytes: int, workers: int) -> None:
    kind, _ = kind_of("dare_ties")
    outputs = outputs_of(kind, [10**6, 10**7, 500])
    if peak_bytes([kind], outputs, SMALLEST_TILE, 1) > mebibytes << 20:
        with pytest.raises(InputError, match="E403"):
            promise_memory([kind], outputs, workers, mebibytes << 20)
        return
    memory = promise_memory([kind], outputs, workers, mebibytes << 20)
    assert memory.peak_bytes <= mebibytes << 20
    assert memory.workers <= workers


def test_a_limit_that_cannot_be_kept_names_the_tensor_and_what_would_do() -> None:
    kind, _ = kind_of("ties")
    with pytest.raises(InputError, match="E403") as caught:
        promise_memory([kind], outputs_of(kind, [100, 10**9, 100]), 4, 1 << 20)
    assert "w1" in caught.value.what
    assert re.search(r"needs \d+ MiB, the limit is 1 MiB", caught.value.what)


def test_a_wide_row_is_part_of_the_promise() -> None:
    """Rows stay together: one that is longer than a tile is what is held."""
    narrow, _ = kind_of("della", shape=(200_000, 50))
    wide, _ = kind_of("della", shape=(50, 200_000))
    entries = outputs_of(narrow, [10_000_000])
    assert peak_bytes([wide], entries, SMALLEST_TILE, 1) > peak_bytes([narrow], entries, SMALLEST_TILE, 1)


def test_copied_tensors_cost_nothing_however_large() -> None:
    root = harness.build("passthrough", [torch.ones(4)], {})
    kind = make_kind(root, root.graph.nodes)
    assert kind.kind_class == "copy"
    small, large = outputs_of(kind, [100]), outputs_of(kind, [10**9])
    assert peak_bytes([kind], small, LARGEST_TILE, 1) == peak_bytes([kind], large, LARGEST_TILE, 1)


def test_every_worker_holds_a_tile_of_its_own() -> None:
    kind, _ = kind_of("ties")
    outputs = outputs_of(kind, [10**7] * 8)
    one, two, four = (peak_bytes([kind], outputs, LARGEST_TILE, workers) for workers in (1, 2, 4))
    assert two - one >= kind.tile_bytes * LARGEST_TILE
    assert four - two == 2 * (two - one)
