"""Parts: what is packed comes out again, wherever tiles are cut."""

from __future__ import annotations

import harness
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergec.graph import Graph
from mergec.ops.masks import agrees, stands_out, unify
from mergec.ops.op import SpaceError
from mergec.ops.parts import masked, pack, unpack

SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@given(SHAPES, st.integers(0, 5), st.integers(1, 100))
def test_a_mask_is_packed_as_numpy_packs_it_and_comes_out_again(shape: tuple[int, ...], seed: int, tile: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    root = pack(harness.loads(Graph(), [mask], "mask")[0])
    assert root.type.shape == (-(-mask.numel() // 8),)
    bits = harness.run(root, [mask], tile)
    assert bits.numpy().tolist() == np.packbits(mask.numpy().ravel(), bitorder="little").tolist()
    graph = Graph()
    (delta,), (stored,) = harness.loads(graph, [mask], "delta"), [harness.load(graph, 1, root.type)]
    assert torch.equal(harness.run(unpack(stored, shape=shape), [torch.empty(0), bits], tile), mask)
    values = torch.ones(shape)
    (delta,) = harness.loads(graph, [values], "delta")
    found = harness.run(masked(delta, unpack(stored, shape=shape)), [values, bits], tile)
    assert torch.equal(found, mask.float())


def test_bits_of_another_size_are_refused() -> None:
    bits = harness.load(Graph(), 0, pack(harness.loads(Graph(), [torch.ones(9) > 0], "mask")[0]).type)
    with pytest.raises(SpaceError, match=r"expected a part uint8\[3\], got uint8\[2\]"):
        unpack(bits, shape=(17,))


def test_docstrings_hold() -> None:
    deltas = [torch.tensor(values) for values in ([2.0, 1.0], [1.0, -3.0], [-4.0, 4.0])]
    assert unify.kernel(*deltas).tolist() == [-4, 4]
    assert agrees.kernel(deltas[0], *deltas).tolist() == [False, True]
    assert stands_out.kernel(torch.tensor([2.0, 1.0]), torch.tensor([3.0, 4.0]), threshold=1.0).tolist() == [
        True,
        False,
    ]


def test_a_zero_mean_elects_minus() -> None:
    """The reference's rule, and the other way round than TIES."""
    deltas = [torch.tensor([1.0]), torch.tensor([-1.0])]
    assert unify.kernel(*deltas).tolist() == [-1]
    assert [agrees.kernel(one, *deltas).item() for one in deltas] == [False, True]
