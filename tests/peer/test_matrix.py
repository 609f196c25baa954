"""Every method with every family and every form of its settings, by mergekit and by mergec under `compat: mergekit`.

A cover of it runs always: each method with each family once, with each form at least twice. `--full-matrix` runs all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Family

pytest.importorskip("mergekit")

import peer_matrix as matrix

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
DEAR = ("llava",)  # a second each in the peer, which loses its language model whatever the method
CUT = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion")  # half types tie at every cut


def cells() -> list[Any]:
    made = []
    for row, method in enumerate(matrix.USAGES):
        forms = [form for form in matrix.FORMS if matrix.applies(method, form)]
        for column, family in enumerate(matrix.FAMILIES):
            for number, form in enumerate(forms):
                covers = (row + column) % len(forms) == number and (family not in DEAR or row % 4 == 0)
                marks = () if covers else pytest.mark.full_matrix
                made.append(pytest.param(method, family, form, marks=marks, id=f"{method}-{family}-{form}"))
    return made


@pytest.mark.parametrize(("method", "architecture", "form"), cells())
def test_a_cell_is_as_expected(
    method: str, architecture: str, form: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    found = matrix.compare(method, architecture, form, family(architecture, torch.float32), tmp_path)
    assert found.verdict == matrix.expected(method, architecture), found.why


@pytest.mark.full_matrix
@pytest.mark.parametrize("form", matrix.FORMS)
@pytest.mark.parametrize("method", [one for one in matrix.USAGES if one not in CUT])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "bert", "gemma2", "t5"])
def test_a_cell_of_half_types_is_equal(
    method: str, architecture: str, form: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    if not matrix.applies(method, form):
        pytest.skip("no parameter of this method can vary")
    found = matrix.compare(method, architecture, form, family(architecture, torch.bfloat16), tmp_path, torch.bfloat16)
    assert found.verdict == "equal", found.why


def test_every_method_of_the_peer_has_a_row() -> None:
    from mergekit.merge_methods import registered_methods

    assert set(matrix.USAGES) == {method.spec.name for method in registered_methods()}


def test_the_page_says_what_is_expected() -> None:
    lines = PAGE.read_text(encoding="utf-8").split("## Inputs")[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    head, _, *rest = [[cell.strip() for cell in row] for row in rows]
    said = {(row[0].strip("`"), family): sign for row in rest for family, sign in zip(head[1:], row[1:], strict=True)}
    signs = {"equal": "=", "differs": "≠", "alone": "+"}
    assert said == {(m, f): signs[matrix.expected(m, f)] for m in matrix.USAGES for f in matrix.FAMILIES}


def test_what_differs_is_told_from_what_is_equal() -> None:
    """The comparison itself: one entry moved by more than the tolerance is a defect, in an expert a difference."""
    made = {"merge_method": "linear"}
    near, far = torch.ones(3), torch.tensor([1.0, 1.0, 1.0001])
    assert matrix.judged({"w": near}, {"w": near}, made).verdict == "equal"
    assert matrix.judged({"w": near}, {"w": far}, made).verdict == "wrong"
    assert matrix.judged({"w": near}, {"w": near, "v": near}, made).verdict == "wrong"
    assert matrix.judged({"w": near, "v": near}, {"w": near}, made).verdict == "alone"
    assert matrix.judged({"a.experts.w": near}, {"a.experts.w": far}, made).verdict == "differs"
