"""Checkpoints in folders: one file or many, what lies beside them, and every way in which they can be unsound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import raw_file
from safetensors.torch import save_file

from mergec.errors import InputError
from mergec.io.checkpoint import INDEX_NAME, open_checkpoint

Write = Callable[..., Path]
TENSORS = {f"model.layers.{number}.w": torch.full((2, 2), float(number)) for number in range(12)}


def read_all(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor, through the addresses a checkpoint gives."""
    refs = open_checkpoint(folder).tensors
    return {name: Path(ref.file).read_bytes()[ref.begin : ref.end] for name, ref in refs.items()}


def test_one_file_many_files_and_a_lone_file_say_the_same(checkpoint: Write, tmp_path: Path) -> None:
    single, sharded = checkpoint("single", TENSORS), checkpoint("sharded", TENSORS, shards=5)
    save_file(TENSORS, tmp_path / "lone.safetensors")
    expected = {name: tensor.numpy().tobytes() for name, tensor in TENSORS.items()}
    assert read_all(single) == read_all(sharded) == read_all(tmp_path / "lone.safetensors") == expected
    assert len(open_checkpoint(sharded).files) == 5
    assert open_checkpoint(tmp_path / "lone.safetensors").config is None


def test_the_only_safetensors_file_of_a_folder_is_its_weights(checkpoint: Write) -> None:
    folder = checkpoint("a", TENSORS)
    (folder / "model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    assert open_checkpoint(folder).tensors.keys() == TENSORS.keys()


def test_the_order_of_the_index_is_irrelevant(checkpoint: Write) -> None:
    folder = checkpoint("a", TENSORS, shards=3)
    before = open_checkpoint(folder)
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"] = dict(reversed(index["weight_map"].items()))
    (folder / INDEX_NAME).write_text(json.dumps(index))
    after = open_checkpoint(folder)
    assert (after.files, list(after.tensors.items())) == (before.files, list(before.tensors.items()))


def test_only_files_in_the_index_are_read(checkpoint: Write) -> None:
    folder = checkpoint("a", TENSORS, shards=2)
    (folder / "consolidated.safetensors").write_bytes(b"not to be opened")
    assert open_checkpoint(folder).tensors.keys() == TENSORS.keys()


def test_side_files_are_the_small_files_that_travel(checkpoint: Write) -> None:
    folder = checkpoint("a", TENSORS, shards=2)
    travelling = ["chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt"]
    staying = ["README.md", ".gitattributes", ".mergec.json", "pytorch_model.bin", "model.gguf", "mergekit_config.yml"]
    for name in travelling + staying:
        (folder / name).write_text("x")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    found = open_checkpoint(folder)
    assert sorted(found.side_files) == travelling
    assert found.side_files["vocab.txt"] == str(folder / "vocab.txt")


def cut_shard(folder: Path) -> None:
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def lose_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def lose_tensor(folder: Path) -> None:
    save_file({"model.layers.4.w": torch.zeros(2)}, folder / "model-00002-of-00003.safetensors")


def add_stale_file(folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")


def double_tensor(folder: Path) -> None:
    save_file({"model.layers.0.w": torch.zeros(2)}, folder / "model-00003-of-00003.safetensors")


def escape(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["model.layers.0.w"] = "../elsewhere.safetensors"
    (folder / INDEX_NAME).write_text(json.dumps(index))


def empty_index(folder: Path) -> None:
    (folder / INDEX_NAME).write_text("{}")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{" * 100_000)


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (cut_shard, "E310", "truncated"),
        (lose_shard, "E307", "model-00002-of-00003"),
        (lose_tensor, "E306", "in no shard"),
        (add_stale_file, "E304", "one of them is stale"),
        (double_tensor, "E312", "model.layers.0.w"),
        (escape, "E306", "of the same folder"),
        (empty_index, "E306", "weight_map"),
        (broken_config, "E308", "config.json"),
    ],
)
def test_a_damaged_folder_is_refused(checkpoint: Write, damage: Callable[[Path], None], code: str, says: str) -> None:
    folder = checkpoint("a", TENSORS, shards=3)
    damage(folder)
    with pytest.raises(InputError, match=says) as caught:
        open_checkpoint(folder)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([], "E302"),
        (["pytorch_model.bin"], "E314"),
        (["a.bin", "b.pt"], "E305"),
        (["a.safetensors", "b.safetensors"], "E305"),
    ],
)
def test_a_folder_without_one_set_of_weights_is_refused(tmp_path: Path, files: list[str], code: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(raw_file({}))
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code == code


def test_a_bare_pickle_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    for path in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(InputError, match="E314"):
            open_checkpoint(path)
    assert not (tmp_path / "ran").exists()
