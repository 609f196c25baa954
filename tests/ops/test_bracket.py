"""Brackets: cuts guessed from a sample are those that counting digits finds, whether the guess is good or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mergec.ops import bracket, ranking
from mergec.ops.fused import FORMS, Given
from mergec.ops.op import Reducer

ENTRIES = 5000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GATHERED": 200, "_FEW": 200, "_LEAST": 512, "_MOST": 512, "_RUN": 32, "_GROUPS": 8}.items():
        monkeypatch.setattr(bracket, name, value)


def in_loops(reducer: Reducer, tile: Tensor) -> None:
    """Feed a tile to a reducer by its form, in two runs, as compiled loops do."""
    ends = torch.tensor(reducer.bounds())
    runs = [FORMS["cut"].body(Given([run], ends, [], run, {"brackets": len(ends) // 2})) for run in tile.chunk(2)]
    marked, counts = zip(*runs, strict=True)
    reducer.take(torch.cat(marked), torch.cat(counts))


def fed(
    reducer: Reducer, delta: Tensor, size: int, feed: Callable[[Reducer, Tensor], None] | None = None
) -> tuple[tuple[float, ...], int]:
    """The result of a reducer that is fed what it asks for in tiles of a size, and how many entries that were."""
    entries = 0
    while True:
        for first, last in reducer.asks(delta.numel()) or [(0, delta.numel())]:
            for start in range(first, last, size):
                reducer.position = start
                tile = delta[start : min(start + size, last)]
                feed(reducer, tile) if feed else reducer.update(tile)
            entries += last - first
        found = reducer.finish()
        if found is not None:
            return found, entries


def counted(reducer: Reducer, delta: Tensor) -> tuple[float, ...]:
    """The result of a reducer that is asked nothing, and so counts digits."""
    while True:
        reducer.update(delta)
        found = reducer.finish()
        if found is not None:
            return found


def deltas() -> Iterator[tuple[str, Tensor]]:
    normal = torch.randn(ENTRIES, generator=torch.Generator().manual_seed(0))
    yield "no ties", normal
    for levels in (3, 50):
        yield f"ties in {levels}", (normal * levels).round() / levels
    yield "bfloat16", normal.bfloat16()
    yield "float64", normal.double()
    yield "zeros", normal * (normal > 1)
    yield "all equal", torch.ones(ENTRIES)
    yield "sorted", normal.sort().values
    seen = torch.zeros(ENTRIES, dtype=torch.bool)
    for first, last in [
        (start * ENTRIES // 16 // 32 * 32, start * ENTRIES // 16 // 32 * 32 + 32) for start in range(16)
    ]:
        seen[first:last] = True
    yield "a sample unlike the rest", torch.where(seen, 100.0, normal)
    yield "few", normal[:150]
    yield "infinite", torch.where(normal > 2, torch.inf, normal)
    yield "not a number", torch.where(normal > 0.5, torch.nan, normal)


CASES = dict(deltas())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shares", [(0.5,), (0.01, 0.51), (0.0, 1.0), (0.999,)])
@pytest.mark.parametrize("size", [100, 4096])
def test_a_guess_changes_no_cut(case: str, shares: tuple[float, ...], size: int) -> None:
    delta = CASES[case]
    counts = tuple(int(share * delta.numel()) for share in shares)
    found, _ = fed(ranking.Cut(counts), delta, size)
    assert repr(found) == repr(counted(ranking.Cut(counts), delta))  # NaN is not equal to itself


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_guess_changes_no_cut_of_what_is_not_zero(case: str, share: float) -> None:
    delta = CASES[case]
    found, _ = fed(ranking.CutNonzero(share), delta, 333)
    assert found == counted(ranking.CutNonzero(share), delta)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].dtype == torch.float32])
@pytest.mark.parametrize("shares", [(0.5,), (0.01, 0.51), (0.0, 1.0), (0.999,)])
def test_what_compiled_loops_count_finds_the_same_cuts(case: str, shares: tuple[float, ...]) -> None:
    delta = CASES[case]
    counts = tuple(int(share * delta.numel()) for share in shares)
    found, _ = fed(ranking.Cut(counts), delta, 1000, in_loops)
    assert repr(found) == repr(counted(ranking.Cut(counts), delta))  # NaN is not equal to itself


@pytest.mark.parametrize("case", ["no ties", "zeros", "sorted", "a sample unlike the rest"])
def test_a_poor_guess_takes_a_better_one_and_no_counts_of_digits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delta, counts = CASES[case], (ENTRIES // 3, ENTRIES // 2)
    expected = counted(ranking.Cut(counts), delta)
    monkeypatch.delattr(ranking.Digits, "count")
    found, entries = fed(ranking.Cut(counts), delta, 1000)
    assert found == expected
    assert entries <= 4.2 * ENTRIES


@pytest.mark.parametrize("case", ["ties in 3", "all equal"])
def test_a_good_guess_takes_one_sweep_beside_a_sample_and_a_look_at_a_tie(case: str) -> None:
    _, entries = fed(ranking.Cut((ENTRIES // 2,)), CASES[case], 256)
    assert entries < 1.4 * ENTRIES


def test_a_reducer_that_is_fed_more_than_it_asks_for_finds_the_same() -> None:
    """As where another reduction of the same pass needs all tiles."""
    delta, reducer = CASES["ties in 50"], ranking.Cut((2000, 4000))
    found = None
    while found is None:
        reducer.asks(ENTRIES)
        for start in range(0, ENTRIES, 700):
            reducer.position = start
            reducer.update(delta[start : start + 700])
        found = reducer.finish()
    assert found == counted(ranking.Cut((2000, 4000)), delta)
