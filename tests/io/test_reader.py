"""The reader: spans of tensors as they lie in the file, and a file that is no longer what was planned."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergec.errors import RunError
from mergec.io.reader import Reader
from mergec.io.tensors import TensorRef, read_header


@pytest.fixture
def ref(tmp_path: Path) -> TensorRef:
    path = tmp_path / "with space.safetensors"
    save_file({"a": torch.zeros(3), "w": torch.arange(1000)}, path)
    return read_header(path).tensors["w"]


def reader_of(ref: TensorRef) -> Reader:
    return Reader([(ref.file, os.path.getsize(ref.file))])


def read(reader: Reader, ref: TensorRef, start: int, stop: int) -> list[int]:
    buffer = bytearray((stop - start) * 8)
    reader.read(ref, start * 8, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=torch.int64).tolist()


def test_any_span_from_many_threads(ref: TensorRef) -> None:
    spans = [(start, min(1000, start + 7)) for start in range(0, 1000, 7)]
    with reader_of(ref) as reader, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda span: read(reader, ref, *span), spans))
    assert [number for part in found for number in part] == list(range(1000))


def test_short_reads_are_continued(ref: TensorRef, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: whole(fd, [buffers[0][:5]], at))
    with reader_of(ref) as reader:
        assert read(reader, ref, 990, 1000) == list(range(990, 1000))


def test_a_file_of_another_size_is_refused(ref: TensorRef) -> None:
    reader = reader_of(ref)
    with open(ref.file, "ab") as stream:
        stream.write(b"\0")
    with reader, pytest.raises(RunError, match=r"E411.*when the plan was made"):
        read(reader, ref, 0, 1)


def test_a_file_cut_during_the_run_is_noticed(ref: TensorRef) -> None:
    with reader_of(ref) as reader:
        read(reader, ref, 0, 1)
        os.truncate(ref.file, ref.end - 8)
        assert read(reader, ref, 990, 999) == list(range(990, 999))
        with pytest.raises(RunError, match=r"E411.*ended inside w"):
            read(reader, ref, 990, 1000)


def test_a_file_that_is_gone_is_named(ref: TensorRef) -> None:
    reader = reader_of(ref)
    os.unlink(ref.file)
    with reader, pytest.raises(RunError, match=r"E410.*with space.safetensors"):
        read(reader, ref, 0, 1)


def test_a_failing_disk_names_the_tensor(ref: TensorRef, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with reader_of(ref) as reader, pytest.raises(RunError, match=r"E410.*cannot read w .*Input/output error"):
        read(reader, ref, 0, 1)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system does not say what is cached")
@pytest.mark.parametrize("is_cached", [True, False])
def test_what_is_cached_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool) -> None:
    path, asked = tmp_path / "file", []
    path.write_bytes(bytes(100))

    def waits(*arguments: Any) -> int:
        raise BlockingIOError

    if not is_cached:
        monkeypatch.setattr(os, "preadv", waits)
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *span: asked.append(span[:2]))
    with Reader([(str(path), 100)]) as reader:
        reader.advise(str(path), 10, 60)
    assert asked == ([] if is_cached else [(10, 50)])
