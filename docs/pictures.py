"""Takes the pictures of docs/plan.md, by day and by night: `python docs/pictures.py`, with Chromium on the machine.

Two plans are shown: the quick start's, and one for models in the shapes of an 8B Llama, headers without weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from browser import Page, browser, find_chromium  # noqa: E402
from families import llama_shapes, write_headers  # noqa: E402

WIDTH = 880
BLEND = """\
merge_method: ties
base_model: base
models:
  - model: math
    parameters:
      weight:
        - {filter: mlp, value: [0.2, 0.5, 0.9, 0.6]}
        - {value: 0.3}
      density: [0.8, 0.5, 0.8]
  - model: code
    parameters:
      weight:
        - {filter: self_attn, value: [0.1, 0.8, 0.8, 0.1]}
        - {value: 0.3}
      density: 0.55
  - model: chat
    parameters:
      weight: [0.6, 0.2]
      density: [0.4, 0.6]
dtype: bfloat16
"""


def main() -> None:
    command = find_chromium()
    if command is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, browser(command) as opened:
        folder, page = Path(name), opened.page()
        quickstart = _page("examples/quickstart/ties.yml", ROOT, folder / "quickstart.html")
        blend = _page("blend.yml", _models(folder / "models"), folder / "blend.html")
        for scheme in ("light", "dark"):
            page.look(width=WIDTH, dark=scheme == "dark")
            page.open(quickstart)
            _take(page, f"plan-{scheme}", "body", "[data-name=density]")
            _take(page, f"plan-graph-{scheme}", "#graphs", "#files")
            page.open(blend)
            _take(page, f"plan-layers-{scheme}", "#settings", "#settings .parameter:last-of-type")
            _take(page, f"plan-files-{scheme}", "#files", "#work")


def _models(folder: Path) -> Path:
    for model in ("base", "math", "code", "chat"):
        write_headers(folder / model, llama_shapes(32, 4096, 14336, 128256, 1024), per_shard=100)
    (folder / "blend.yml").write_text(BLEND)
    return folder


def _page(recipe: str, folder: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "mergec", "plan", recipe, "--workers", "2", "--html", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return out


def _take(page: Page, name: str, first: str, end: str) -> None:
    """A picture from one thing of the page down to another, which is not on it."""
    top = max(0.0, _top(page, first) - 20)
    picture = ROOT / "docs" / f"{name}.png"
    picture.write_bytes(page.picture(top, _top(page, end) - 24 - top))
    print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size / 1000:.0f} kB")


def _top(page: Page, selector: str) -> float:
    found = page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().top + scrollY")
    return float(found)


if __name__ == "__main__":
    main()
