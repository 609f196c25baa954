"""Reading ahead: what the system is told is needed soon, and in which order."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest
from recipes_fixtures import write_family

from mergec.compiler.compile import compile_recipe
from mergec.errors import UsageError
from mergec.execute import ahead
from mergec.execute.run import begin
from mergec.io.reader import Reader
from mergec.plan import Plan


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    write_family(tmp_path)
    recipe = {"merge_method": "linear", "models": [{"model": label} for label in "ab"], "parameters": {"weight": 1}}
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    monkeypatch.chdir(tmp_path)
    return compile_recipe(tmp_path / "r.yml")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Reader, "advise", lambda self, *span: found.append(span))
    return found


def test_inputs_are_asked_for_side_by_side_in_the_order_they_are_read(
    plan: Plan, asked: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_BLOCK_BYTES", 16)
    ahead.read_ahead(plan).join()
    assert {Path(file).parent.name for file, _, _ in asked[:2]} == {"a", "b"}
    for label in "ab":
        spans = [(begin, end) for file, begin, end in asked if Path(file).parent.name == label]
        assert spans == sorted(spans)
        assert all(end - begin <= 16 for begin, end in spans)
        assert sum(end - begin for begin, end in spans) == sum(
            source.end - source.begin
            for one in plan.outputs
            for source in one.sources
            if Path(source.file).parent.name == label
        )


def test_no_more_is_asked_for_than_the_limit_and_a_block(plan: Plan, asked: list[tuple[str, int, int]]) -> None:
    ahead.read_ahead(plan, limit_bytes=100).join()
    assert 100 <= sum(end - begin for _, begin, end in asked) < 400


def test_what_lies_on_the_hub_is_left_to_the_download(plan: Plan, asked: list[tuple[str, int, int]]) -> None:
    first = plan.outputs[0]
    away = [source._replace(file="hf://some/model@main/model.safetensors") for source in first.sources]
    with Reader([]) as reader:
        assert ahead.expect(reader, dataclasses.replace(first, sources=tuple(away))) == 0
    assert asked == []


def test_a_file_that_is_gone_is_left_to_the_run_to_speak_of(plan: Plan, recwarn: pytest.WarningsRecorder) -> None:
    os.unlink(plan.files[0].path)
    thread = ahead.read_ahead(plan)
    thread.join()
    assert not recwarn.list  # pytest warns of exceptions in threads


def test_a_run_that_is_refused_or_has_something_to_go_on_from_reads_nothing_ahead(
    plan: Plan, asked: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").touch()
    with pytest.raises(UsageError, match="E401"):
        begin(plan, tmp_path / "foreign")
    with pytest.raises(UsageError, match="E400"):
        begin(plan, tmp_path / "a")
    (tmp_path / "there").mkdir()
    begin(plan, tmp_path / "there")
    (tmp_path / ".new.mergec").mkdir()
    begin(plan, tmp_path / "new")
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]
    assert asked == []
    begin(plan, tmp_path / "there", rebuild=True)
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join()
    assert asked
