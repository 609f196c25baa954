"""The page of a plan as a reader sees it, in a headless Chromium: what is drawn, what answers, what stays quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page, browser, find_chromium
from recipes_fixtures import mergec, write_model

from mergec.compiler.analyse import analyse
from mergec.compiler.compile import compile_analysis
from mergec.compiler.schedule import Options
from mergec.compiler.text import members
from mergec.graph import listing, walk
from mergec.plan import Plan
from mergec.recipe.load import read_document

LAYERS = 6
SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    **{
        f"model.layers.{layer}.{part}.weight": shape
        for layer in range(LAYERS)
        for part, shape in {"mlp.up_proj": (6, 4), "self_attn.q_proj": (4, 4), "input_layernorm": (4,)}.items()
    },
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}
RECIPE = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight: [{filter: mlp, value: [0.25, 0.75]}, {value: 1.5}]
  - model: b
    parameters: {weight: 0.5}
parameters:
  density: [{filter: norm, value: 1}, {value: [0.3, 0.9, 0.3]}]
  normalize: false
"""
HOSTILE = "<!--<script </script><img src=x onerror=window.hit=1><svg onload=window.hit=1>\"'&amp;{{script}}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with browser(command) as opened:
        yield opened


def made(folder: Path, recipe: str, shapes: dict[str, tuple[int, ...]]) -> Plan:
    """A family of models, a recipe, its page beside it, and the plan that the page shows."""
    for model in ("base", "a", "b"):
        write_model(folder / model, shapes=shapes, seed=model)
    (folder / "r.yml").write_text(recipe)
    assert mergec("plan", folder / "r.yml", "--html", folder / "p.html", "--workers", "2").code == 0
    return compile_analysis(analyse(read_document(folder / "r.yml")), (), Options(workers=2))


@pytest.fixture(scope="module")
def shown(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Plan, Path]:
    folder = tmp_path_factory.mktemp("page of a plan")
    plan = made(folder, RECIPE, SHAPES)
    page = chromium.page()
    page.look()
    page.open(folder / "p.html")
    return page, plan, folder


def texts(page: Page, selector: str) -> list[str]:
    found = page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent)")
    assert isinstance(found, list)
    return found


def press(page: Page, selector: str, *keys: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
    for key in keys:
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=key)


def test_every_graph_is_drawn_with_its_nodes_and_edges(shown: tuple[Page, Plan, Path]) -> None:
    page, plan, _ = shown
    kinds = list(members(plan))
    assert page.evaluate("document.querySelectorAll('#graphs option').length") == len(kinds) > 1
    for number, kind in enumerate(kinds):
        root = plan.root(plan.kinds[kind])
        place = {node.index: position for position, node in enumerate(walk(root))}
        edges = [f"{place[s.index]} {place[node.index]}" for node in walk(root) for s in node.inputs]
        drawn = page.evaluate("[...document.querySelectorAll('.edge')].map(each => each.dataset.edge)")
        assert sorted(drawn) == sorted(edges)
        assert texts(page, ".node text:first-of-type") == [node.op for node in walk(root)]
        assert texts(page, "#graphs pre") == ["\n".join(listing(root))]
        if number + 1 < len(kinds):
            page.evaluate("document.querySelector('[aria-label=\"the next graph\"]').click()")
    assert page.evaluate("document.querySelector('[aria-label=\"the next graph\"]').disabled")


def test_nodes_do_not_cover_each_other_and_inputs_stand_above(shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    boxes = page.evaluate(
        "[...document.querySelectorAll('.box')].map(box =>"
        " ['x', 'y', 'width', 'height'].map(name => Number(box.getAttribute(name))))"
    )
    for number, (x, y, width, height) in enumerate(boxes):
        for left, top, *_ in boxes[number + 1 :]:
            assert abs(left - x) >= width or abs(top - y) >= height
    for edge in page.evaluate("[...document.querySelectorAll('.edge')].map(each => each.dataset.edge.split(' '))"):
        source, target = map(int, edge)
        assert boxes[source][1] + boxes[source][3] < boxes[target][1]


def test_a_node_is_read_in_full_when_it_has_the_focus(shown: tuple[Page, Plan, Path]) -> None:
    page, plan, _ = shown
    page.evaluate("document.querySelector('#graphs select').value = 0")
    page.evaluate("document.querySelector('#graphs select').dispatchEvent(new Event('change'))")
    lines = listing(plan.root(plan.kinds[next(iter(members(plan)))]))
    page.evaluate("document.querySelector('[data-node=\"9\"]').focus()")
    assert texts(page, "#graphs output") == [lines[9]]
    lit = page.evaluate("[...document.querySelectorAll('.edge.lit')].map(each => each.dataset.edge.split(' ')[1])")
    assert set(lit) == {"9"}


def values_drawn(page: Page) -> list[dict[str, Any]]:
    """Every plot: its heading, and the values read back from where the curve and the axis lie."""
    plots = page.evaluate(
        """[...document.querySelectorAll('.plot')].map(plot => ({
            parameter: plot.closest('.parameter').dataset.name,
            title: plot.querySelector('figcaption > span').textContent,
            grid: [...plot.querySelectorAll('.grid')].map(line => line.getBoundingClientRect().top),
            axis: [...plot.querySelectorAll('.axis')].map(text => Number(text.textContent)),
            labels: [...plot.querySelectorAll('.axis')].map(text => text.getBoundingClientRect())
                .map(box => box.top + box.height / 2),
            xs: [...plot.querySelectorAll('.dot, .last')].map(each => each.getBoundingClientRect().right),
            ys: [...plot.querySelectorAll('.dot')].map(dot => dot.getBoundingClientRect().top),
        }))"""
    )
    for plot in plots:
        (high, low), (top, bottom) = plot.pop("axis"), plot.pop("grid")
        assert plot.pop("labels") == pytest.approx([top, bottom], abs=4)
        *xs, right = plot.pop("xs")
        steps = [xs[0] + (right - xs[0]) * number / (LAYERS - 1) for number in range(LAYERS)]
        assert xs == pytest.approx(steps, abs=1)
        plot["values"] = [low + (bottom - y) / (bottom - top) * (high - low) for y in plot.pop("ys")]
    return plots


def test_plots_lie_where_the_settings_are(shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    steps = [number / (LAYERS - 1) for number in range(LAYERS)]
    hill = [0.3 + 0.6 * (1 - abs(2 * t - 1)) for t in steps]
    expected = [
        ("weight", "amlp", [0.25 + 0.5 * t for t in steps]),
        ("weight", "a", [1.5] * LAYERS),
        ("weight", "b", [0.5] * LAYERS),
        ("density", "a, bnorm", [1] * LAYERS),
        ("density", "a, b", hill),
    ]
    found = values_drawn(page)
    assert [(plot["parameter"], plot["title"]) for plot in found] == [(p, t) for p, t, _ in expected]
    for plot, (_, _, values) in zip(found, expected, strict=True):
        assert plot["values"] == pytest.approx(values, abs=0.01)


def test_a_plot_tells_its_values_to_keys_and_pointers(shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    said = ".plot output"
    assert texts(page, said)[0] == "0.25 to 0.75"
    press(page, ".spark", "ArrowRight", "ArrowRight")
    assert texts(page, said)[0] == "layer 2: 0.45"
    assert page.evaluate("document.querySelector('.spark').getAttribute('aria-valuetext')") == "layer 2: 0.45"
    press(page, ".spark", "End", "ArrowRight")
    assert texts(page, said)[0] == "layer 5: 0.75"
    page.evaluate("document.activeElement.blur()")
    assert texts(page, said)[0] == "0.25 to 0.75"
    x, y = page.evaluate(
        "(() => { const box = document.querySelector('.spark').getBoundingClientRect();"
        " return [box.left + box.width * .11, box.top + 9]; })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert texts(page, said)[0] == "layer 0: 0.25"


def test_values_are_a_table_too(shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    page.evaluate("document.querySelectorAll('.parameter details').forEach(each => each.open = true)")
    page.evaluate("new Promise(requestAnimationFrame)")
    rows = page.evaluate(
        "[...document.querySelector('[data-name=weight] table').rows].map(row =>"
        " [...row.cells].map(cell => cell.textContent))"
    )
    assert rows[0] == ["layer", "a, mlp", "a", "b"]
    assert rows[1] == ["0", "0.25", "1.5", "0.5"]
    assert rows[LAYERS] == [str(LAYERS - 1), "0.75", "1.5", "0.5"]
    assert rows[-1] == ["outside", "", "1.5", "0.5"]


def test_a_curve_lies_over_its_own_layers_and_breaks_where_there_are_none(chromium: Browser, tmp_path: Path) -> None:
    weight = "[{filter: layers.1., value: 0.75}, {filter: layers.0., value: [0.25, 1]}, {value: 0.5}]"
    recipe = f"merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{weight: {weight}}}\n"
    made(tmp_path, recipe, SHAPES)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    curves = page.evaluate("[...document.querySelectorAll('.curve')].map(each => each.getAttribute('d'))")
    assert curves == ["M20.00,25.00h0", "M0.00,75.00h0", "M40.00,50.00h0L60.00,50.00L80.00,50.00L100.00,50.00"]
    assert texts(page, ".spark .first") == ["layer 0"] * 3
    assert texts(page, ".spark .last") == ["5"] * 3


def test_stages_have_settings_of_their_own(chromium: Browser, tmp_path: Path) -> None:
    stage = "name: half\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0.25, 0.75]}\n"
    final = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: half}]\nparameters: {weight: [0, 1]}\n"
    made(tmp_path, f"{stage}---\n{final}", SHAPES)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    found = {plot["parameter"]: (plot["title"], plot["values"][0]) for plot in values_drawn(page)}
    assert found == {"weight": ("half", pytest.approx(0)), "half: weight": ("a, b", pytest.approx(0.25, abs=0.01))}
    assert page.errors == []


def test_what_is_no_curve_is_said_in_words(chromium: Browser, tmp_path: Path) -> None:
    recipe = """\
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters:
  weight: [{filter: embed, value: 0.25}, {value: 1}]
  density: 0.5
  normalize: [{filter: mlp, value: [true, false]}, {value: true}]
"""
    made(tmp_path, recipe, SHAPES)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    cards = {text.split("line")[0] for text in texts(page, "[data-name=weight] .plot, [data-name=normalize] .plot")}
    assert cards == {
        "a, bembed0.251 tensor outside of the layers",
        "a, b110layer 05outside of the layers: 1",
        "all modelsmlplayers 0-4: truelayer 5: false6 tensors",
        "all modelstruelayers 0-5: trueoutside of the layers: true",
    }
    page.evaluate("document.querySelector('[data-name=weight] details').open = true")
    page.evaluate("new Promise(requestAnimationFrame)")
    rows = texts(page, "[data-name=weight] tbody tr")
    assert (rows[0], rows[-1]) == ("01", "outside0.251")
    assert page.errors == []


def narrowed(page: Page, text: str) -> tuple[list[str], str]:
    page.evaluate(
        f"(() => {{ const box = document.getElementById('filter'); box.value = {json.dumps(text)};"
        " box.dispatchEvent(new Event('input')); })()"
    )
    return texts(page, ".tensors tbody td:first-child"), texts(page, ".filter output")[0]


def test_the_filter_narrows_the_list(shown: tuple[Page, Plan, Path]) -> None:
    page, plan, _ = shown
    names, said = narrowed(page, "")
    assert said == f"all {len(plan.outputs)} tensors"
    assert "model.layers.{0-5}.self_attn.q_proj.weight" in names
    assert narrowed(page, "LAYERNORM") == (["model.layers.{0-5}.input_layernorm.weight"], "6 of 21 tensors")
    names, said = narrowed(page, "layers.4.")
    assert (len(names), said) == (3, "3 of 21 tensors")
    assert "1 of 6" in texts(page, ".tensors tbody tr:first-child td:nth-child(3)")
    assert narrowed(page, "model.*norm*")[1] == "7 of 21 tensors"
    assert narrowed(page, "*.4.mlp*") == (["model.layers.{0-5}.mlp.up_proj.weight"], "1 of 21 tensors")
    assert narrowed(page, "[") == ([], "0 of 21 tensors")


def test_a_tensor_leads_to_its_graph(shown: tuple[Page, Plan, Path]) -> None:
    page, plan, _ = shown
    for name in ("lm_head.weight", "model.norm.weight", "model.layers.4.mlp.up_proj.weight"):
        narrowed(page, name)
        page.evaluate("document.querySelector('.tensors button').click()")
        (kind,) = (output.kind for output in plan.outputs if output.name == name)
        assert texts(page, "#graphs pre") == ["\n".join(listing(plan.root(plan.kinds[kind])))]


def test_files_are_bars_in_proportion(shown: tuple[Page, Plan, Path]) -> None:
    page, plan, _ = shown
    widths = page.evaluate(
        "[...document.querySelectorAll('.bar rect')].map(each => each.getBoundingClientRect().width)"
    )
    (shard,) = plan.shards
    sizes = [len(shard.header), *(o.end - o.begin for o in sorted(plan.outputs, key=lambda o: o.begin))]
    whole = sum(widths)
    assert widths == pytest.approx([size / shard.file_bytes * whole for size in sizes], abs=0.5)
    press(page, ".bar", "ArrowRight")
    assert texts(page, "#files output")[0].startswith("lm_head.weight: 128 B, model.safetensors, bytes ")


def test_the_page_is_quiet_and_asks_for_nothing(shown: tuple[Page, Plan, Path]) -> None:
    page, _, folder = shown
    assert page.errors == []
    assert set(page.requests) == {(folder / "p.html").as_uri()}


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_can_be_read_by_day_and_by_night(dark: bool, shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    page.look(dark=dark)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.1) == dark
    for selector in ("h1", ".lead", "a", ".plot output", ".foot", ".graph text", ".graph .attrs", ".axis"):
        name = "fill" if ".graph" in selector else "color"
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}"))
        light, deep = max(paper, ink), min(paper, ink)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, selector
    page.look()


def test_it_fits_a_telephone_and_paper(shown: tuple[Page, Plan, Path]) -> None:
    page, _, _ = shown
    narrowed(page, "")
    page.look(width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.look(width=720, media="print", dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 720
    assert page.evaluate("document.querySelector('.graph').getBoundingClientRect().right") <= 720
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(29, 33, 38)"
    page.look()


def test_a_warning_leads_to_its_line_of_the_recipe(chromium: Browser, tmp_path: Path) -> None:
    made(tmp_path, RECIPE.replace("filter: norm", "filter: nrm"), SHAPES)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    assert texts(page, ".warnings .code") == ["W220"]
    target = page.evaluate("document.querySelector('.warnings a').getAttribute('href')")
    assert target == "#L10"
    assert "filter: nrm" in texts(page, target)[0]
    assert "matches no tensor" in texts(page, ".warnings li")[0]


def test_hostile_names_are_shown_and_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    shapes = {f"h.{layer}.{part}{HOSTILE}": (4, 4) for layer in range(3) for part in "xyz"}
    made(tmp_path, f"# {HOSTILE}\n{RECIPE}", shapes)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    assert page.evaluate("window.hit === undefined && document.images.length === 0")
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert f"h.{{0-2}}.x{HOSTILE}" in texts(page, ".tensors td:first-child")
    assert texts(page, "#L1") == [f"# {HOSTILE}"]
    assert page.errors == []
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hit=1>')")
    assert page.evaluate("new Promise(done => setTimeout(() => done(window.hit === undefined), 50))")
    assert page.errors  # the policy says what it has refused


def test_integers_and_statistics_of_the_model_are_shown(chromium: Browser, tmp_path: Path) -> None:
    recipe = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
    plan = made(tmp_path, f"{recipe}parameters: {{weight: 1, density: 0.5, scope: model}}\n", SHAPES)
    page = chromium.page()
    page.open(tmp_path / "p.html")
    assert len(texts(page, "#statistics tbody tr")) == len(plan.statistics) > 0
    assert page.errors == []
