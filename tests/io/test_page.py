"""A page is written whole or not at all, and over nothing that is somebody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergec.errors import UsageError
from mergec.io.page import MARK, write_page

PAGE = f"<!doctype html>{MARK}"


def test_a_page_is_written_and_written_again(tmp_path: Path) -> None:
    for text in (PAGE, PAGE + "2"):
        write_page(tmp_path / "a b.html", text, force=False)
        assert (tmp_path / "a b.html").read_text() == text
    assert os.listdir(tmp_path) == ["a b.html"]


def test_an_empty_file_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "p.html").touch()
    write_page(tmp_path / "p.html", PAGE, force=False)
    assert (tmp_path / "p.html").read_text() == PAGE


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text(PAGE)
    (tmp_path / "p.html").symlink_to("real.html")
    write_page(tmp_path / "p.html", PAGE + "2", force=False)
    assert (tmp_path / "p.html").is_symlink()
    assert (tmp_path / "real.html").read_text() == PAGE + "2"


def test_another_file_is_replaced_on_request_only(tmp_path: Path) -> None:
    other = tmp_path / "thesis.html"
    other.write_text("<!doctype html> " + "x" * 3000 + MARK)
    with pytest.raises(UsageError) as caught:
        write_page(other, PAGE, force=False)
    assert str(caught.value) == (
        f"error[E690]: {other} is there, and is no page of mergec's; "
        "hint: choose another name, or --force to replace it"
    )
    write_page(other, PAGE, force=True)
    assert other.read_text() == PAGE


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_written_over(force: bool, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yml"
    recipe.write_text(PAGE)
    (tmp_path / "link.html").symlink_to("r.yml")
    for name in ("r.yml", "./x/../r.yml", "link.html"):
        with pytest.raises(UsageError, match=r"E690.*is an input of this plan"):
            write_page(tmp_path / name, PAGE + "2", force=force, inputs=[str(recipe)])
    assert recipe.read_text() == PAGE


def test_a_folder_is_named_and_a_missing_one_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"E690.*is a folder; hint: name a file in it, such as .*/plan\.html"):
        write_page(tmp_path, PAGE, force=True)
    with pytest.raises(UsageError, match=r"E691.*no folder .*/no to write p\.html in"):
        write_page(tmp_path / "no" / "p.html", PAGE, force=True)
    assert os.listdir(tmp_path) == []


def test_what_the_system_refuses_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.html").write_text(PAGE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match=r"E692.*cannot write .*p\.html: No space left on device"):
        write_page(tmp_path / "p.html", PAGE + "2", force=False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("p.html", PAGE)]
    with pytest.raises(UsageError, match="E692"):
        write_page(tmp_path / ("x" * 300), PAGE, force=False)
