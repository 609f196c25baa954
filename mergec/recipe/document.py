"""YAML text to plain values, with the line and column of every key and value; refuses what is not a plain mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from mergec.errors import Place, Problem, RecipeError

Path: TypeAlias = tuple[str | int, ...]

MAX_TEXT_BYTES = 256 * 1024
_MAX_VALUES = 20_000
_MAX_TOKENS = 6 * _MAX_VALUES  # a key with its value takes four
_MAX_DEPTH = 32


@dataclass(frozen=True)
class Document:
    """A parsed recipe: plain dicts, lists and scalars, and places keyed by path, `("models", 0, "model")`."""

    file: str
    text: str
    value: Mapping[str, Any]
    values: Mapping[Path, Place]
    keys: Mapping[Path, Place]
    stages: tuple[Document, ...] = ()
    """The file's other documents, each with a `name`, in the order of the file."""
    beside: FilePath | None = None
    """The folder that paths count from, where it is not the file's own."""

    @property
    def folder(self) -> FilePath:
        """What paths in the recipe count from."""
        return self.beside or FilePath(self.file).parent

    def place(self, path: Path) -> Place:
        """Where the value at a path stands; the nearest value around it if the path does not exist."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(self.file, 1, 1))

    def key_place(self, path: Path) -> Place:
        """Where the key of an entry stands."""
        return self.keys.get(path) or self.place(path)

    def with_value(self, dotted: str, value: Any) -> Document:
        """A copy with the value at a dotted path replaced or added (`--set models.0.parameters.weight=0.3`)."""
        path = tuple(int(part) if part.isdecimal() else part for part in dotted.split("."))
        place = Place(f"--set {dotted}", 1, 1)
        if path[0] == "stages" and self.stages:
            return self._with_staged(path[1:], value, place)
        return self._with(path, value, place)

    def _with_staged(self, path: Path, value: Any, place: Place) -> Document:
        """The same for a value of a stage: `--set stages.NAME.parameters.weight=0.3`."""
        names = [str(one.value["name"]) for one in self.stages]
        if len(path) < 2 or path[0] not in names:
            hint = f"write stages.NAME.KEY; names are {', '.join(names)}"
            raise _refuse(place, "E501", f"found '{path[0] if path else ''}', expected the name of a stage", hint)
        changed = [one._with(path[1:], value, place) if one.value["name"] == path[0] else one for one in self.stages]
        return replace(self, stages=tuple(changed))

    def _with(self, path: Path, value: Any, place: Place) -> Document:
        kept = {known: where for known, where in self.values.items() if known[: len(path)] != path}
        added = {tuple(path[:depth]): self.values.get(path[:depth], place) for depth in range(1, len(path))}
        changed = dict.fromkeys(_paths(value, path), place)
        return replace(
            self,
            value=_replaced(self.value, path, value, place),
            values=added | kept | changed,
            keys={**self.keys, path: place},
        )


def parse(text: str, file: str, beside: FilePath | None = None) -> Document:
    """Parse a recipe: one YAML document, or several of which all but the result have a `name`.

    A text that is not of this name in the working tree says in which folder it would lie `beside` the models.
    Raises RecipeError with codes E001 to E009.
    """
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise too_large(file)
    roots = _compose(text, file)
    documents = [replace(_document(root, text, file), beside=beside) for root in roots or [None]]
    return documents[0] if len(documents) == 1 else _result(documents)


def _result(documents: list[Document]) -> Document:
    """The document that has no name, or else the last one, with the others as its stages."""
    unnamed = [one for one in documents if not isinstance(one.value.get("name"), str)]
    if len(unnamed) > 1:
        what = "found a second recipe without a 'name', expected one: the result"
        raise _refuse(unnamed[1].place(()), "E003", what, "give the others names, by which their results are models")
    result = unnamed[0] if unnamed else documents[-1]
    stages = [one for one in documents if one is not result]
    first: dict[str, Document] = {}
    for one in stages:
        known = first.setdefault(one.value["name"], one)
        if known is not one:
            what = f"the name '{one.value['name']}' stands twice, first on line {known.place(('name',)).line}"
            raise _refuse(one.place(("name",)), "E003", what, "give each recipe a name of its own")
    return replace(result, stages=tuple(stages))


def _document(root: Any, text: str, file: str) -> Document:
    reader = _Reader(file)
    value = reader.read(root, (), 0) if root is not None else None
    if not isinstance(value, dict):
        found = {list: "a list", type(None): "nothing"}.get(type(value), "a plain value")
        what = f"found {found}, expected a mapping such as 'merge_method: ties'"
        hint = "`mergec new ties` prints a recipe to start from"
        reader.problems.append(Problem(reader.values.get((), Place(file, 1, 1)), "E002", what, hint))
    if reader.problems or not isinstance(value, dict):
        raise RecipeError(reader.problems)
    return Document(file, text, value, reader.values, reader.keys)


def parse_value(text: str, file: str) -> Any:
    """One YAML value, as it would be read inside a recipe (`--set`)."""
    roots = _compose(text, file)
    reader = _Reader(file)
    value = reader.read(roots[0], (), 0) if roots else None
    if reader.problems:
        raise RecipeError(reader.problems)
    return value


def too_large(file: str) -> RecipeError:
    what = f"the recipe is larger than {MAX_TEXT_BYTES // 1024} KiB"
    return _refuse(Place(file, 1, 1), "E009", what, "is this the right file?")


def _refuse(place: Place, code: str, what: str, hint: str = "") -> RecipeError:
    return RecipeError([Problem(place, code, what, hint)])


def _compose(text: str, file: str) -> list[Any]:
    """The nodes of the documents of a text; those that hold nothing are left out."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _bounded_scanner(file)
    try:
        return [node for node in yaml.compose_all(text) if node.start_mark.index != node.end_mark.index]
    except MarkedYAMLError as error:
        what, mark = error.problem or error.context, error.problem_mark or error.context_mark
        if error.context and error.context_mark and mark.index >= len(text.rstrip()):
            what, mark = f"{what} {error.context} that begins here", error.context_mark  # what is not closed
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        raise _refuse(place, "E001", f"not YAML: {what}", _yaml_hint(text)) from None
    except (YAMLError, ValueError) as error:
        before = text[: getattr(error, "position", 0)]
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _refuse(place, "E001", f"not YAML: {str(error).splitlines()[0]}", "remove the character") from None
    except RecursionError:
        raise _too_deep(Place(file, 1, 1)) from None


def _bounded_scanner(file: str) -> type:
    """The library's scanner, which stops at the token that makes a text too deep or too long, not after the last one.

    Its cost grows with the square of the depth, so that a text of brackets alone would take seconds.
    """
    from ruamel.yaml.scanner import Scanner

    class Bounded(Scanner):
        fetched = 0

        def fetch_more_tokens(self) -> Any:
            mark = self.reader.get_mark()
            place = Place(file, mark.line + 1, mark.column + 1)
            self.fetched += 1
            if self.fetched > _MAX_TOKENS:
                raise _too_many(place)
            if len(self.flow_context) + len(self.indents) > _MAX_DEPTH + 2:
                raise _too_deep(place)
            return super().fetch_more_tokens()

    return Bounded


def _too_many(place: Place) -> RecipeError:
    return _refuse(place, "E009", "the recipe expands to too many values", "are aliases (*name) nested?")


def _too_deep(place: Place) -> RecipeError:
    return _refuse(place, "E009", "the recipe is nested too deeply", f"at most {_MAX_DEPTH} levels are read")


def _yaml_hint(text: str) -> str:
    return "YAML is indented with spaces, never tabs" if "\t" in text else "check indentation, quotes and colons here"


class _Reader:
    """Turns YAML nodes into plain values, noting places, and refuses what a recipe cannot hold."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._open: list[Any] = []

    def read(self, node: Any, path: Path, depth: int) -> Any:
        is_blank = node.start_mark.index == node.end_mark.index  # `key:` with nothing after it
        place = self.keys[path] if is_blank and path in self.keys else self._place(node)
        self.values[path] = place
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _too_many(place)
        if depth > _MAX_DEPTH:
            raise _too_deep(place)
        if any(node is outer for outer in self._open):
            raise _refuse(place, "E009", "an alias inside this value refers to the value itself", "remove the alias")
        self._open.append(node)
        try:
            if isinstance(node.value, str):
                return self._scalar(node, place)
            if node.tag.endswith(":map"):
                return self._mapping(node, path, depth)
            if node.tag.endswith(":seq"):
                return [self.read(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
            self._tagged(node, place)
            return None
        finally:
            self._open.pop()

    def _mapping(self, node: Any, path: Path, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if key_node.tag.endswith(":merge"):
                merged |= self._merge(value_node, path, depth)
                continue
            key = key_node.value
            if not isinstance(key, str) or not key_node.tag.endswith((":str", ":value")):
                self._problem(
                    place, "E005", f"found {shown(key)} as a key, expected a name", "quote it if it is a name"
                )
                continue
            here: Path = (*path, key)
            if key in result:
                first = self.keys[here]
                self._problem(place, "E004", f"the key '{key}' stands twice, first on line {first.line}", "remove one")
                continue
            self.keys[here] = place
            result[key] = self.read(value_node, here, depth + 1)
        return {**{key: value for key, value in merged.items() if key not in result}, **result}

    def _merge(self, node: Any, path: Path, depth: int) -> dict[str, Any]:
        """The entries a YAML merge key (`<<: *shared`) brings in; written entries win over them."""
        nodes = node.value if node.tag.endswith(":seq") else [node]
        merged: dict[str, Any] = {}
        for source in reversed(nodes):
            value = self.read(source, (*path, "<<"), depth + 1)
            if not isinstance(value, dict):
                what = "found a merge key whose value is not a mapping"
                self._problem(self._place(source), "E005", what, "give it an alias of a mapping, such as *shared")
                continue
            merged |= value
            for key_node, value_node in source.value:
                self.keys.setdefault((*path, key_node.value), self._place(key_node))
                self.values.setdefault((*path, key_node.value), self._place(value_node))
        return merged

    def _scalar(self, node: Any, place: Place) -> Any:
        kind = node.tag.rpartition(":")[2]
        text: str = node.value
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() in ("true", "yes", "on")
            if kind == "int":
                return int(text.replace("_", ""), 0)
            if kind == "float":
                return _float(text)
        except ValueError:
            return text
        if kind not in ("str", "value", "timestamp", "merge"):
            self._tagged(node, place)
        return text

    def _tagged(self, node: Any, place: Place) -> None:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        self._problem(place, "E006", f"found the tag {tag}, expected plain YAML", "remove the tag")

    def _place(self, node: Any) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _problem(self, place: Place, code: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(place, code, what, hint))


def _float(text: str) -> float:
    named = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
    return float(named.get(text.lower(), text.replace("_", "")))


def shown(value: Any) -> str:
    """A value of a recipe in a message: short, in words where it is neither a scalar nor a list of numbers."""
    if value is None:
        return "nothing"
    if value in ([], {}):
        return "an empty list" if value == [] else "an empty mapping"
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, (int, float)) for one in value)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _paths(value: Any, path: Path) -> Iterator[Path]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _replaced(value: Any, path: Path, new: Any, place: Place) -> Any:
    """A copy of nested values with the one at a path replaced; missing mappings on the way are made."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, list):
        if not isinstance(head, int) or head >= len(value):
            raise _refuse(place, "E501", f"'{head}' is not an entry of a list of {len(value)}", "count from 0")
        return [_replaced(item, rest, new, place) if i == head else item for i, item in enumerate(value)]
    if value is not None and not isinstance(value, dict):
        raise _refuse(place, "E501", f"'{head}' is inside a plain value, expected a mapping or a list")
    return {**(value or {}), str(head): _replaced((value or {}).get(str(head)), rest, new, place)}
