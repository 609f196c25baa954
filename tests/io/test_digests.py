"""Digests: right, remembered as long as nothing changed, and computed behind whoever reads."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from mergec.errors import RunError
from mergec.io import digests
from mergec.io.digests import FollowedFiles, file_digest, remembered

DATA = bytes(range(256)) * 12_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERGEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED_NS", 0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_digest_is_computed_once(file: Path) -> None:
    read: list[int] = []
    assert file_digest(str(file), read.append) == sha256(DATA)
    assert sum(read) == len(DATA)
    assert file_digest(str(file), read.append) == sha256(DATA)
    assert sum(read) == len(DATA)
    assert file_digest(str(file), read.append, verify=True) == sha256(DATA)
    assert sum(read) == 2 * len(DATA)


def test_a_change_is_seen_whatever_its_times_say(file: Path) -> None:
    file_digest(str(file))
    before = file.stat()
    file.write_bytes(DATA[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered(file) is None
    assert file_digest(str(file)) == sha256(DATA[::-1])


def test_a_file_in_its_place_is_another_file(file: Path) -> None:
    file_digest(str(file))
    other = file.with_name("other")
    other.write_bytes(DATA)
    os.replace(other, file)
    assert remembered(file) is None


def test_a_link_leads_to_the_same_memory(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    file_digest(str(tmp_path / "link"))
    assert remembered(file) == sha256(DATA)


def test_a_file_just_written_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the grain of a clock it could be written to again unseen."""
    monkeypatch.setattr(digests, "_SETTLED_NS", 3600 * 10**9)
    file_digest(str(file))
    assert remembered(file) is None


@pytest.mark.parametrize("note", ["", "{", "[]", "[[1], 2]", '"x"', "[null, null, 1]"])
def test_a_damaged_memory_is_no_memory(file: Path, note: str) -> None:
    file_digest(str(file))
    (path,) = (digests.cache_folder() / "digests").iterdir()
    path.write_text(note)
    assert file_digest(str(file)) == sha256(DATA)


def test_a_cache_that_cannot_be_written_costs_time_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEC_CACHE", str(file))
    assert file_digest(str(file)) == sha256(DATA)


def test_files_are_hashed_as_far_as_somebody_has_read(file: Path, tmp_path: Path) -> None:
    other, empty = tmp_path / "other", tmp_path / "empty"
    other.write_bytes(DATA[:-1])
    empty.write_bytes(b"")
    hashed = threading.Event()
    read: list[int] = []

    def report(size: int) -> None:
        read.append(size)
        if sum(read) >= 5_000:
            hashed.set()

    with FollowedFiles(map(str, (file, other, empty)), report) as files:
        files.passed(str(file), 5_000)
        files.passed("a file that is not followed", 5_000)
        assert hashed.wait(10)
        assert sum(read) == 5_000
        assert files.finish() == {
            str(file): sha256(DATA),
            str(other): sha256(DATA[:-1]),
            str(empty): sha256(b""),
        }
    assert remembered(other) == sha256(DATA[:-1])


def test_following_may_be_given_up(file: Path) -> None:
    with FollowedFiles([str(file)]) as files:
        files.passed(str(file), 10)
    assert remembered(file) is None


def test_a_file_that_changes_meanwhile_is_refused(file: Path) -> None:
    with FollowedFiles([str(file)]) as files:
        with open(file, "ab") as stream:
            stream.write(b"more")
        with pytest.raises(RunError, match="E411"):
            files.finish()
    assert remembered(file) is None


def test_a_file_that_cannot_be_read_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"E410.*absent"):
        file_digest(str(file.with_name("absent")), verify=True)

    def fail(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(RunError, match=r"E410.*model\.safetensors.*Input/output"):
        file_digest(str(file))
