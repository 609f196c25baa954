"""Pages of methods: what lies in docs/methods is what the code says, complete, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipes_fixtures import mergec

from mergec.compiler.pages import pages
from mergec.ops.registry import methods

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
OWN = [name for name, one in methods().items() if one.build.__module__.startswith("mergec.ops.methods.")]


def test_the_folder_is_what_the_command_writes(tmp_path: Path) -> None:
    called = mergec("methods", "--markdown", tmp_path / "pages")
    assert called.code == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "pages").iterdir()}
    stored = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert written.keys() == stored.keys()
    stale = [name for name, text in stored.items() if text != written[name]]
    assert stale == [], "mergec methods --markdown docs/methods"


@pytest.mark.parametrize("name", OWN)
def test_a_page_says_all_that_a_user_needs(name: str) -> None:
    text, method = pages()[f"{name}.md"], methods()[name]
    assert re.search(r"^    result = ", text, re.MULTILINE) or name in ("model_stock",)
    assert "## Cost" in text
    assert "## Elsewhere" in text
    assert f"merge_method: {name}" in text
    assert all(f"| `{parameter}` |" in text for parameter in method.parameters)
    assert method.steps is None or "## As a pipeline" in text


def test_links_lead_somewhere() -> None:
    for path in (*FOLDER.iterdir(), ROOT / "docs" / "accuracy.md"):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (path.parent / link).exists(), (path.name, link)


def test_every_method_is_in_the_table_of_accuracies() -> None:
    text = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[(\w+)\]", text, re.MULTILINE))
    assert listed >= {*OWN, "svc"}, "python examples/quickstart/compare.py --write docs/accuracy.md"
