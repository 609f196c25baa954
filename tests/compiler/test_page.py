"""The page of a plan as bytes: it says what the plan says, runs nothing but its own script, and stays small."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import mergec, write_family, write_model

from mergec.compiler.analyse import analyse
from mergec.compiler.analysis import Analysis
from mergec.compiler.compile import compile_analysis
from mergec.compiler.page import page_facts, page_html
from mergec.compiler.schedule import Options
from mergec.compiler.text import plan_text
from mergec.graph import listing
from mergec.plan import Plan
from mergec.recipe.load import read_document

RECIPE = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight: [{filter: mlp, value: [0.25, 0.75]}, {value: 1}]
  - model: b
    parameters: {weight: 0.5}
parameters:
  density: [{filter: norm, value: 1}, {value: 0.3}]
  normalize: false
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yml").write_text(RECIPE)
    return write_family(tmp_path)


def compiled(path: Path, **options: Any) -> tuple[Analysis, Plan]:
    analysis = analyse(read_document(path))
    return analysis, compile_analysis(analysis, (), Options(workers=2, **options))


class Parsed(HTMLParser):
    """What a browser would see: elements, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data

    def text(self, tag: str) -> list[str]:
        return [text for name, text in zip(self.tags, self.texts, strict=True) if name == tag]


def unfolded(pieces: list[Any]) -> set[str]:
    choices = [[p] if isinstance(p, str) else [str(n) for a, b in p for n in range(a, b + 1)] for p in pieces]
    return set(map("".join, product(*choices)))


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(here: Path) -> None:
    page = Parsed(page_html(*compiled(here / "r.yml"), []))
    (policy,) = [value for name, value in page.attributes if name == "content" and value and "default-src" in value]
    digests = [
        base64.b64encode(hashlib.sha256(page.text(tag)[-1].encode()).digest()).decode() for tag in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert page.tags.count("script") == 2
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]


def test_the_page_and_the_text_say_the_same(here: Path) -> None:
    analysis, plan = compiled(here / "r.yml")
    facts, text = page_facts(analysis, plan, []), plan_text(plan)
    assert f"result: {', '.join(facts['result'])}" in text
    assert facts["memory"] in text
    assert facts["peak"] in facts["memory"]
    assert facts["hash"][:12] in text
    for rows in (facts["models"], facts["work"], [file["row"] for file in facts["files"]]):
        for row in rows:
            assert re.search(" +".join(map(re.escape, filter(None, row))), text), row


def test_every_tensor_is_listed_once_with_its_graph(here: Path) -> None:
    analysis, plan = compiled(here / "r.yml")
    facts = page_facts(analysis, plan, [])
    listed = [name for pieces in facts["tensors"] for name in unfolded(pieces)]
    assert sorted(listed) == sorted(output.name for output in plan.outputs)
    kinds = {name: kind for kind in facts["kinds"] for pieces in kind["names"] for name in unfolded(pieces)}
    for output in plan.outputs:
        kind = kinds[output.name]
        assert kind["type"] == f"{output.dtype} {list(output.shape)}"
        form, words = facts["forms"][kind["form"]], facts["words"]
        lines = [
            " ".join(filter(None, [f"%{n} = {op}", *(f"%{i}" for i in inputs), words[attrs], ":", words[types]]))
            for n, (op, inputs, attrs, types) in enumerate(
                zip(form["ops"], form["inputs"], kind["attrs"], kind["types"], strict=True)
            )
        ]
        assert lines == listing(plan.root(plan.kinds[output.kind]))


def test_curves_are_the_settings_that_explain_tabulates(here: Path) -> None:
    facts = page_facts(*compiled(here / "r.yml"), [])
    rows = json.loads(mergec("explain", "r.yml", "--table", "*", "--json").out)
    found = {
        (setting["name"], model, curve["filter"], curve["stack"]): curve
        for setting in facts["settings"]
        for curve in setting["curves"]
        for model in curve["models"].split(", ")
    }
    for row in rows:
        stack = "model.layers" if row["layer"] is not None else ""
        for column in ("weight a", "weight b", "density a", "density b", "normalize"):
            parameter, _, model = column.partition(" ")
            filters = [each for each in ("mlp", "norm") if each in row["tensor"]]
            keys = [(parameter, model, each, stack) for each in (*filters, None)]
            curve = next(found[key] for key in keys if key in found)
            value = curve["values"][curve["layers"].index(row["layer"] or 0)]
            assert value == (str(row[column]).lower() if isinstance(row[column], bool) else f"{row[column]:.6g}")
    assert found["weight", "a", "mlp", "model.layers"]["values"] == ["0.25", "0.75"]
    curve = found["weight", "a", "mlp", "model.layers"]
    assert (curve["line"], curve["from"]) == (6, "line 6")
    assert found["weight", "b", None, ""]["tensors"] == "3 tensors"


def test_segments_cover_a_file_without_a_gap(here: Path) -> None:
    analysis, plan = compiled(here / "r.yml", shard_bytes=300)
    files = page_facts(analysis, plan, [])["files"]
    assert len(files) == len(plan.shards) > 1
    for file, shard in zip(files, plan.shards, strict=True):
        begins, ends = [s[0] for s in file["segments"]], [s[1] for s in file["segments"]]
        assert begins == [0, *ends[:-1]]
        assert ends[-1] == shard.file_bytes == file["bytes"]


def test_warnings_come_in_parts_with_the_line_of_the_recipe(here: Path) -> None:
    texts = ["r.yml:6:15: warning[W220]: a; hint: b: c", "--set x:1:1: warning[W221]: d", "no place: e"]
    assert page_facts(*compiled(Path("r.yml")), texts)["warnings"] == [
        {"place": "r.yml:6:15", "line": 6, "code": "W220", "what": "a; hint: b: c"},
        {"place": "--set x:1:1", "line": 0, "code": "W221", "what": "d"},
        {"place": "", "line": 0, "code": "", "what": "no place: e"},
    ]
    printed = mergec("plan", "r.yml", "--html", "p.html", "--set", "parameters.rescale=[{filter: nope, value: true}]")
    (found,) = json.loads(Parsed(Path("p.html").read_text()).text("script")[0])["warnings"]
    assert f"{found['place']}: warning[{found['code']}]: {found['what']}\n" == printed.err


HOSTILE = "</script><img src=x onerror=alert(1)>&lt;\"'<!--{{script}}"


def test_names_of_strangers_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in ("base", "a", "b"):
        write_model(tmp_path / model, shapes={f"h.{n}.{HOSTILE}": (4, 4) for n in range(2)}, seed=model)
    (tmp_path / "r.yml").write_text(f"# {HOSTILE}\n{RECIPE}")
    page = page_html(*compiled(tmp_path / "r.yml"), [f"r.yml:1:1: warning[W220]: {HOSTILE}"])
    parsed = Parsed(page)
    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags
    facts = json.loads(parsed.text("script")[0])
    assert unfolded(facts["tensors"][0]) == {f"h.{n}.{HOSTILE}" for n in range(2)}
    assert facts["warnings"][0]["what"] == HOSTILE


def test_the_same_plan_is_the_same_page(here: Path) -> None:
    script = (
        "from pathlib import Path\nfrom mergec.compiler.compile import *\nfrom mergec.compiler.page import page_html\n"
        "a = analyse(read_document(Path('r.yml')))\n"
        "print(page_html(a, compile_analysis(a, (), Options(workers=2)), []), end='')"
    )
    pages = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert pages == {page_html(*compiled(Path("r.yml")), []).encode()}


def test_a_mixture_of_many_experts_is_a_small_page(tmp_path: Path) -> None:
    """12,000 tensors over 20 layers, each layer with settings of its own; what grows with tensors would show."""
    shapes = {
        f"model.layers.{layer}.experts.{expert}.{part}.weight": (2, 2)
        for layer in range(20)
        for expert in range(200)
        for part in ("up", "gate", "down")
    }
    for model in ("base", "a", "b"):
        write_model(tmp_path / model, shapes=shapes, seed=model)
    text = RECIPE.replace("0.5", "[0.1, 0.9]")
    page = page_html(*compiled(_written(tmp_path / "r.yml", text), shard_bytes=100_000), [])
    assert len(page) < 250_000


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_command_writes_a_page_or_prints_it(here: Path) -> None:
    said = mergec("plan", "r.yml", "--html", "out.html", "--workers", "2")
    page = Path("out.html").read_text()
    assert re.fullmatch(r"out\.html: plan \w{12} as a page of \d+\.\d\d kB\n", said.out)
    assert page == page_html(*compiled(Path("r.yml")), [])
    assert mergec("plan", "r.yml", "--html", "-", "--workers", "2").out == page
    assert mergec("plan", "r.yml", "--html", "r.yml", "--force").code == 2
    assert Path("r.yml").read_text() == RECIPE


def test_what_lies_beside_the_code_is_in_the_package() -> None:
    """What `pyproject.toml` names as package data; that a wheel has it, the continuous integration tries."""
    tomllib = pytest.importorskip("tomllib")
    root = Path(__file__).parents[2]
    (patterns,) = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"].values()
    package = root / "mergec"
    beside = [p.relative_to(package) for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert {Path("compiler/page.html"), Path("compiler/page.css"), Path("compiler/page.js")} <= set(beside)
    assert [str(path) for path in beside if not any(path.match(pattern) for pattern in patterns)] == []
