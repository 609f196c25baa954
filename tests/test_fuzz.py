"""Broken files of every kind: a clean error or a correct result. `benchmarks/fuzz.py` runs many thousands of these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_model

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


def test_a_few_hundred_broken_files_end_in_words() -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--cases", "300", "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 cases" in done.stdout
    assert "0 failures" in done.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "a", "b"):
        write_model(tmp_path / name, seed=name, shards=2)
    (tmp_path / "r.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_index_of_what_is_no_name_is_refused(here: Path) -> None:
    index = here / "a/model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-00001-of-00002.safetensors"', "null", 1))
    called = mergec("check", "r.yml")
    assert called.code == 2
    assert "error[E306]" in called.err


def test_half_a_character_in_an_index_is_refused(here: Path) -> None:
    index = here / "a/model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "\\ud800", 1))
    called = mergec("inspect", "a")
    assert called.code == 2
    assert "E308" in called.err


def test_a_plan_that_was_edited_is_refused(here: Path) -> None:
    plan = mergec("plan", "r.yml", "--json").out
    (here / "plan.json").write_text(plan)
    assert mergec("run", "plan.json", "made").code == 0
    (here / "plan.json").write_text(plan.replace('"weight",0.5', '"weight",0.6', 1))
    called = mergec("run", "plan.json", "other")
    assert called.code == 2
    assert "E504" in called.err
    assert "it was changed after it was made" in called.err


def test_layers_beyond_all_counting_are_refused(here: Path) -> None:
    (here / "r.yml").write_text(
        f"merge_method: passthrough\nslices: [sources: [{{model: a, layer_range: [0, {2**70}]}}]]\n"
    )
    called = mergec("check", "r.yml")
    assert called.code == 2
    assert "expected a number less than or equal to 100000" in called.err
