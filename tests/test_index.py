"""Pages that name tests: each test is there, and what should have one has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`?(tests/[\w/]+\.py)::(test_\w+)`?")


@pytest.mark.parametrize("page", ["docs/deviations.md", "tests/README.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert named
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text("utf-8")]
    assert missing == []


def test_every_deviation_names_a_test() -> None:
    lines = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| mergekit |")]
    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row)] == []


NEEDS = {*range(1, 11), 16, 17, 19, 21, 24, 25, 33, 34, 37}


@pytest.mark.parametrize(
    ("heading", "numbers"), [("## What users need", NEEDS), ("## Traps: bugs that other tools had", {*range(1, 56)})]
)
def test_every_need_and_every_trap_has_a_row(heading: str, numbers: set[int]) -> None:
    section = (ROOT / "tests" / "README.md").read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) ", section, re.MULTILINE)} == numbers


def test_every_case_of_mergekits_users_has_a_test() -> None:
    files = (ROOT / "tests" / "peer").glob("test_conformance*.py")
    found = {
        int(n) for file in files for n in re.findall(r"^def test_case_(\d\d)_", file.read_text("utf-8"), re.MULTILINE)
    }
    assert found == {*range(1, 36)}
