"""torch's archives: every tensor at its bytes, and nothing of the file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import merged, write_recipe

from mergec.errors import InputError
from mergec.io.checkpoint import open_checkpoint
from mergec.io.pickles import read_archive

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def read_all(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {name: raw[ref.begin : ref.end] for name, ref in read_archive(path).tensors.items()}


def expected(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) for name, tensor in tensors.items()}


def test_every_dtype_and_shape_is_found_at_its_bytes(tmp_path: Path) -> None:
    tensors = {name: torch.arange(6).to(getattr(torch, name)).view(2, 3) for name in DTYPES}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "parameter": torch.nn.Parameter(torch.ones(3))}
    path = saved(tmp_path / "model.bin", OrderedDict(tensors))
    header = read_archive(path)
    assert {name: (ref.dtype, ref.shape) for name, ref in header.tensors.items()} == {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    assert read_all(path) == expected({name: tensor.detach() for name, tensor in tensors.items()})


def test_tensors_that_share_a_storage_are_found_at_their_offsets(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(4, 3)
    tensors = {"whole": whole, "tied": whole, "tail": whole[2:], "column of one": whole[:, :1][:1]}
    path = saved(tmp_path / "model.pt", tensors)
    assert read_all(path) == expected(tensors)
    refs = read_archive(path).tensors
    assert refs["whole"][4:] == refs["tied"][4:]


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path: Path, key: str) -> None:
    inner = {"w": torch.ones(2)}
    path = saved(tmp_path / "model.ckpt", {key: inner, "epoch": 3, "args": {"rate": 0.1}, "loss": torch.zeros(1)})
    assert read_all(path) == expected(inner)


def test_what_is_no_tensor_is_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"w": torch.ones(2), "step": 7, "names": ["a"], 5: torch.ones(1)})
    assert list(read_archive(path).tensors) == ["w"]


def test_a_merge_of_archives_has_the_bytes_of_a_merge_of_safetensors(tmp_path: Path, checkpoint: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    models = [{f"layers.{i}.w": torch.randn(5, 7, generator=generator) for i in range(4)} for _ in range(3)]
    for number, tensors in enumerate(models):
        checkpoint(f"safe{number}", tensors)
        folder = tmp_path / f"pickled{number}"
        folder.mkdir()
        names = sorted(tensors)
        parts = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
        for file, members in parts.items():
            torch.save({name: tensors[name] for name in members}, folder / file)
        index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    def result(kind: str) -> bytes:
        base, *others = (tmp_path / f"{kind}{number}" for number in range(3))
        recipe = write_recipe(tmp_path, "ties", others, base_model=base, parameters={"weight": 0.5, "density": 0.4})
        return merged(recipe, tmp_path / f"out-{kind}")["model.safetensors"]

    assert result("pickled") == result("safe")


def test_safetensors_win_over_an_archive_beside_them(tmp_path: Path, checkpoint: Any) -> None:
    folder = checkpoint("a", {"w": torch.ones(2)})
    saved(folder / "pytorch_model.bin", {"other": torch.ones(2)})
    assert list(open_checkpoint(folder).tensors) == ["w"]
    saved(tmp_path / "training_args.bin", {"x": torch.ones(1)})
    saved(tmp_path / "pytorch_model.bin", {"y": torch.ones(1)})
    assert list(open_checkpoint(tmp_path).tensors) == ["y"]


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_an_archive_is_named_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.bin", {"w": torch.ones(2), "x": _Evil(tmp_path / "ran")})
    with pytest.raises(InputError, match=r"E314.*it would call posix\.mkdir, which is refused"):
        open_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def rewritten(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with its members changed by a function of (name, bytes), which drops one by returning None."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return path


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be read in place"),
        (lambda path: path.write_bytes(b"\x80\x02" + pickle.dumps(1)), "cannot be read in place"),
        (lambda path: rewritten(path, lambda name, data: data, zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda path: rewritten(path, lambda name, data: None if "/data/" in name else data), "of 'w' are absent"),
        (lambda path: rewritten(path, lambda name, data: data[:8] if "/data/" in name else data), "ends after byte 24"),
        (lambda path: rewritten(path, lambda name, data: b"big" if "order" in name else data), "big-endian"),
        (lambda path: rewritten(path, lambda name, data: data[:9] if ".pkl" in name else data), "cannot be read ("),
        (lambda path: rewritten(path, lambda name, data: None if ".pkl" in name else data), "has no data.pkl"),
        (lambda path: torch.save({"w": torch.ones(2, 3).t()}, path), "'w' is a transposed or strided view"),
        (lambda path: torch.save({"w\n": torch.ones(2)}, path), "cannot be printed"),
        (lambda path: torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False), "before 1.6"),
    ],
)
def test_an_unsound_archive_is_refused(tmp_path: Path, damage: Any, says: str) -> None:
    path = saved(tmp_path / "model.bin", {"w": torch.ones(6)})
    damage(path)
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert caught.value.code == "E314"
    assert says in str(caught.value)


def test_flipped_bytes_give_an_error_or_spans_inside_the_file(tmp_path: Path) -> None:
    sound = saved(tmp_path / "sound.bin", {"w": torch.ones(6), "v": torch.zeros(2, 2)}).read_bytes()
    generator, path = random.Random(3), tmp_path / "model.bin"
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            header = read_archive(path)
        except InputError:
            continue
        assert all(0 <= ref.begin <= ref.end <= len(damaged) for ref in header.tensors.values())
