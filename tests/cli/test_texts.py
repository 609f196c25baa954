"""`mergec fmt` and `mergec canon` as people call them: in place, as a check, as a filter, and on what is no recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recipes_fixtures import mergec

MESSY = "models:\n- model:  a # why\nmerge_method:   linear\n"
NEAT = "merge_method: linear\nmodels:\n  - model: a  # why\n"


def test_recipes_are_rewritten_in_place_with_their_mode(tmp_path: Path) -> None:
    messy, neat = tmp_path / "a recipe.yml", tmp_path / "neat.yml"
    messy.write_text(MESSY)
    messy.chmod(0o640)
    neat.write_text(NEAT)
    called = mergec("fmt", messy, neat)
    assert (called.code, called.out, called.err) == (0, f"formatted {messy}\n", "")
    assert (messy.read_text(), messy.stat().st_mode & 0o777) == (NEAT, 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a recipe.yml", "neat.yml"]
    assert mergec("fmt", messy, neat).out == ""


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text(MESSY)
    (tmp_path / "link.yml").symlink_to("real.yml")
    assert mergec("fmt", tmp_path / "link.yml").code == 0
    assert (tmp_path / "link.yml").is_symlink()
    assert (tmp_path / "real.yml").read_text() == NEAT


def test_check_and_diff_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yml").write_text(MESSY)
    Path("n.yml").write_text(NEAT)
    checked = mergec("fmt", "--check", "r.yml", "n.yml")
    assert (checked.code, checked.out) == (1, "would change r.yml\n")
    assert mergec("fmt", "--check", "n.yml").code == 0
    shown = mergec("fmt", "--diff", "r.yml", "n.yml")
    assert shown.code == 0
    assert shown.out == (
        "--- r.yml\tas it is\n+++ r.yml\tformatted\n@@ -1,3 +1,3 @@\n+merge_method: linear\n models:\n"
        "-- model:  a # why\n-merge_method:   linear\n+  - model: a  # why\n"
    )
    assert mergec("fmt", "--diff", "--check", "r.yml").code == 1
    assert Path("r.yml").read_text() == MESSY


def test_standard_input_goes_to_standard_output() -> None:
    command = [sys.executable, "-m", "mergec", "fmt", "-"]
    done = subprocess.run(command, input=MESSY.replace("\n", "\r\n").encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, NEAT.replace("\n", "\r\n").encode(), b"")
    done = subprocess.run([*command, "--check"], input=MESSY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "would change <stdin>\n")


def test_what_is_wrong_is_said_of_all_files_and_the_others_are_formatted(tmp_path: Path) -> None:
    broken, latin, messy = tmp_path / "broken.yml", tmp_path / "latin.yml", tmp_path / "messy.yml"
    broken.write_text("models: [a\nmerge_method: linear\n")
    latin.write_bytes(b"name: caf\xe9\n")
    messy.write_text(MESSY)
    called = mergec("fmt", broken, latin, tmp_path / "absent.yml", messy)
    assert called.code == 2
    found = [line.partition("]")[0] for line in called.err.splitlines()]
    assert found[:3] == [
        f"{tmp_path}/absent.yml:1:1: error[E008",
        f"{broken}:2:13: error[E001",
        f"{latin}:1:10: error[E008",
    ]
    assert broken.read_text() == "models: [a\nmerge_method: linear\n"
    assert messy.read_text() == NEAT


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yml").write_text(MESSY)

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mergec.io.replace.os.replace", full)
    called = mergec("fmt", tmp_path / "r.yml")
    assert (called.code, called.out) == (1, "")
    assert "error[E681]: cannot write" in called.err
    assert "No space left on device" in called.err
    assert [path.read_text() for path in tmp_path.iterdir()] == [MESSY]


def test_canon_prints_what_a_recipe_says_without_its_models(tmp_path: Path) -> None:
    path = tmp_path / "x y"  # as git calls a revision of a file
    path.write_text(MESSY.replace("linear", "linear\nparameters: {weight: .5, normalize: true}"))
    command = [sys.executable, "-m", "mergec", "canon", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "merge_method: linear\nmodels:\n  - model: a\nparameters:\n  weight: 0.5\n"


@pytest.mark.parametrize(
    "data",
    [
        b"models: [a\n",
        b"caf\xe9\n",
        b"a: 1\r\n",
        b"",
        b"merge_method: nothing_known\nmodels: [{model: a}]\n",
        b"[" * 999,
    ],
)
def test_canon_is_strict_and_as_a_textconv_prints_what_is_no_recipe_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(data)
    strict = mergec("canon", path)
    assert (strict.code, strict.out) == (2, "")
    assert f"{path}:" in strict.err
    command = [sys.executable, "-m", "mergec", "canon", "--textconv", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("fmt", {"torch", "numpy", "transformers", "huggingface_hub", "pydantic", "mergec.ops.registry"}),
        ("canon", {"torch", "numpy", "transformers", "huggingface_hub", "mergec.compiler.compile", "networkx"}),
    ],
)
def test_nothing_heavy_is_imported(tmp_path: Path, command: str, heavy: set[str]) -> None:
    (tmp_path / "r.yml").write_text(NEAT.replace("why", "why\nparameters: {weight: 1}"))
    code = (
        "import sys; from mergec.cli.main import _run; "
        f"print(_run([{command!r}, {str(tmp_path / 'r.yml')!r}]), {heavy!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"
