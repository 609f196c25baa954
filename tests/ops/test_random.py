"""Random numbers are a function of a key and an index, the same everywhere and for ever."""

from __future__ import annotations

import math

import numpy as np
import oracle
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergec.ops.random import LEVELS, key, uniform


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_numbers_are_splitmix64_of_key_and_index(seed: int, start: int) -> None:
    def reference(index: int) -> int:
        state = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return (state ^ (state >> 31)) >> 40

    found = uniform(torch.arange(start, start + 3), seed).tolist()
    assert found == [reference(start + i) for i in range(3)]


def test_the_published_first_outputs_of_splitmix64() -> None:
    """Seed 1234567 gives 6457827717110365317, 3203168211198807973, 9817491932198370423: their top 24 bits."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert uniform(torch.arange(3), 1234567).tolist() == [number >> 40 for number in outputs]


def test_stream_and_oracle_agree_on_the_key() -> None:
    assert key(42, "dare_ties.1", "model.norm.weight", 3) == oracle.stream_key(
        42, "dare_ties.1", "model.norm.weight", 3
    )
    assert np.array_equal(
        uniform(torch.arange(999), key(0, "a", "b", 1)).numpy(), oracle.draws(999, key(0, "a", "b", 1))
    )


def test_every_part_of_the_key_matters_and_parts_do_not_run_together() -> None:
    keys = [key(*parts) for parts in ((1, "a.1", "w", 2), (2, "a.1", "w", 2), (1, "a.2", "w", 2), (1, "a.1", "v", 2))]
    keys += [key(1, "a.1", "w", 3), key(1, "a.1w", "", 2), key(11, "a.1", "w", 2), key(1, "a.1", "w2", 2)]
    assert len(set(keys)) == len(keys)


def test_numbers_fill_their_range_evenly() -> None:
    numbers = uniform(torch.arange(160_000), key(0, "s", "t", 0))
    assert 0 <= numbers.min() < numbers.max() < LEVELS
    counts = torch.bincount(numbers * 16 // LEVELS, minlength=16).double()
    assert ((counts - 10_000).abs() < 4 * math.sqrt(10_000 * 15 / 16)).all()


def test_neighbouring_keys_and_entries_are_not_correlated() -> None:
    index = torch.arange(50_000)
    one, two = (uniform(index, seed).double() / LEVELS - 0.5 for seed in (5, 6))
    for left, right in ((one, two), (one[1:], one[:-1])):
        assert abs((left * right).mean().item()) * 12 < 4 / math.sqrt(len(left))
