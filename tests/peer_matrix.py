"""Every method x family of models x form of its settings: what mergekit makes of the recipe, and what mergec does."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from differential import Recipe, assert_same, fitted, run_ours, run_peer, tolerance
from huggingface_hub.errors import StrictDataclassError
from models import Family, auto_class, tensors_of
from torch import Tensor

import mergec
from mergec.errors import RunError

FAMILIES = ("llama", "qwen2", "gpt2", "mixtral", "bert", "gemma2", "t5", "whisper", "llava")
FORMS = ("scalar", "gradient", "filter", "slices")
MODULES = {  # what mergekit calls the parts of a model, where it has several
    "t5": ("shared", "encoder", "decoder"),
    "whisper": ("encoder", "decoder"),
    "llava": ("text_decoder", "vision_tower", "multi_modal_projector"),
}


@dataclass(frozen=True)
class Usage:
    """How a method is used: its models, whether on a base, the parameter that varies, and what else is set."""

    models: str
    base: bool
    vary: str | None = None
    values: tuple[Any, Any] = (None, None)
    own: bool = False  # a parameter of each model, not of the merge
    fixed: Mapping[str, Any] = field(default_factory=dict)
    precise: bool = False  # in float64: float32 leaves the peer's choice of entries to rounding


_DELTAS = {"models": "abc", "base": True, "own": True}
_WEIGHTS: dict[str, Any] = {**_DELTAS, "vary": "weight", "values": (0.6, -0.2)}
_TRIMMED: dict[str, Any] = {**_DELTAS, "vary": "density", "values": (0.8, 0.4)}
_DRAWN = {"density": 0.6}
_RANKED = {"density": 0.6, "epsilon": 0.1}
USAGES: dict[str, Usage] = {
    "linear": Usage("abc", False, "weight", (1.0, 0.3), own=True),
    "slerp": Usage("a", True, "t", (0.3, 0.8)),
    "nuslerp": Usage("ab", False, "weight", (0.3, 0.7), own=True),
    "multislerp": Usage("abc", True, "weight", (0.3, 0.7), own=True),
    "karcher": Usage("abc", False, "max_iter", (10, 2)),
    "passthrough": Usage("a", False, "scale", (0.5, 2.0), own=True),
    "task_arithmetic": Usage(**_WEIGHTS, fixed={"lambda": 0.5}),
    "ties": Usage(**_TRIMMED, fixed={"weight": 0.6}),
    "dare_linear": Usage(**_WEIGHTS, fixed=_DRAWN),
    "dare_ties": Usage(**_WEIGHTS, fixed=_DRAWN),
    "breadcrumbs": Usage(**_TRIMMED, fixed={"weight": 0.6, "gamma": 0.02}),
    "breadcrumbs_ties": Usage(**_TRIMMED, fixed={"weight": 0.6, "gamma": 0.02}),
    "della": Usage(**_WEIGHTS, fixed=_RANKED),
    "della_linear": Usage(**_WEIGHTS, fixed=_RANKED),
    "model_stock": Usage("abc", True, "filter_wise", (False, True)),
    "nearswap": Usage("a", True, "t", (0.01, 0.001)),
    "arcee_fusion": Usage("a", True, precise=True),
    "sce": Usage("abc", True, "select_topk", (1.0, 0.5), precise=True),
    "ram": Usage("abc", True, "epsilon", (0.01, 0.002)),
    "ramplus_tl": Usage("abc", True, "epsilon", (0.01, 0.002), fixed={"r": 0.3, "alpha": 10.0}),
}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
# An expert is a tensor here; the peer packs a layer's experts into one and trims or measures the pack.
OF_WHOLE_TENSORS = (
    *("slerp", "nuslerp", "multislerp", "karcher", "ties", "breadcrumbs", "breadcrumbs_ties"),
    *("model_stock", "arcee_fusion", "sce", "ramplus_tl"),
)


def applies(method: str, form: str) -> bool:
    return form in ("scalar", "slices") or USAGES[method].vary is not None


def setting(usage: Usage, form: str) -> Any:
    first, second = usage.values
    if form == "gradient":
        return [first, second]
    if form == "filter":
        return [{"filter": "FILTER", "value": second}, {"value": first}]
    return first


def recipe(method: str, architecture: str, form: str, dtype: torch.dtype = torch.float32) -> Recipe:
    """The recipe of one cell; models are called `base`, `a`, `b` and `c`."""
    usage = USAGES[method]
    varied = {usage.vary: setting(usage, form)} if usage.vary else {}
    made: Recipe = {"merge_method": method, "parameters": {**usage.fixed, **({} if usage.own else varied)}}
    if usage.base:
        made["base_model"] = "base"
    if usage.precise or dtype != torch.float32:
        made |= {"dtype": "float64" if usage.precise else "float32", "out_dtype": str(dtype).removeprefix("torch.")}
    if method in RANDOM:
        made |= drawn(method, architecture, form, dtype, made["parameters"])
    own = varied if usage.own else {}
    if form != "slices":
        return {**made, "models": [{"model": one, "parameters": own} for one in usage.models]}
    halves = [sliced(usage, number, own) for number in range(2)]
    if architecture not in MODULES:
        return {**made, "slices": halves}
    whole = {"models": [{"model": one, "parameters": own} for one in usage.models]}
    stacked = [name for name in MODULES[architecture] if name in ("encoder", "decoder", "text_decoder")]
    return {**made, "modules": {n: {"slices": halves} if n in stacked else whole for n in MODULES[architecture]}}


def drawn(method: str, architecture: str, form: str, dtype: torch.dtype, parameters: Recipe) -> Recipe:
    """The same entries as the peer drops for a seed; where it draws in another order, everything is kept."""
    ranks_tie = method.startswith("della") and dtype != torch.float32
    if form == "slices" or architecture in ("mixtral", "llava") or ranks_tie:  # llava: it draws for fewer tensors
        return {"parameters": {**parameters, "density": 1.0}}
    return {"seed": 42, "random_order": "mergekit"}


def sliced(usage: Usage, number: int, own: Mapping[str, Any]) -> Recipe:
    """The slice of one layer; the second layer has the other value, as a setting of the slice."""
    models = ("base",) * usage.base + tuple(usage.models)
    given = {} if number else own
    sources = [{"model": one, "layer_range": [number, number + 1], "parameters": given} for one in models]
    return {"sources": sources, "parameters": {usage.vary: usage.values[1]} if number and usage.vary else {}}


@dataclass(frozen=True)
class Cell:
    """What both made of a recipe: `verdict` is one of VERDICTS, `why` says more where it is not "equal"."""

    verdict: str
    why: str = ""


VERDICTS = {
    "equal": "names, shapes, dtypes and numbers",
    "differs": "all but the experts is equal; mergec merges each expert, mergekit the pack of all",
    "alone": "mergec merges, mergekit fails or loses tensors",
    "refused": "mergec refuses",
    "wrong": "neither equal nor explained: a defect",
}


def expected(method: str, architecture: str) -> str:
    """The verdict that docs/conformance.md explains; any other is a defect."""
    if architecture in ("whisper", "llava"):
        return "alone"
    return "differs" if architecture == "mixtral" and method in OF_WHOLE_TENSORS else "equal"


def compare(
    method: str, architecture: str, form: str, family: Family, folder: Path, dtype: torch.dtype = torch.float32
) -> Cell:
    """Run the recipe of one cell by both and compare what lies in their folders."""
    return compared(fitted(recipe(method, architecture, form, dtype), architecture, family), architecture, folder)


def compared(made: Recipe, architecture: str, folder: Path) -> Cell:
    """Run a recipe by both and compare what lies in their folders."""
    try:
        run_ours(made, folder / "ours")
    except (mergec.RecipeError, RunError) as refused:
        return Cell("refused", str(refused).splitlines()[0])
    if failed := peer_failure(made, folder / "peer"):
        return Cell("alone", failed)
    return judged(result(architecture, folder / "ours"), result(architecture, folder / "peer"), made)


def peer_failure(made: Recipe, out: Path) -> str:
    """What the peer fails with over a recipe, once it is run; "" if it makes a model."""
    try:
        with quiet(), contextlib.suppress(StrictDataclassError):  # of a config that lists layers; the weights are there
            run_peer(made, out)
    except Exception as failed:
        return type(failed).__name__
    return ""


def judged(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor], made: Recipe) -> Cell:
    """The verdict on two results; tensors that the peer lost are told apart from those that differ."""
    lost = ours.keys() - peer.keys()
    wrong = set()
    for name in peer:
        try:
            assert_same({name: ours[name]}, {name: peer[name]}, {}, tolerance({**made, "models": [made]}))
        except (AssertionError, KeyError):
            wrong.add(name)
    if any(".experts." not in name for name in wrong):
        return Cell("wrong", ", ".join(sorted(wrong)))
    if wrong:
        return Cell("differs", f"{len(wrong)} of {len(peer)} tensors")
    return Cell("alone", f"{len(lost)} tensors are lost") if lost else Cell("equal")


def result(architecture: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of a result by the names of the hub, or of transformers where the peer keeps another layout."""
    if architecture == "mixtral":
        with quiet():
            return dict(auto_class(architecture).from_pretrained(folder, dtype="auto").state_dict())
    prefix = "model." if architecture == "llava" else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors_of(folder).items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress, and without what mergekit has transformers log."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
