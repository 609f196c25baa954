"""A recipe of mergekit's as one of mergec's: comments kept, what mergekit ignores commented out, all of it reported."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from mergec.errors import Place, Problem, RecipeError
from mergec.recipe.bind import bind
from mergec.recipe.document import Document, Path, parse
from mergec.recipe.flow import scalar
from mergec.recipe.format import write_layout
from mergec.recipe.layout import comments, documents, read_layout
from mergec.recipe.load import read_recipe
from mergec.recipe.peer.differences import DIFFERS, differences, needs_compat
from mergec.recipe.peer.edit import IGNORED, NEEDLESS, Tree
from mergec.recipe.peer.forms import Imported, other_form
from mergec.recipe.peer.ignored import ignored
from mergec.recipe.peer.language import KEYS, METHODS
from mergec.recipe.peer.respell import Respelt, respelt
from mergec.recipe.peer.twice import without_doubles
from mergec.recipe.schema import Recipe

_COMPAT = "# that tool's arithmetic; left out: float32, rounded once"


def import_text(text: str, file: str, beside: FilePath | None = None) -> Imported:
    """The recipe that gives mergekit's numbers; one that is mergec's already stays as it is, byte by byte.

    `beside` is the folder the result will lie in, which paths of models count from. Raises RecipeError with all
    problems: the text's own (E001 to E009), E720 for what is no recipe of merges, E721 where no text would mean the
    same, and all that mergec has to say against the result, at places of the original.
    """
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    single, whole, findings = _parsed(plain, file, beside)
    if other := other_form(whole, single):
        return _other(other, text, file, beside)
    in_order = _in_order(whole)
    if any(is_own(one, single) for one in in_order):
        return Imported(text, ())
    parts = [_Part(part, one) for part, one in zip(_texts(single), in_order, strict=True)]
    findings += [problem for part in parts for problem in part.findings()]
    if whole.stages:
        what = "mergekit-multi writes the result of every recipe into a folder of its own, here the last one's alone"
        place = whole.stages[0].place(("name",))
        findings.append(Problem(place, DIFFERS, what, "a recipe in a file of its own is written"))
    made = _written(parts, file)
    errors = _refused(made, file, parts, beside)
    if errors:
        raise RecipeError([*findings, *errors])
    if single == plain and not any(part.is_changed for part in parts):
        made = text
    elif "\r\n" in text.partition("\n")[0] + "\n":
        made = made.replace("\n", "\r\n")
    return Imported(made, tuple(sorted(dict.fromkeys(findings), key=lambda one: one.place)))


def _parsed(plain: str, file: str, beside: FilePath | None) -> tuple[str, Document, list[Problem]]:
    """The text without keys that stand twice, and what it says."""
    try:
        return plain, parse(plain, file, beside), []
    except RecipeError as error:
        if any(problem.code != "E004" for problem in error.problems):
            raise
    single, findings = without_doubles(plain, file)
    return single, parse(single, file, beside), findings


def _other(other: Imported, text: str, file: str, beside: FilePath | None) -> Imported:
    """A file of another tool: passed on, refused, or imported after it was rewritten."""
    if any(problem.is_error for problem in other.findings):
        raise RecipeError(other.findings)
    if other.is_final:
        return Imported(text, other.findings)
    place = other.findings[0].place
    try:
        again = import_text(other.text, file, beside)
    except RecipeError as error:
        raise RecipeError(replace(problem, place=place) for problem in error.problems) from None
    more = [replace(problem, place=place) for problem in again.findings]
    return Imported(again.text, tuple(sorted({*other.findings, *more}, key=lambda one: (one.place, one.code))))


def is_own(document: Document, text: str) -> bool:
    """Whether a recipe says anything in words that mergekit does not know, or was printed by `mergec new`."""
    from mergec.ops.registry import methods

    recipe, known = document.value, methods()
    own_keys = Recipe.model_fields.keys() - KEYS["recipe"]
    method = str(recipe.get("merge_method"))
    if own_keys & recipe.keys() or (method not in METHODS and method in {*known, "pipeline"}):
        return True
    if method not in METHODS:
        return False
    own = known[method].parameters.keys() - METHODS[method].parameters if method in known else set()
    return bool(own & set(_names(recipe))) or text.startswith(f"# {known[method].summary}\n")


def _names(value: Any) -> Iterator[str]:
    """Every key of nested mappings."""
    if isinstance(value, dict):
        yield from value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(one)


def _in_order(whole: Document) -> list[Document]:
    return sorted((*whole.stages, whole), key=lambda one: one.place(()))


def _texts(plain: str) -> list[str]:
    """The texts of the documents that hold something."""
    return [part for part in documents(plain) if read_layout(part).root.end or read_layout(part).root.entries]


class _Part:
    """One document: what mergekit makes of it, and what is written in its place."""

    def __init__(self, text: str, document: Document) -> None:
        self.text, self.original = text, document
        tree = Tree(text, read_layout(text))
        self.respelt = [one for one in respelt(document, _in_yaml_1_1(text)) if one.path]
        value = _edited(document.value, [], self.respelt)
        self.document = replace(document, value=value)
        self.ignored = list(ignored(self.document))
        self.kept = {one.path: why for one in self.ignored if (why := self._needed(one.path, tree))}
        self.removed = self._grouped([one.path for one in self.ignored if one.path not in self.kept], tree)
        gone = set(self.removed)
        self.respelt = [one for one in self.respelt if not any(one.path[:n] in gone for n in range(len(one.path) + 1))]
        self.compat = needs_compat(self.document)
        self.expected = _edited(value, self.removed, []) | ({"compat": "mergekit"} if self.compat else {})

    @property
    def is_changed(self) -> bool:
        return bool(self.respelt or self.removed or self.compat)

    def findings(self) -> Iterator[Problem]:
        """What was ignored, what is written in another way, and what means something else."""
        for one in self.ignored:
            done = self.kept.get(one.path, "commented out")
            head = f"'{one.path[-1]}' has no meaning here" if one.is_read else f"mergekit ignores '{one.path[-1]}'"
            code = "W721" if one.is_read else "W720"
            yield Problem(self.original.key_place(one.path), code, f"{head}: {one.why}; {done}", one.hint)
        for change in self.respelt:
            yield Problem(self.original.place(change.path), "W721", change.what)
        yield from differences(replace(self.document, value=self.expected))

    def write(self, is_sorted: bool) -> str:
        """The document with all edits."""
        tree = Tree(self.text, read_layout(self.text))
        for change in self.respelt:
            tree.rewrite(change.path, scalar(change.value))
        read = {one.path for one in self.ignored if one.is_read}
        tree.comment_out({path: NEEDLESS if path in read else IGNORED for path in self.removed})
        if self.compat:
            tree.add("compat", "mergekit", _COMPAT)
        return write_layout(tree.layout, is_sorted)

    def _needed(self, path: Path, tree: Tree) -> str:
        """Why an entry has to stay: what stands there counts elsewhere."""
        place = self.original.keys.get(path)
        others = [other for other, at in self.original.keys.items() if at == place and "<<" not in other]
        if set(others) - {path, *(one.path for one in self.ignored)}:
            return "kept, since an alias of it counts elsewhere"
        return "kept, since an alias refers to it" if tree.is_anchored(path) else ""

    def _grouped(self, paths: list[Path], tree: Tree) -> list[Path]:
        """Paths, with `parameters` in place of all that it holds."""
        result: dict[Path, None] = {}
        for path in paths:
            parent = path[:-1]
            held = self.document.value
            for step in parent:
                held = held[step]  # type: ignore[index]
            is_whole = parent[-1:] == ("parameters",) and all((*parent, key) in paths for key in held)
            is_whole = is_whole and not self._needed(parent, tree)
            result[parent if is_whole else path] = None
        return list(result)


def _in_yaml_1_1(text: str) -> Any:
    """The value of a text as mergekit's reader of YAML sees it; None where that cannot be told."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return yaml.load(text)
    except (YAMLError, ValueError):
        return None


def _edited(value: Mapping[str, Any], removed: list[Path], changes: list[Respelt]) -> dict[str, Any]:
    """A copy of nested values without some of their entries, and with others in place of some."""
    made = copy.deepcopy(dict(value))
    for path, new in [*((one.path, one) for one in changes), *((path, None) for path in removed)]:
        held: Any = made
        for step in path[:-1]:
            held = held[step]
        if new is None:
            held.pop(path[-1], None)
        else:
            held[path[-1]] = new.value
    return made


def _written(parts: list[_Part], file: str) -> str:
    """The documents as one text that was read again and says what it should. Raises RecipeError (E721)."""
    for is_sorted in (True, False):  # keys stay as they are where an alias would come before its anchor
        made = "".join(part.write(is_sorted) for part in parts)
        try:
            found = [one.value for one in _in_order(parse(made, file))]
        except RecipeError:
            continue
        lost = {text for part in parts for text in comments(part.text)} - {*comments(made)}
        if found == [part.expected for part in parts] and not any(text not in made for text in lost):
            return made
    what = "what mergekit ignores cannot be taken out of this text without changing the rest"
    raise RecipeError([Problem(Place(file, 1, 1), "E721", what, "write out its anchors and aliases")])


def _refused(made: str, file: str, parts: list[_Part], beside: FilePath | None) -> list[Problem]:
    """What mergec has against the result, at the places where the original says it."""
    errors: list[Problem] = []
    for part, document in zip(parts, _in_order(parse(made, file, beside)), strict=True):
        recipe, problems = read_recipe(document)
        more = bind(recipe)[1] if recipe else []
        origins = {place: part.original.place(path) for path, place in document.values.items()}
        origins |= {place: part.original.key_place(path) for path, place in document.keys.items()}
        for problem in (*problems, *more):
            if problem.is_error:
                errors.append(replace(problem, place=origins.get(problem.place, part.original.place(()))))
    return errors
