"""lock, status, verify and run --frozen, as people use them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_fixtures import Called, mergec, write_family, write_model

RECIPE = """\
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: mlp, value: 0.5}, {value: 0.4}]}}
  - {model: b, parameters: {weight: 0.3}}
parameters: {density: 0.5}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_family(tmp_path)
    (tmp_path / "ties.yml").write_text(RECIPE)
    return tmp_path


def edit(folder: Path) -> None:
    (folder / "ties.yml").write_text(RECIPE.replace("0.5}, {value", "0.7}, {value"))


def damage(file: Path, position: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


# lock


def test_a_lock_is_sorted_text_that_does_not_change_from_run_to_run(folder: Path) -> None:
    called = mergec("lock", "ties.yml")
    assert re.fullmatch(
        r"mergec\.lock: ties\.yml, 3 input files of [\d.]+ kB, 9 tensors, plan [0-9a-f]{12}\n", called.out
    )
    text = (folder / "mergec.lock").read_text()
    assert str(folder) not in text
    document = json.loads(text)
    assert document["format"] == 1
    assert list(document["recipes"]["ties.yml"]["models"]) == ["a", "b", "base"]
    assert mergec("lock", "ties.yml", "--verify").code == 0
    assert (folder / "mergec.lock").read_text() == text


def test_an_edit_is_a_line_per_tensor_in_the_lock(folder: Path) -> None:
    mergec("lock", "ties.yml")
    before = (folder / "mergec.lock").read_text().splitlines()
    edit(folder)
    mergec("lock", "ties.yml")
    after = (folder / "mergec.lock").read_text().splitlines()
    changed = {line.split('"')[1] for line in set(after) - set(before)}
    assert {name for name in changed if "." in name} == {
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    }


def test_a_lock_holds_every_recipe_of_its_folder(folder: Path) -> None:
    (folder / "other recipe.yml").write_text(RECIPE.replace("0.5", "0.6"))
    mergec("lock", "ties.yml")
    mergec("lock", "other recipe.yml")
    assert list(json.loads((folder / "mergec.lock").read_text())["recipes"]) == ["other recipe.yml", "ties.yml"]
    assert mergec("status").out == "other recipe.yml: clean\nties.yml: clean\n"


def test_a_recipe_in_an_output_is_not_locked_there(folder: Path) -> None:
    mergec("run", "ties.yml", "out", "-q")
    (folder / "out" / "again.yml").write_text(RECIPE.replace("base_model: base", f"base_model: {folder}/base"))
    for name in "ab":
        write_model(folder / "out" / name)
    called = mergec("lock", "out/again.yml")
    assert called.code == 2
    assert "E622" in called.err


# status


def test_status_says_what_changed_and_to_which_tensors(folder: Path) -> None:
    mergec("lock", "ties.yml")
    assert mergec("status", "ties.yml") == Called(0, "ties.yml: clean\n", "")
    edit(folder)
    called = mergec("status", "ties.yml")
    assert called.code == 1
    head, why, *names = called.out.splitlines()
    assert head == "ties.yml: recipe changed"
    assert why.startswith("  recipe changed: weigh weight")
    assert "0.5 -> 0.7" in why
    assert names == ["    model.layers.{0-1}.mlp.down_proj.weight"]
    (folder / "ties.yml").write_text(f"# a comment\n{RECIPE}")
    assert mergec("status", "ties.yml").code == 0
    write_model(folder / "a", seed="new")
    assert mergec("status", "ties.yml").out.splitlines() == [
        "ties.yml: input changed",
        "  input changed: a/model.safetensors",
        "    all 9 tensors",
    ]
    (folder / "ties.yml").write_text(RECIPE.replace("ties", "tise"))
    called = mergec("status", "ties.yml")
    assert called.code == 1
    assert "it does not compile any more: ties.yml:1:15: error[E200]" in called.out


def test_status_of_an_output(folder: Path) -> None:
    mergec("run", "ties.yml", "-q", "--set", "parameters.density=0.4")
    assert mergec("status", "merged/ties") == Called(0, "merged/ties: clean\n", "")
    assert mergec("status", "ties.yml").out == "merged/ties: clean\n"
    damage(folder / "merged" / "ties" / "model.safetensors")
    called = mergec("status", "merged/ties")
    assert called.code == 1
    assert called.out.startswith("merged/ties: output modified\n  model.safetensors is not what it was\n")
    (folder / "ties.yml").rename(folder / "renamed.yml")
    called = mergec("status", "merged/ties", "--json")
    assert [one["states"] for one in json.loads(called.out)] == [["output modified", "not compared"]]


def test_status_without_a_lock_says_how_to_get_one(folder: Path) -> None:
    for arguments in ((), ("ties.yml",), ("absent",)):
        called = mergec("status", *arguments)
        assert called.code == 2
        assert "E620" in called.err


# verify


def test_verify_names_what_is_wrong(folder: Path) -> None:
    mergec("run", "ties.yml", "out", "-q", "--shard-size", "300B")
    called = mergec("verify", "out")
    assert called.code == 0
    assert "9 tensors in" in called.out
    lock = json.loads((folder / "out" / "mergec.lock").read_text())["recipes"]["../ties.yml"]
    name = "model.layers.1.mlp.down_proj.weight"
    file, (begin, end) = lock["tensors"][name]["file"], lock["tensors"][name]["range"]
    damage(folder / "out" / file, (begin + end) // 2)
    damage(folder / "out" / "config.json", 3)
    (folder / "out" / "tokenizer.json").unlink()
    (folder / "out" / "extra.safetensors").write_bytes(b"")
    called = mergec("verify", "out")
    assert called.code == 1
    assert called.out.splitlines() == [
        "out/config.json: is not what it was",
        f"out/{file}: {name} is not what it was",
        "out/tokenizer.json: cannot be read: No such file or directory",
        "out/extra.safetensors: is not in the lock, and a loader may take it",
    ]
    assert len(json.loads(mergec("verify", "out", "--json").out)) == 4


def test_every_byte_is_verified(folder: Path) -> None:
    mergec("run", "ties.yml", "out", "-q")
    file = folder / "out" / "model.safetensors"
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        damage(file, position)
        assert mergec("verify", "out").code == 1, position
        file.write_bytes(whole)
    for length in (0, 4, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert mergec("verify", "out").code == 1, length
    file.write_bytes(whole + b"x")
    assert mergec("verify", "out").code == 1


def test_verify_wants_the_folder_of_a_merge(folder: Path) -> None:
    mergec("lock", "ties.yml")
    assert "E622" in mergec("verify", ".").err
    assert "E620" in mergec("verify", "base").err


# frozen


def test_a_frozen_run_fails_if_the_lock_would_change(folder: Path) -> None:
    assert "E620" in mergec("run", "ties.yml", "--frozen").err
    mergec("lock", "ties.yml")
    assert mergec("run", "ties.yml", "--frozen", "-q").code == 0
    for arguments in (("--set", "parameters.density=0.4"), ()):
        if not arguments:
            write_model(folder / "b", seed="new")
        called = mergec("run", "ties.yml", "out", "--frozen", *arguments)
        assert called.code == 1
        assert "E623" in called.err
        assert "all 9 tensors" in called.err
        assert not (folder / "out").exists()


# locks that are none


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a lock and an output."""
    folder = write_family(tmp_path_factory.mktemp("made"))
    (folder / "ties.yml").write_text(RECIPE)
    mergec("lock", folder / "ties.yml")
    mergec("run", folder / "ties.yml", folder / "out", "-q")
    return folder


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_lock_is_a_clean_error(made: Path, data: st.DataObject) -> None:
    path = made / data.draw(st.sampled_from(["mergec.lock", "out/mergec.lock"]))
    whole = path.read_bytes()
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin, min(len(whole), begin + 60)))
    instead = data.draw(st.sampled_from([b"", b"1", b"-1", b'"', b"null", b"[]", b"{", b"..", b"\xff", b"1e999", b"0"]))
    path.write_bytes(whole[:begin] + instead + whole[end:])
    try:
        for command in (["status", made / "ties.yml"], ["status", made / "out"], ["verify", made / "out"]):
            called = mergec(*command)
            assert called.code in (0, 1, 2)
            assert called.code != 2 or re.search(r"error\[E62\d\]", called.err)
    finally:
        path.write_bytes(whole)
