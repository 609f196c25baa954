"""Methods that select entries: nearswap, arcee_fusion, sce, ram - small cases by hand, and where nothing stands out."""

from __future__ import annotations

import harness
import pytest
import torch
from torch import Tensor

import mergec
from mergec.ops import ranking
from mergec.ops.fusion import importance
from mergec.ops.ram import amplification
from mergec.ops.ranking import CutNonzero, Order
from mergec.ops.sce import shares_of, variance

ZERO = torch.zeros(4)


def merged(name: str, models: list[Tensor], base: Tensor = ZERO, **parameters: object) -> Tensor:
    return mergec.merge(name, [{"w": one} for one in models], base={"w": base}, parameters=parameters)["w"]


def test_nearswap_moves_by_at_most_t() -> None:
    assert merged("nearswap", [torch.tensor([1.0, -4.0, 0.0, 2.0])], t=2.0).tolist() == [1, -2, 0, 2]
    assert merged("nearswap", [torch.ones(4)], t=0.0).tolist() == [0, 0, 0, 0]


def test_nearswap_with_a_tiny_reach_still_takes_tiny_changes() -> None:
    change = torch.full((4,), 1e-9)
    torch.testing.assert_close(merged("nearswap", [change], t=1e-8), change, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 13, 1000])
def test_order_statistics_are_those_of_a_sort(dtype: torch.dtype, step: int) -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    counts = (1, 250, 251, 750, 1000)
    reducer, found = Order(counts), None
    while found is None:
        for part in values.split(step):
            reducer.update(part)
        found = reducer.finish()
    ordered = values.sort(descending=True).values
    assert found == tuple(float(ordered[count - 1]) for count in counts)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_share_counts_only_what_is_not_zero(share: float) -> None:
    values = torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0, 2.0, 0.0])
    reducer, found = CutNonzero(share), None
    while found is None:
        reducer.update(values[:3])
        reducer.update(values[3:])
        found = reducer.finish()
    expected = {0.0: (float("inf"), -1.0), 0.3: (3.0, 7.0), 0.9: (2.0, 7.0)}[share]
    assert found == expected


def test_fusion_takes_outliers_of_importance_only() -> None:
    base = harness.family((8, 64), noise=0)[0]
    other = base + 1e-3
    other[3, 5] += 2.0
    found = merged("arcee_fusion", [other], base)
    assert found[3, 5] == other[3, 5]
    assert 0 < (found != base).sum() < 100


def test_fusion_of_rows_of_one_entry_takes_the_other_model() -> None:
    """A softmax of one entry is 1: nothing stands out, and everything reaches a fence of 0."""
    base, other = harness.family((9, 1), models=1)
    assert torch.equal(merged("arcee_fusion", [other], base), other)


def test_importance_is_never_negative_or_infinite() -> None:
    for scale in (1e-6, 1.0, 1e4):
        base, other = harness.family((5, 7), models=1)
        found = importance.kernel(base * scale, other * scale)
        assert found.isfinite().all()
        assert (found >= 0).all()


def test_equal_deltas_have_no_variance() -> None:
    delta = torch.tensor([0.1, 0.7, -1.3])
    assert not variance.kernel(delta, delta, delta).any()
    assert variance.kernel(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])).tolist() == [1, 0]


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_sce_weights_do_not_depend_on_scale(scale: float) -> None:
    """A floor of 1e-6 on the sum of squares makes them equal for ordinary fine-tunes."""
    one, two = torch.tensor([3.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    shares = [12 / 16, 4 / 16]
    found = merged("sce", [one * scale, two * scale]) / scale
    torch.testing.assert_close(found, one * shares[0] + two * shares[1])
    assert shares_of.kernel((3e-9, 1e-9), floor=1e-6) == (0.5, 0.5)
    assert shares_of.kernel((3e-9, 1e-9), floor=0.0) == (0.75, 0.25)


def test_sce_selects_by_variance_and_erases_minority_signs() -> None:
    one, two = torch.tensor([4.0, 1.0, 5.0, 2.0]), torch.tensor([-1.0, 1.0, -1.0, 2.0])
    assert merged("sce", [one, two], select_topk=0.5).tolist() == [0, 0, 5, 0]
    assert merged("sce", [one, two], select_topk=0.0).tolist() == [0, 0, 0, 0]


def test_sce_of_one_model_has_nothing_to_select() -> None:
    assert merged("sce", [torch.ones(4)], select_topk=0.5).tolist() == [0, 0, 0, 0]
    assert merged("sce", [torch.ones(4)]).tolist() == [1, 1, 1, 1]


def test_ram_averages_what_is_shared_and_keeps_what_is_not() -> None:
    one, two = torch.tensor([4.0, 1.0, 0.0, 1e-6]), torch.tensor([2.0, 0.0, 3.0, 0.0])
    assert merged("ram", [one, two]).tolist() == [3, 1, 3, 0]
    found = merged("ramplus_tl", [one, two], r=0.5, alpha=0.4)
    torch.testing.assert_close(found, torch.tensor([3, 1.2, 3.6, 0]))


def test_amplification_is_limited_and_needs_unique_entries() -> None:
    assert amplification.kernel((1, 9, 5, 10, 3, 0), r=0.1, alpha=2.0, epsilon=1e-5) == (1.01, 1.2, 1.0)


@pytest.mark.parametrize("name", ["nearswap", "arcee_fusion", "sce", "ram", "ramplus_tl"])
@pytest.mark.parametrize("tile", [7, 1000])
def test_compat_does_not_depend_on_tiles(name: str, tile: int) -> None:
    tensors = harness.family((61, 83), torch.bfloat16, models=1 if name in ("nearswap", "arcee_fusion") else 3)
    values = {"nearswap": {"t": 0.1}, "sce": {"select_topk": 0.3}}.get(name, {})
    whole = harness.merged(name, tensors, values, mergekit=True)
    assert torch.equal(harness.merged(name, tensors, values, mergekit=True, tile=tile), whole)


@pytest.mark.parametrize("levels", [3, 4000, 0])
@pytest.mark.parametrize("counts", [(0, 1), (100, 5000), (4999, 5001), (0, 9000), (0, 10_000)])
def test_gathering_the_last_candidates_finds_what_counting_them_finds(
    counts: tuple[int, int], levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many ties, some, and none; in tiles of any size."""
    delta = torch.randn(10_000, generator=torch.Generator().manual_seed(levels))
    delta = (delta * levels).round() / levels if levels else delta

    def found(size: int) -> tuple[float, ...]:
        reducer = ranking.Cut(counts)
        while True:
            for start in range(0, delta.numel(), size):
                reducer.update(delta[start : start + size])
            made = reducer.finish()
            if made is not None:
                return made

    gathered = [found(size) for size in (333, 10_000)]
    monkeypatch.setattr(ranking, "GATHERED", 0)
    assert gathered == [found(size) for size in (4096, 10_000)]
