"""What the documentation tells people to run, run as they would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs_and_finds_both_ways_equal(tmp_path: Path) -> None:
    out = run(str(ROOT / "examples" / "python_api.py"), str(tmp_path / "out"), cwd=tmp_path)
    assert "the same 21 tensors, bit for bit" in out


def test_the_quick_start_merges_load_generate_and_beat_every_model_on_the_mean(tmp_path: Path) -> None:
    """The table that the documents print, made anew: merges above the base, specialists best at their own skill."""
    for name in ("ties", "task_arithmetic"):
        made = run("-m", "mergec", "run", str(QUICKSTART / f"{name}.yml"), cwd=tmp_path)
        assert f"made merged/{name}: 21 tensors" in made
    scored = run(str(QUICKSTART / "score.py"), cwd=tmp_path)
    head, *rows = (line.split() for line in scored.strip().splitlines())
    assert head == ["model", "english", "german", "roman", "mean"]
    scores = {name: dict(zip(head[1:], map(float, numbers), strict=True)) for name, *numbers in rows}
    means = {name: score["mean"] for name, score in scores.items()}
    for merged in ("merged/ties", "merged/task_arithmetic"):
        assert means[merged] > max(means[name] for name in ("base", "english", "german", "roman"))
    for skill in ("english", "german", "roman"):
        assert scores[skill][skill] == max(score[skill] for score in scores.values())


def test_the_mixture_of_the_quick_start_scores_as_its_page_says(tmp_path: Path) -> None:
    made = run("-m", "mergec", "moe", str(QUICKSTART / "moe.yml"), "merged/moe", cwd=tmp_path)
    assert "made merged/moe: 35 tensors" in made
    scored = run(str(QUICKSTART / "score.py"), "merged/moe", cwd=tmp_path).splitlines()
    page = (ROOT / "docs" / "moe.md").read_text().splitlines()
    rows = [line for line in scored if line.startswith(("base", "merged/moe"))]
    assert [row for row in page if row.startswith(("base  ", "merged/moe  "))] == rows


def test_the_merged_quick_start_model_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run("-m", "mergec", "run", str(QUICKSTART / "ties.yml"), "out", cwd=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("ro 549 = ", return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "DXLIX" in tokenizer.decode(answer[0]).replace(" ", "")
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "out" / "model.safetensors").values())


@pytest.mark.parametrize("document", ["README.md", "examples/quickstart/README.md"])
def test_the_documents_print_the_same_scores(document: str) -> None:
    """A table that is mended in one place only is out of date in the other."""
    tables = [re.findall(r"^(\S+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+)$", (ROOT / name).read_text(), re.MULTILINE)
              for name in (document, "README.md")]  # fmt: skip
    assert len(tables[0]) == 6
    assert tables[0] == tables[1]


def test_the_broken_recipe_has_the_mistakes_that_the_readme_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = ["check", "examples/quickstart/broken.yml"]
    done = subprocess.run(
        [sys.executable, "-m", "mergec", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    shown = f"$ HF_HUB_OFFLINE=1 mergec {' '.join(command)}\n{done.stdout}{done.stderr}```"
    assert shown in (ROOT / "README.md").read_text()


def test_the_readme_has_two_set_up_commands() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [command.rpartition("&& ")[2] for command in commands] == [
        ".venv/bin/mergec run examples/quickstart/ties.yml",
        ".venv/bin/python -m pytest",
    ]


def test_the_documented_method_is_the_one_in_the_package() -> None:
    """docs/add-a-method.md shows breadcrumbs_ties as it is."""
    shown = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.DOTALL)
    source = (ROOT / "mergec" / "ops" / "methods" / "breadcrumbs_ties.py").read_text()
    assert shown is not None
    first, _, body = shown[1].strip().partition("\n\n")
    assert first in source
    assert body in source
    assert source.count("\n") <= 36


def test_recipes_are_compared_by_one_command(tmp_path: Path) -> None:
    """A dense merge and an artifact, whose models for each task do better on the mean."""
    compare = str(QUICKSTART / "compare.py")
    made = run(compare, "task_arithmetic", "emr", "--numbers", "20", "--write", str(tmp_path / "page.md"), cwd=tmp_path)
    rows = {name: list(map(float, numbers)) for name, *numbers in (line.split() for line in made.splitlines()[1:])}
    assert list(rows) == ["base", "english", "german", "roman", "task_arithmetic", "emr"]
    assert rows["emr"][-1] > rows["task_arithmetic"][-1] > rows["base"][-1] - 0.1
    page = (tmp_path / "page.md").read_text()
    assert "| [emr](methods/emr.md) | all |" in page
