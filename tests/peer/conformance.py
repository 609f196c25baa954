"""Run every recipe of the matrix by mergekit and by mergec, and write the page that says what came of it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import peer_features
import peer_matrix as matrix
import torch
from models import make_family

SIGNS = {"equal": "=", "differs": "≠", "alone": "+", "refused": "refused", "wrong": "WRONG"}
FAMILIES = {
    "llama": "head of its own, grouped attention",
    "qwen2": "tied head, biases, `layer_types`",
    "gpt2": "fused, transposed projections, tied head",
    "mixtral": "experts, in the layout of the hub",
    "bert": "an encoder with a classifier",
    "gemma2": "tied head, `layer_types`",
    "t5": "an encoder and a decoder with one embedding",
    "whisper": "speech, an encoder and a decoder",
    "llava": "a vision tower, a projector, a language model",
}
FORMS = {
    "scalar": "a number for all layers",
    "gradient": "a list over the layers",
    "filter": "a list of `{filter, value}` with a fallback",
    "slices": "`slices:` of one layer each, settings of their own; for t5, whisper and llava inside `modules:`",
}
REASONS = (
    "`≠` mixtral: mergekit packs the experts of a layer into one tensor and takes norms, thresholds and variances of "
    "the pack. mergec takes them of each tensor as the model stores it, here of each expert. All other tensors are "
    "equal.",
    "`+` whisper: mergekit 0.1.5 finds no tensor of the model: the names in its definition lack a point.",
    "`+` llava: mergekit 0.1.5 writes the vision tower and the projector only and loses the language model, without a "
    "word; `modules:` fail with a KeyError. What it writes is equal.",
    "Layers of qwen2 and gemma2 stacked to another number: mergekit writes the weights and fails over the config, "
    "whose list of layers it does not follow. The weights are equal; mergec's config loads.",
)
HEAD = """# Conformance

What mergekit 0.1.5 and mergec, under `compat: mergekit`, make of the same recipes over the same tiny models. Written by
`python tests/peer/conformance.py --write docs/conformance.md`, which runs both; `pytest tests/peer` runs a cover of it,
`pytest tests/peer --full-matrix` the whole, half types too. What differs on purpose is in
[deviations.md](deviations.md).

Equal is: the same names, shapes and dtypes, copies bit for bit, float32 within 1e-5, half types within two neighbours.
Methods that draw at random drop what mergekit drops for a seed (`random_order: mergekit`), and keep everything
in slices, of mixtral and of llava. `arcee_fusion` and `sce` compute in float64, where no choice
of entries hangs on rounding.
"""


def features(folder: Path) -> dict[tuple[str, str], matrix.Cell]:
    """What came of each (feature, method), and of what is refused under the method "" and "peer"."""
    family, half = (
        make_family("llama", folder / f"features-{dtype}", dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    found = {}
    for name, recipes in (peer_features.FEATURES | peer_features.REFUSED).items():
        for method in peer_features.METHODS if name in peer_features.FEATURES else ("linear",):
            with tempfile.TemporaryDirectory(dir=folder) as made:
                recipe = recipes(method, peer_features.Made(family, half, Path(made)))
                found[name, method] = matrix.compared(recipe, "llama", Path(made))
                if name in peer_features.REFUSED:
                    found[name, "peer"] = matrix.Cell("peer", matrix.peer_failure(recipe, Path(made) / "peer"))
    return found


def feature_tables(found: Mapping[tuple[str, str], matrix.Cell]) -> str:
    """What recipes may have beside method and settings, over llama; and what is refused."""
    methods = peer_features.METHODS
    rows = [f"| | {' | '.join(f'`{method}`' for method in methods)} |", "|---" * (len(methods) + 1) + "|"]
    for name in peer_features.FEATURES:
        rows.append(f"| {name} | {' | '.join(SIGNS[found[name, method].verdict] for method in methods)} |")
    rows += ["", "What mergec refuses, mergekit finds when it gets there, or never:", "", "| | mergec | mergekit |"]
    rows.append("|---|---|---|")
    for name in peer_features.REFUSED:
        said = re.search(r"error\[(E\d+)\]", found[name, "linear"].why)
        fails = found[name, "peer"].why
        rows.append(f"| {name} | {said[1] if said else 'merges'} | {f'fails: {fails}' if fails else 'makes a model'} |")
    return "\n".join(rows) + "\n"


def verdicts(folder: Path) -> dict[tuple[str, str, str], str]:
    """What came of each (method, family, form)."""
    found = {}
    for architecture in matrix.FAMILIES:
        family = make_family(architecture, folder / architecture, torch.float32)
        for method in matrix.USAGES:
            for form in matrix.FORMS:
                if matrix.applies(method, form):
                    with tempfile.TemporaryDirectory(dir=folder) as cell:
                        made = matrix.compare(method, architecture, form, family, Path(cell))
                    found[method, architecture, form] = made.verdict
    return found


def page(found: Mapping[tuple[str, str, str], str], beside: Mapping[tuple[str, str], matrix.Cell]) -> str:
    """The page: a row for each method, a column for each family, one sign where all forms agree."""
    counts = Counter(found.values())
    rows = [f"| | {' | '.join(matrix.FAMILIES)} |", "|---" * (len(matrix.FAMILIES) + 1) + "|"]
    for method in matrix.USAGES:
        cells = [cell([found[key] for key in found if key[:2] == (method, one)]) for one in matrix.FAMILIES]
        rows.append(f"| `{method}` | {' | '.join(cells)} |")
    told = ", ".join(f"{counts[one]} `{SIGNS[one]}`" for one in SIGNS if counts[one])
    parts = [
        HEAD,
        listed(f"`{SIGNS[one]}` {matrix.VERDICTS[one]}" for one in SIGNS if counts[one]),
        f"{len(found)} recipes: {told}. Each cell stands for every form of settings that the method has:\n",
        listed(f"{name}: {text}" for name, text in FORMS.items()),
        "\n".join(rows) + "\n",
        listed(f"{name}: {text}" for name, text in FAMILIES.items()),
        "## Inputs, dtypes and slices\n",
        feature_tables(beside),
        "## Why\n",
        listed(REASONS),
    ]
    return "\n".join(parts)


def listed(texts: Iterable[str]) -> str:
    return "".join(textwrap.fill(f"- {one}", 120, subsequent_indent="  ") + "\n" for one in texts)


def cell(found: list[str]) -> str:
    return " ".join(SIGNS[one] for one in dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the page goes; without it, it is printed")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MERGEC_CACHE"] = str(Path(folder) / "cache")
        text = page(verdicts(Path(folder)), features(Path(folder)))
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
