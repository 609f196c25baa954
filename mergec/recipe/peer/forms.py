"""Files of mergekit's other tools: mixtures of experts are passed on, bakllama's slices rewritten, genomes refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergec.errors import Problem, near
from mergec.recipe.document import Document
from mergec.recipe.flow import flow, scalar
from mergec.recipe.format import write_layout
from mergec.recipe.layout import Entry, Value, read_layout
from mergec.recipe.peer.edit import IGNORED, Tree
from mergec.recipe.schema import Recipe

_SLICE = frozenset(("model", "start", "end", "scale"))
_WHOLE = "'dtype: float16' is --fp16; --clone-tensors is not needed"


@dataclass(frozen=True)
class Imported:
    """The recipe as text, and what there is to say of it, at places of the original."""

    text: str
    findings: tuple[Problem, ...]
    is_final: bool = True


def other_form(document: Document, text: str) -> Imported | None:
    """What becomes of a file that is none of mergekit-yaml's or mergekit-multi's; None where it is one of these."""
    value = document.value
    if "merge_method" in value or document.stages:
        return None
    if "experts" in value:
        return Imported(text, (_mixture(document),))
    if "layer_slices" in value:
        return _bakllama(document, text)
    if "genome" in value:
        what = "this is a genome for mergekit-evolve, which looks for recipes; mergec merges those that it finds"
        hint = "import the best_config.yaml that it writes"
        return Imported(text, (Problem(document.key_place(("genome",)), "E720", what, hint),))
    return None


def _mixture(document: Document) -> Problem:
    place = document.key_place(("experts",))
    if "experts" in Recipe.model_fields:
        what = "this is a recipe of mergekit-moe, which mergec reads as it is: passed on unchanged"
        return Problem(place, "W723", what, "`mergec check` says what it does not take")
    what = "this is a recipe of mergekit-moe, and mergec makes no mixtures of experts yet"
    return Problem(place, "E720", what, "the models of its experts can be merged densely")


def _bakllama(document: Document, text: str) -> Imported:
    """`layer_slices: [{model, start, end, scale}]` as a passthrough of slices, its scales on down_proj."""
    listed = document.value["layer_slices"]
    wrong = list(_wrong(document, listed))
    if wrong:
        return Imported(text, tuple(wrong))
    findings = [Problem(document.key_place(("layer_slices",)), "W723", "slices of bakllama as a passthrough", _WHOLE)]
    tree = Tree(text, read_layout(text))
    for number, one in enumerate(listed):
        for key in one.keys() - _SLICE:
            tree.comment_out({("layer_slices", number, key): IGNORED})
            what = f"mergekit ignores '{key}': it is no key of a slice; commented out"
            place = document.key_place(("layer_slices", number, key))
            findings.append(Problem(place, "W720", what, near(key, _SLICE)))
        _as_source(tree.find(("layer_slices", number)), one)
    tree.find(("layer_slices",)).key = "slices"
    for key in document.value.keys() - {"layer_slices"}:
        tree.comment_out({(key,): IGNORED})
        what = f"mergekit ignores '{key}': bakllama reads nothing of it; commented out"
        findings.append(Problem(document.key_place((key,)), "W720", what))
    tree.add("merge_method", "passthrough", "")
    return Imported(write_layout(tree.layout, True), tuple(sorted(findings, key=lambda one: one.place)), is_final=False)


def _wrong(document: Document, listed: Any) -> list[Problem]:
    """Slices that lack what bakllama needs."""
    form = "write {model: MODEL, start: FIRST, end: END}"
    if not isinstance(listed, list) or not listed:
        return [Problem(document.place(("layer_slices",)), "E720", "found no list of slices", form)]
    found = []
    for number, one in enumerate(listed):
        place = document.place(("layer_slices", number))
        if not isinstance(one, dict) or not {"model", "start", "end"} <= one.keys():
            found.append(Problem(place, "E720", "a slice has no model, start or end", form))
        elif not all(isinstance(one[key], int) for key in ("start", "end")) or not isinstance(one["model"], str):
            found.append(Problem(place, "E720", "a slice's model is no text, or its start or end no number", form))
    return found


def _as_source(entry: Entry, one: dict[str, Any]) -> None:
    """An entry `{model, start, end, scale}` as `{sources: [{model, layer_range, parameters}]}`, with its comments."""
    source = entry.value
    taken = {key: next(held for held in source.entries if held.key == key) for key in one.keys() & _SLICE}
    kept = [taken["model"], _joined("layer_range", flow([one["start"], one["end"]]), [taken["start"], taken["end"]])]
    if one.get("scale") is not None:
        scale = f"{{scale: {{filter: down_proj, value: {scalar(one['scale'])}}}}}"
        kept.append(_joined("parameters", scale, [taken["scale"]]))
    source.entries = kept
    listed = Value("list", "", source.end, is_flow=source.is_flow, column=source.column)
    listed.entries = [Entry("", source, entry.start)]
    entry.value = Value("map", "", source.end, is_flow=source.is_flow, column=source.column)
    entry.value.entries = [Entry("sources", listed, entry.start)]


def _joined(key: str, text: str, entries: list[Entry]) -> Entry:
    """An entry in place of others, with their comments."""
    first = entries[0]
    above = [line for entry in entries for line in entry.above]
    beside = [line for entry in entries for line in entry.beside]
    return Entry(key, Value("scalar", "", first.value.end, text=text), first.start, above, beside)
