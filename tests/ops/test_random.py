"""Random numbers are a function of a key and an index, the same everywhere and for ever."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergec.ops.random import BLOCK, LEVELS, key, normal, uniform


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_numbers_are_the_documented_hash_of_key_and_index(seed: int, start: int) -> None:
    def lowbias32(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    def reference(index: int) -> int:
        digest = hashlib.sha256(f"{seed}\n{index // 2**24}".encode()).digest()
        first, second = (int.from_bytes(digest[at : at + 4], "little") for at in (0, 4))
        return lowbias32((lowbias32((index % 2**24 * 0x9E3779B1 + first) % 2**32) + second) % 2**32) >> 8

    found = uniform(start, start + 3, seed).tolist()
    assert found == [reference(start + i) for i in range(3)]


def test_numbers_do_not_depend_on_where_a_tile_is_cut_even_across_blocks() -> None:
    whole = uniform(BLOCK - 5, BLOCK + 5, 99)
    assert torch.equal(whole, torch.cat([uniform(i, i + 1, 99) for i in range(BLOCK - 5, BLOCK + 5)]))
    assert not torch.equal(uniform(0, 5, 99), uniform(BLOCK, BLOCK + 5, 99))


def test_the_numbers_never_change() -> None:
    """A moved number changes every DARE and DELLA merge: then the versions of those methods must move too."""
    assert uniform(0, 4, 0).tolist() == [4273795, 13638789, 2624039, 11242658]


def test_stream_and_oracle_agree_on_the_key() -> None:
    assert key(42, "dare_ties.1", "model.norm.weight", "org/tune@v2") == oracle.stream_key(
        42, "dare_ties.1", "model.norm.weight", "org/tune@v2"
    )
    assert np.array_equal(uniform(0, 999, key(0, "a", "b", "c")).numpy(), oracle.draws(999, key(0, "a", "b", "c")))


def test_every_part_of_the_key_matters_and_parts_do_not_run_together() -> None:
    keys = [key(*parts) for parts in ((1, "a.1", "w", 2), (2, "a.1", "w", 2), (1, "a.2", "w", 2), (1, "a.1", "v", 2))]
    keys += [key(1, "a.1", "w", 3), key(1, "a.1w", "", 2), key(11, "a.1", "w", 2), key(1, "a.1", "w2", 2)]
    assert len(set(keys)) == len(keys)


def test_numbers_fill_their_range_evenly() -> None:
    numbers = uniform(0, 160_000, key(0, "s", "t", 0))
    assert 0 <= numbers.min() < numbers.max() < LEVELS
    counts = torch.bincount(numbers * 16 // LEVELS, minlength=16).double()
    assert ((counts - 10_000).abs() < 4 * math.sqrt(10_000 * 15 / 16)).all()


def test_neighbouring_keys_and_entries_are_not_correlated() -> None:
    one, two = (uniform(0, 50_000, seed).double() / LEVELS - 0.5 for seed in (5, 6))
    for left, right in ((one, two), (one[1:], one[:-1])):
        assert abs((left * right).mean().item()) * 12 < 4 / math.sqrt(len(left))


def test_normal_numbers_are_the_quantiles_of_the_uniform_ones() -> None:
    from statistics import NormalDist

    drawn, found = uniform(0, 20_000, 5), normal(0, 20_000, 5)
    quantile = NormalDist().inv_cdf
    expected = torch.tensor([quantile((one + 0.5) / LEVELS) for one in drawn.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=3e-7)
    assert float(found.abs().max()) > 3.5


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_normal_numbers_do_not_depend_on_the_cut(cut: int) -> None:
    whole = normal(0, 3000, 9)
    assert torch.equal(whole, torch.cat([normal(0, cut, 9), normal(cut, 3000, 9)]))
