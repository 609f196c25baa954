"""What each command prints and returns, as a user of the command line meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import SHAPES, Called, mergec, tensors_of, write_family, write_model

from mergec.cli.options import parse_size
from mergec.ops.registry import methods

RECIPE = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight: 0.5
      density: {filter: layers, value: [1, 0.5]}
  - model: b
    parameters: {weight: {filter: mlp, value: 0}}
parameters:
  weight: [{filter: norm, value: 1}, {value: 0.4}]
dtype: bfloat16
"""
HEAVY = ("torch", "transformers", "numpy", "rich", "httpx", "requests")
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a family of models, and a sound recipe for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yml").write_text(RECIPE)
    return write_family(tmp_path)


def ok(*arguments: object) -> str:
    called = mergec(*arguments)
    assert (called.code, called.err) == (0, "")
    return called.out


def process(*arguments: str, cwd: Path, **environment: str) -> Called:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Called(done.returncode, done.stdout, done.stderr)


# --------------------------------------------------------------------------------------------- texts


def test_check(here: Path) -> None:
    assert ok("check", "r.yml") == "r.yml: ok, 9 tensors from 3 models; no weights were read\n"
    assert ok("check", "r.yml", "--json") == "[]\n"


def test_check_as_json_says_what_ops_remark_on(here: Path) -> None:
    (here / "tsv.yml").write_text(
        "merge_method: tsv\nbase_model: base\nmodels: [{model: a}]\nparameters: {rank_ratio: 0.1}\n"
    )
    assert "warning[W651]" in mergec("check", "tsv.yml").err
    assert "W651" in [finding["code"] for finding in json.loads(ok("check", "tsv.yml", "--json"))]


def test_plan(here: Path, golden: Callable[..., Any]) -> None:
    text = ok("plan", "r.yml", "--workers", "2")
    assert re.sub(r"^plan \w{12}", "plan ............", text) == golden()


def test_explain(here: Path, golden: Callable[..., Any]) -> None:
    assert ok("explain", "r.yml", DOWN) == golden("layer")
    assert ok("explain", "r.yml", "model.embed_tokens.weight") == golden("embedding")


def test_plan_as_a_picture(here: Path, golden: Callable[..., Any]) -> None:
    assert ok("plan", "r.yml", "--dot", DOWN) == golden("dot")
    assert ok("plan", "r.yml", "--mermaid", DOWN) == golden("mermaid")


def test_inspect(here: Path, golden: Callable[..., Any]) -> None:
    assert ok("inspect", "a") == golden("folder")
    assert ok("inspect", "a/model.safetensors") == golden("file")
    facts = json.loads(ok("inspect", "a", "--json"))
    assert (facts["tensors"], facts["parameters"], facts["layers"]) == (9, 156, {"model.layers": 2})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": 3, "text_config": "x", "num_hidden_layers": "two", "tie_word_embeddings": "maybe"},
        {"architectures": [1], "vocab_size": None, "quantization_config": [], "text_config": {"num_layers": -1}},
    ],
)
def test_inspect_takes_any_config(config: dict[str, Any], here: Path) -> None:
    write_model(here / "odd", config=config)
    assert "tensors" in ok("inspect", "odd")
    json.loads(ok("inspect", "odd", "--json"))
    ok("check", "r.yml", "--set", "base_model=odd")


def test_methods() -> None:
    lines = ok("methods").splitlines()
    names = [line.partition("  ")[0] for line in lines]
    assert names == [*sorted(methods()), "pipeline", "moe", "post: svc", "post: consensus_mask"]
    assert all(re.fullmatch(r"(post: )?\w+ {2,}[A-Z].*\.", line) for line in lines)


def test_methods_of_one_name(golden: Callable[..., Any]) -> None:
    assert ok("methods", "ties") + ok("methods", "svc") == golden()


def test_schema() -> None:
    assert json.loads(ok("schema"))["title"] == "mergec recipe"


def test_help_and_version() -> None:
    text = ok("--help")
    for command in ("new", "check", "plan", "explain", "run", "methods", "schema", "inspect"):
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE)
        assert ok(command, "-h").startswith(f"Usage: mergec {command} ")
    assert re.fullmatch(r"mergec \d+\.\d+\.\d+\n", ok("--version"))


# ----------------------------------------------------------------------------------------------- run


def test_run_says_what_it_made_and_what_to_do_next(here: Path) -> None:
    called = mergec("run", "r.yml")
    assert called.code == 0
    first, *rest = called.out.splitlines()
    assert re.fullmatch(r"made merged/r: 9 tensors, 1\.15 kB in 1 file, \d+\.\d s", first)
    assert rest == [
        "try next",
        "  see how a tensor was made  mergec explain r.yml lm_head.weight",
        "  see what the result is     mergec inspect merged/r",
        "  load it in Python          from transformers import AutoModelForCausalLM; "
        "model = AutoModelForCausalLM.from_pretrained('merged/r')",
    ]
    ok("explain", "r.yml", "lm_head.weight")
    assert "bfloat16: 156" in ok("inspect", "merged/r")
    assert (here / "merged/r/mergec_recipe.yml").read_text() == RECIPE


def test_progress_is_plain_lines_where_nobody_watches(here: Path) -> None:
    (line,) = mergec("run", "r.yml", "out").err.splitlines()
    assert re.fullmatch(r"100 %  9 of 9 tensors, read .*, compute .*, write .*, 0 s left", line)
    assert "\x1b" not in line


def test_quiet_prints_nothing(here: Path) -> None:
    assert mergec("run", "r.yml", "out", "--quiet") == Called(0, "", "")
    assert mergec("run", "r.yml", "out", "-q") == Called(0, "", "")
    assert (here / "out/model.safetensors").exists()


def test_run_as_lines_of_json(here: Path) -> None:
    events = [json.loads(line) for line in ok("run", "r.yml", "out", "--json").splitlines()]
    assert [event["event"] for event in events] == ["progress", "done"]
    assert events[0]["tensors"] == events[0]["of_tensors"] == events[1]["tensors"] == 9
    assert events[1]["folder"] == "out"


def test_a_folder_of_somebody_else_is_moved_aside_on_request(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/notes.txt").write_text("mine")
    called = mergec("run", "r.yml", "out", "--force")
    assert "what was there before is now in out.old" in called.out.replace(f"{here}/", "")
    assert (here / "out.old/notes.txt").read_text() == "mine"


def test_a_saved_plan_runs_and_makes_the_same_bytes(here: Path) -> None:
    (here / "plan.json").write_text(ok("plan", "r.yml", "--json"))
    assert mergec("run", "plan.json", "from_plan", "-q").code == 0
    assert mergec("run", "r.yml", "from_recipe", "-q").code == 0
    one, other = ((here / folder / "model.safetensors").read_bytes() for folder in ("from_plan", "from_recipe"))
    assert one == other


def test_a_saved_plan_runs_from_any_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "plan.json").write_text(ok("plan", "r.yml", "--json"))
    assert mergec("run", "r.yml", "from_recipe", "-q").code == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert mergec("run", "../plan.json", "from_plan", "-q") == Called(0, "", "")
    assert (here / "elsewhere/from_plan/tokenizer.json").exists()
    one, other = (here / folder / "model.safetensors" for folder in ("elsewhere/from_plan", "from_recipe"))
    assert one.read_bytes() == other.read_bytes()
    refused = mergec("run", "../plan.json", "../a")  # the inputs are known as such from here too
    assert (refused.code, "error[E400]" in refused.err) == (2, True)


def test_warnings_are_printed_and_do_not_fail(here: Path) -> None:
    (here / "r.yml").write_text(RECIPE + "compat: mergekit\n")
    called = mergec("check", "r.yml", "--set", "parameters.gamma=0.1")
    assert called.code == 0
    assert called.err.startswith("--set parameters.gamma:1:1: warning[W202]: ties has no parameter 'gamma'; hint: ")
    assert called.out.startswith("r.yml: ok, ")
    assert mergec("run", "r.yml", "out", "--set", "parameters.gamma=0.1", "-q") == Called(0, "", "")


# ------------------------------------------------------------------------------------------- options


def test_set_and_seed_change_the_merge_and_are_recorded(here: Path) -> None:
    (here / "d.yml").write_text(
        "merge_method: dare_linear\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}\n"
    )
    made = {}
    for name, options in {"a": [], "b": ["--seed", "7"], "c": ["--set", "seed=7"], "d": ["--set", "seed=0"]}.items():
        assert mergec("run", "d.yml", f"out-{name}", "-q", *options).code == 0
        made[name] = (here / f"out-{name}/model.safetensors").read_bytes()
    assert made["a"] == made["d"] != made["b"] == made["c"]
    assert (here / "out-b/mergec_recipe.yml").read_text().endswith("# run with --set seed=7\n")


def test_an_override_is_named_as_the_place_of_its_value(here: Path) -> None:
    text = ok("explain", "r.yml", DOWN, "--set", "models.0.parameters.weight=0.9", "--set", "parameters.lambda=2")
    assert re.search(r"weight +a +0\.9 +--set models\.0\.parameters\.weight:1:1$", text, re.MULTILINE)
    assert re.search(r"lambda +2 +--set parameters\.lambda:1:1$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100", 100),
        ("100B", 100),
        ("1k", 1000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("0.5 KB", 500),
        ("1.5M", 1_500_000),
        ("5GB", 5 * 10**9),
        ("5GiB", 5 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(None, None, text) == size  # type: ignore[arg-type]


def test_a_shard_size_makes_shards(here: Path) -> None:
    lines = ok("plan", "r.yml", "--shard-size", "100B").splitlines()
    assert [line.split()[0] for line in lines if "-of-" in line] == [
        f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)
    ]
    assert mergec("run", "r.yml", "out", "-q", "--shard-size", "100B").code == 0
    index = json.loads((here / "out/model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(SHAPES)


def test_a_plugin_brings_a_method(here: Path) -> None:
    (here / "halve.py").write_text(
        "from mergec.graph import Node\n"
        "from mergec.ops.basic import scale\n"
        "from mergec.ops.registry import method\n\n\n"
        "@method('nowhere', base='input', models=(1, 1))\n"
        "def halve(models: tuple[Node, ...]) -> Node:\n"
        '    """Take half of a model."""\n'
        "    return scale(models[0], factor=0.5)\n"
    )
    (here / "h.yml").write_text("merge_method: halve\nmodels: [{model: a}]\n")
    python = ["-m", "mergec"]
    without = process(*python, "check", "h.yml", cwd=here)
    assert "h.yml:1:15: error[E200]: unknown merge method 'halve'" in without.err
    assert process(*python, "run", "h.yml", "out", "-q", "--plugin", "halve.py", cwd=here) == Called(0, "", "")
    assert "Take half of a model." in process(*python, "new", "halve", "--plugin", "halve.py", cwd=here).out


# ---------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("folder", ["with space", "a+b", "user@host", "模型-雪", "per%cent", "#hash", "a=b", "it's"])
def test_any_name_of_a_folder_will_do(folder: str, here: Path) -> None:
    place = here / folder
    place.mkdir()
    write_model(place / f"model {folder}", seed=1)
    recipe = place / f"recipe {folder}.yml"
    model = json.dumps(f"model {folder}", ensure_ascii=False)
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {model}}}]\nparameters: {{weight: 1}}\n", encoding="utf-8"
    )
    assert ok("check", recipe).startswith(f"{recipe}: ok, ")
    assert mergec("run", recipe, place / f"out {folder}", "-q") == Called(0, "", "")
    made = tensors_of(place / f"out {folder}" / "model.safetensors")
    assert made == tensors_of(place / f"model {folder}" / "model.safetensors")


def test_the_default_output_is_a_safe_name(here: Path) -> None:
    (here / "my recipe.yml").write_text(RECIPE)
    assert mergec("run", "my recipe.yml", "-q").code == 0
    assert (here / "merged/my-recipe/model.safetensors").exists()
    assert mergec("run", "r.yml", "-q", "--set", "name=../../a b").code == 0
    assert (here / "merged/a-b/model.safetensors").exists()


def test_models_are_looked_for_beside_the_recipe_then_in_the_current_folder(here: Path) -> None:
    recipe = here / "recipes/soup.yml"
    recipe.parent.mkdir()
    recipe.write_text("merge_method: linear\nmodels: [{model: a}, {model: ./b}]\nparameters: {weight: 1}\n")
    write_model(here / "recipes/a", seed="another")
    rows = [
        line.split(maxsplit=3) for line in ok("plan", "recipes/soup.yml").splitlines() if line.startswith("  models[")
    ]
    assert rows == [
        ["models[0]", "a", "recipes/a", "beside the recipe"],
        ["models[1]", "./b", "b", "in the current folder"],
    ]
    mergec("run", "recipes/soup.yml", "out", "--set", "models.1.parameters.weight=0", "-q")
    assert tensors_of(here / "out/model.safetensors") == tensors_of(here / "recipes/a/model.safetensors")


def test_an_absolute_path_is_taken_as_it_is(here: Path) -> None:
    text = f"merge_method: passthrough\nmodels: [{{model: {here / 'a'}}}]\n"
    (here / "p.yml").write_text(text)
    assert f"models[0]  {here / 'a'}  {here / 'a'}\n" in ok("plan", "p.yml")


def test_a_single_file_is_a_model(here: Path) -> None:
    (here / "p.yml").write_text("merge_method: passthrough\nmodels: [{model: a/model.safetensors}]\n")
    assert mergec("run", "p.yml", "out", "-q") == Called(0, "", "")
    assert tensors_of(here / "out/model.safetensors") == tensors_of(here / "a/model.safetensors")


# ------------------------------------------------------------------------------------------- imports


def test_python_m_mergec(here: Path) -> None:
    assert process("-m", "mergec", "check", "r.yml", cwd=here) == Called(0, ok("check", "r.yml"), "")
    assert process("-m", "mergec", "frob", cwd=here).code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["check", "r.yml"],
        ["plan", "r.yml"],
        ["plan", "r.yml", "--json"],
        ["plan", "r.yml", "--dot", "lm_head.weight"],
        ["plan", "r.yml", "--html", "plan.html"],
        ["explain", "r.yml", "lm_head.weight"],
        ["methods"],
        ["methods", "ties"],
        ["schema"],
        ["inspect", "a"],
        ["new", "ties"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_before_a_run(arguments: list[str], here: Path) -> None:
    script = (
        "import sys\nfrom mergec.cli.main import _run\n"
        f"try:\n    code = _run({arguments!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])\n"
    )
    assert process("-c", script, cwd=here).out.splitlines()[-1] == "0 []"


def test_cycles_are_looked_for_while_a_run_computes_and_exit_handlers_are_called(here: Path) -> None:
    script = (
        "import atexit, gc, mergec.execute.run as runs\nfrom mergec.cli.main import main\n"
        "run = runs.run\nruns.run = lambda *a, **k: (print(gc.isenabled()), run(*a, **k))[1]\n"
        "atexit.register(print, 'left')\nmain(['run', 'r.yml', '--quiet'])\n"
    )
    assert process("-c", script, cwd=here).out == "True\nleft\n"


def test_importing_mergec_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        f"import sys, mergec; print([name for name in {(*HEAVY, 'pydantic', 'ruamel.yaml')} if name in sys.modules])"
    )
    assert process("-c", script, cwd=tmp_path).out == "[]\n"
