"""Staging: parts until the last moment, one rename, nothing of anybody else's touched, journals that survive a kill."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import zlib
from collections import namedtuple
from pathlib import Path

import pytest

from mergec.errors import RunError, UsageError
from mergec.io.journal import Journal, Placed
from mergec.io.layout import Shard, SideFile
from mergec.io.lockfile import LOCK_NAME, LockedRecipe, LockFile, MadeFile, lock_text, read_lock
from mergec.io.staging import Staging, check_output, check_space, staging_folder

CONFIG = SideFile("config.json", text="{}")
HEADER = bytes(8)  # of no tensors
WEIGHTS = MadeFile(bytes=16, sha256="0" * 64, header=8)
RECIPE = LockedRecipe(plan="0" * 64, method="linear", models={}, graphs={}, tensors={})


def shards(count: int, size: int = 16) -> tuple[Shard, ...]:
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    return tuple(Shard(name, HEADER, size) for name in (names if count > 1 else ["model.safetensors"]))


def publish(out: Path, count: int = 1, side_files: tuple[SideFile, ...] = (CONFIG,), fill: bytes = b"x") -> Path | None:
    """Stage and publish a model of `count` shards, each full of one byte."""
    with Staging(staging_folder(out), shards(count)) as staging:
        staging.prepare()
        for number in range(count):
            staging.write(number, 8, memoryview(fill * 8))
        made = staging.place(side_files) | {shard.file: WEIGHTS for shard in shards(count)}
        return staging.publish(lock_text(LockFile(recipes={"r.yml": RECIPE}, files=made)), out)


def opened(folder: Path, numerics: str = "a", shared: bool = False) -> Journal:
    return Journal(folder, {"torch": numerics}, lambda: None, shared)


def part_names(count: int) -> list[str]:
    return [f"{shard.file}-{zlib.crc32(HEADER):08x}.part" for shard in shards(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# the files while they grow


def test_parts_have_their_size_and_header_and_no_model_s_name(tmp_path: Path) -> None:
    with Staging(tmp_path / "staged", shards(3)) as staging:
        staging.prepare()
        assert names(tmp_path / "staged") == part_names(3)
        assert staging.part(1).read_bytes() == HEADER + bytes(8)


def test_preparing_again_keeps_what_is_there(tmp_path: Path) -> None:
    with Staging(tmp_path, shards(2)) as one, Staging(tmp_path, shards(2)) as other:
        one.prepare()
        one.write(1, 8, memoryview(b"data"))
        other.prepare()
        other.write(1, 12, memoryview(b"more"))
        one.prepare()
        assert one.part(1).read_bytes() == HEADER + b"datamore"


def test_parts_of_another_plan_stay_until_they_are_discarded(tmp_path: Path) -> None:
    with Staging(tmp_path, shards(2)) as staging:
        staging.prepare()
    (tmp_path / "config.json").write_text("{}")
    with Staging(tmp_path, shards(1, size=40)) as staging:
        staging.prepare()
        assert names(tmp_path) == part_names(2) + part_names(1)
        staging.discard_others()
        assert names(tmp_path) == part_names(1)
        assert staging.part(0).stat().st_size == 40


def test_a_publication_cut_off_before_the_rename_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    renamed: list[Path] = []
    rename = os.rename

    def cut_off(source: Path, target: Path) -> None:
        if Path(target) == out:
            raise KeyboardInterrupt
        renamed.append(Path(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(out, 2)
    assert not out.exists()
    assert [path.name for path in renamed] == [shard.file for shard in shards(2)]
    monkeypatch.undo()
    with Staging(staging_folder(out), shards(2)) as staging:
        staging.prepare()
        assert names(staging_folder(out)) == part_names(2)
        assert staging.part(0).read_bytes() == HEADER + b"x" * 8


def refuse(*arguments: object) -> int:
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("kernel", ["helps", "refuses", "cannot"])
def test_bytes_are_copied_between_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    elif kernel == "cannot":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    (tmp_path / "source").write_bytes(bytes(range(200)))
    with open(tmp_path / "source", "rb") as source, Staging(tmp_path / "staged", shards(1, 108)) as staging:
        staging.prepare()
        staging.copy(0, 8, source.fileno(), 50, 100)
        assert staging.part(0).read_bytes() == HEADER + bytes(range(50, 150))
        with pytest.raises(RunError, match="E411"):
            staging.copy(0, 8, source.fileno(), 150, 100)


def test_a_full_disk_is_a_run_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with Staging(tmp_path, shards(1)) as staging:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(RunError, match=r"E412.*No space left"):
            staging.prepare()
        monkeypatch.undo()
        staging.prepare()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(RunError, match=r"E412.*No space left"):
            staging.write(0, 8, memoryview(b"data"))


# publishing


def test_publishing_renames_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    (tmp_path / "tokenizer.json").write_text("tokens")
    assert publish(out, 2, (CONFIG, SideFile("tokenizer.json", source=str(tmp_path / "tokenizer.json")))) is None
    files = [*(shard.file for shard in shards(2)), "config.json", "tokenizer.json"]
    assert names(out) == sorted([*files, LOCK_NAME])
    assert (out / "model-00001-of-00002.safetensors").read_bytes() == HEADER + b"x" * 8
    assert (out / "tokenizer.json").read_text() == "tokens"
    assert sorted(read_lock(out / LOCK_NAME).files or {}) == sorted(files)
    assert names(out.parent) == ["out"]


def test_a_rerun_with_fewer_shards_leaves_no_stale_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, 3, (CONFIG, SideFile("model.safetensors.index.json", text="{}")))
    publish(out, 1, fill=b"y")
    assert names(out) == sorted([LOCK_NAME, "config.json", "model.safetensors"])
    assert (out / "model.safetensors").read_bytes() == HEADER + b"y" * 8
    assert names(tmp_path) == ["out"]


def test_what_somebody_put_beside_the_model_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out)
    (out / "notes.txt").write_text("mine")
    (out / "logs").mkdir()
    (out / "logs" / "eval.json").write_text("1")
    publish(out)
    publish(out, 2)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "logs" / "eval.json").read_text() == "1"


@pytest.mark.parametrize("renames", [1, 2])
def test_what_somebody_put_there_survives_a_publication_cut_off_between_its_renames(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(out)
    (out / "notes.txt").write_text("mine")
    rename, done = os.rename, []

    def cut_off(source: Path, target: Path) -> None:
        if out in (Path(source), Path(target), Path(target).parent):
            if len(done) == renames:
                raise KeyboardInterrupt
            done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(out, fill=b"y")
    monkeypatch.undo()
    publish(out, fill=b"z")
    assert names(out) == sorted([LOCK_NAME, "config.json", "model.safetensors", "notes.txt"])
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "model.safetensors").read_bytes().endswith(b"z")
    assert names(tmp_path) == ["out"]


def test_a_foreign_folder_is_moved_aside_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number, kept in enumerate(("out.old", "out.old-2", "out.old-3")):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "thesis.tex").write_text(str(number))
        assert publish(out) == tmp_path / kept
        assert (tmp_path / kept / "thesis.tex").read_text() == str(number)
        assert names(out) == sorted([LOCK_NAME, "config.json", "model.safetensors"])


def test_an_empty_folder_is_simply_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert publish(tmp_path / "out") is None
    assert names(tmp_path) == ["out"]


def test_an_output_reached_by_a_link_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big disk" / "model")
    publish(tmp_path / "out")
    publish(tmp_path / "out", 2)
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "big disk") == ["model"]
    assert (tmp_path / "big disk" / "model" / "model-00002-of-00002.safetensors").exists()


# where a run may write


def test_a_source_is_never_an_output(tmp_path: Path) -> None:
    source = tmp_path / "models" / "base"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "models-link").symlink_to(tmp_path / "models")
    (tmp_path / "loose.safetensors").write_bytes(b"")
    around = [source, source.parent, source / "merged", tmp_path / "link", tmp_path / "models-link" / "base" / "x"]
    for out in around:
        for reference in (source, tmp_path / "link", tmp_path / "models-link" / "base"):
            with pytest.raises(UsageError, match="E400"):
                check_output(out, [str(reference)], force=True)
    with pytest.raises(UsageError, match="E400"):
        check_output(tmp_path, [str(tmp_path / "loose.safetensors")], force=True)
    check_output(tmp_path / "models" / "merged", [str(source), "hf://org/name@commit"], force=False)
    check_output(tmp_path / "merged", [str(tmp_path / "loose.safetensors")], force=False)


def test_a_folder_mergec_did_not_make_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_output(out, [], force=False)
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"E401.*--force to move it aside to out\.old"):
        check_output(out, [], force=False)
    check_output(out, [], force=True)
    publish(out)
    check_output(out, [], force=False)
    with pytest.raises(UsageError, match=r"E401.*is a file"):
        check_output(out / "config.json", [], force=True)


def test_too_small_a_disk_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 40, 60))
    check_space(tmp_path / "not" / "yet", 60)
    with pytest.raises(UsageError, match="E402"):
        check_space(tmp_path / "not" / "yet", 61)
    check_space(tmp_path, 20, 40)
    with pytest.raises(UsageError, match=r"takes 21 B, and the files to be fetched 40 B, .* has 60 B free"):
        check_space(tmp_path, 21, 40)


def test_the_hubs_cache_on_a_disk_of_its_own_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path("/dev/shm")
    if not cache.is_dir() or cache.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mergec.io.staging.cache_folder", lambda: cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 0, 30 if folder == cache else 60))
    check_space(tmp_path, 60, 30)
    with pytest.raises(UsageError, match=r"the files to be fetched take 31 B, /dev/shm has 30 B free; .* HF_HOME"):
        check_space(tmp_path, 60, 31)
    with pytest.raises(UsageError, match="the result takes 61 B"):
        check_space(tmp_path, 61, 30)


# the journals


def placed(number: int) -> Placed:
    return Placed("model.safetensors-0.part", number, number + 1, f"{number:064}")


def reopened(folder: Path, numerics: str = "a", shared: bool = False) -> dict[str, Placed]:
    with opened(folder, numerics, shared) as journal:
        return journal.placed


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob(".mergec-journal-*"))


def test_a_journal_remembers_and_the_last_word_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.record("w", placed(1))
        journal.record("key with \n line end", placed(2))
    with opened(tmp_path) as journal:
        journal.record("w", placed(3))
    assert reopened(tmp_path) == {"w": placed(3), "key with \n line end": placed(2)}


def test_a_line_never_precedes_its_data(tmp_path: Path) -> None:
    """What is on the disk when `sync` is called is written about afterwards, and nothing else is."""
    finished: list[str] = []
    seen: list[tuple[int, int]] = []

    def sync() -> None:
        lines = sum(len(path.read_text().splitlines()) for path in journals(tmp_path))
        seen.append((len(finished), lines))

    with Journal(tmp_path, {}, sync) as journal:
        for number in range(200):
            finished.append(str(number))
            journal.record(str(number), placed(number))
    assert len(reopened_in(tmp_path)) == 200
    for (before, _), (_, lines) in itertools.pairwise(seen):
        assert lines <= before + 1  # and the line that opens a journal


def reopened_in(folder: Path) -> dict[str, Placed]:
    with Journal(folder, None, lambda: None) as journal:
        return journal.placed


def test_data_that_cannot_be_synced_is_not_written_about(tmp_path: Path) -> None:
    def fail() -> None:
        raise RunError("E412", "cannot write the result: Input/output error")

    with pytest.raises(RunError, match="E412"), Journal(tmp_path, {}, fail) as journal:
        journal.record("w", placed(1))
    assert reopened_in(tmp_path) == {}


def test_a_torn_last_line_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.record("v", placed(1))
        journal.record("w", placed(2))
    whole = journals(tmp_path)[0].read_bytes()
    last = len(whole.splitlines()[-1]) + 1
    for cut in (0, 1, 2, last - 1, last, last + 1, len(whole) - 1, len(whole)):
        journals(tmp_path)[0].write_bytes(whole[: len(whole) - cut])
        expected = {"v": placed(1), "w": placed(2)} if cut == 0 else {"v": placed(1)} if cut <= last else {}
        assert reopened(tmp_path) == expected
        for later in journals(tmp_path)[1:]:
            later.unlink()


@pytest.mark.parametrize("line", ["1", "[]", "{}", '["k", "../x", 0, 1, "d"]', '["k", "x", "0", 1, "d"]', "\udcff"])
def test_a_strange_line_is_passed_over(tmp_path: Path, line: str) -> None:
    with opened(tmp_path) as journal:
        journal.record("v", placed(1))
    with open(journals(tmp_path)[0], "a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(f"{line}\n")
    assert reopened(tmp_path) == {"v": placed(1)}


def test_what_was_computed_elsewhere_does_not_count(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.record("w", placed(1))
    assert reopened(tmp_path, "b") == {}
    assert reopened(tmp_path, "a") == {"w": placed(1)}


def test_processes_that_share_a_folder_read_each_other_s_journals(tmp_path: Path) -> None:
    with opened(tmp_path, shared=True) as one, opened(tmp_path, shared=True) as other:
        one.record("v", placed(1))
        other.record("w", placed(2))
        one.record("x", placed(3))
    assert reopened(tmp_path) == {"v": placed(1), "w": placed(2), "x": placed(3)}


def test_publishing_removes_the_journals(tmp_path: Path) -> None:
    with opened(staging_folder(tmp_path / "out")) as journal:
        journal.record("w", placed(1))
        publish(tmp_path / "out")
    assert not [name for name in names(tmp_path / "out") if name.startswith(".")]


@pytest.mark.skipif(sys.platform == "win32", reason="runs are not kept apart there")
@pytest.mark.parametrize("locks", ["locks", "no locks"])
@pytest.mark.parametrize(("holder", "comer"), [(False, False), (False, True), (True, False)])
def test_a_second_run_is_refused_with_the_first_one_s_process(
    tmp_path: Path, holder: bool, comer: bool, locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    if locks == "no locks":
        if comer:
            pytest.skip("processes that share a folder are not kept apart where there are no locks")
        monkeypatch.setattr("fcntl.flock", no_locks)
    code = (
        "import sys; from pathlib import Path; from mergec.io.journal import Journal\n"
        f"with Journal(Path({str(tmp_path)!r}), {{}}, print, shared={holder}) as j:\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"held" not in process.stdout.readline():
            pass
        with pytest.raises(UsageError, match=f"E404.*process {process.pid} "):
            reopened(tmp_path, shared=comer)
        process.kill()
        process.wait()
        assert reopened(tmp_path) == {}
