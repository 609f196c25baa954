"""The one way to lay out a recipe: order of keys, indentation, spaces, comments in a column; no value is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mergec.errors import Place, Problem, RecipeError
from mergec.recipe.document import Document, parse
from mergec.recipe.layout import Entry, Layout, Value, comments, documents, read_layout

WIDTH = 120
_WIDEST_ALIGNED = 72  # a longer line keeps its comment to itself
_FIRST = ["<<", "name", "compat", "merge_method", "base_model", "models", "slices", "shuffle", "modules", "experts"]
_FIRST += ["shared_experts", "gate_mode", "experts_per_token", "architecture", "steps", "parameters", "rules"]
_FIRST += ["tensors", "post"]
LAST = [
    "dtype",
    "out_dtype",
    "compute_dtype",
    "seed",
    "random_order",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "router",
]
LAST += ["metadata"]
_MODEL_FIRST = ["<<", "match", "model", "source_model", "id", "layer_range"]  # what no list has stands after these
_IN_MODEL = {
    ("models", ""),
    ("sources", ""),
    ("experts", ""),
    ("shared_experts", ""),
    ("rules", ""),
}  # the end of an entry's path


def format_text(text: str, file: str) -> str:
    """A recipe's text in canonical layout: comments, values and their spelling kept, its kind of line ends too.

    Formatting what is formatted changes nothing. Raises RecipeError where the text is no YAML mapping (E001 to
    E009), and E680 where laying it out anew would change a value or lose a comment.
    """
    before = parse(text, file)
    line_end = "\r\n" if "\r\n" in text.partition("\n")[0] + "\n" else "\n"
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = documents(plain)
    for is_sorted in (True, False):  # keys stay as they are where an alias would come before its anchor
        made = "".join(_written(part, is_sorted) for part in parts)
        if _is_same(made, plain, before):
            return made.replace("\n", line_end)
    what = "laying this recipe out anew would change a value or lose a comment"
    raise RecipeError([Problem(Place(file, 1, 1), "E680", what, "write it in plainer YAML")])


def _is_same(made: str, plain: str, before: Document) -> bool:
    try:
        after = parse(made, before.file)
    except RecipeError:
        return False
    return _values(after) == _values(before) and sorted(comments(made)) == sorted(comments(plain))


def _values(document: Document) -> list[str]:
    """All values as text in which 1, 1.0 and true differ and the order of keys does not count."""
    return [json.dumps(one.value, sort_keys=True) for one in (*document.stages, document)]


@dataclass
class _Line:
    text: str
    beside: str = ""
    is_content: bool = False  # of a block scalar: not ours to touch


def _written(text: str, is_sorted: bool) -> str:
    return write_layout(read_layout(text), is_sorted)


def write_layout(layout: Layout, is_sorted: bool) -> str:
    """A tree as text in canonical layout, its keys as they are unless `is_sorted`. Uses the tree up."""
    root = layout.root
    writer = _Writer(is_sorted)
    writer.lines += [_Line(line) for line in layout.head]
    if layout.marker:
        writer.lines.append(_Line(layout.marker))
    header = _taken_header(root.entries[0]) if is_sorted and root.entries else []
    writer.comments(header, 0)
    if root.properties:
        writer.lines.append(_Line(root.properties))
    writer.collection(root, 0, ())
    return "".join(f"{line}\n" for line in _aligned(writer.lines))


def _taken_header(first: Entry) -> list[str]:
    """The comment a file begins with, taken from its first entry: it stays on top wherever the entry goes."""
    above = _unled(first.above)
    cut = len(above) - above[::-1].index("") if "" in above else len(above)
    header, first.above = above[:cut], above[cut:]
    return header


class _Writer:
    def __init__(self, is_sorted: bool) -> None:
        self.is_sorted = is_sorted
        self.lines: list[_Line] = []

    def comments(self, texts: Sequence[str], indent: int) -> None:
        for text in texts:
            if text:
                self.lines.append(_Line(" " * indent + text))
            elif self.lines and self.lines[-1].text:
                self.lines.append(_Line(""))

    def collection(self, value: Value, indent: int, path: tuple[str, ...], dash: str = "") -> None:
        """The entries; `dash` is a line that waits for the first of them."""
        for number, entry in enumerate(self.ordered(value, path)):
            if number == 0:
                entry.above = _unled(entry.above)
            self.entry(entry, indent, path, dash or " " * indent)
            dash = ""
        self.comments(value.tail, indent)

    def ordered(self, value: Value, path: tuple[str, ...]) -> list[Entry]:
        if not self.is_sorted or value.kind != "map" or (path and path[-2:] not in _IN_MODEL):
            return value.entries
        first, last = (_FIRST, LAST) if not path else (_MODEL_FIRST, ["parameters"])

        def rank(entry: Entry) -> tuple[int, int]:
            name = entry.key.strip("'\"")
            if name in first:
                return 0, first.index(name)
            return (2, last.index(name)) if name in last else (1, 0)

        return sorted(value.entries, key=rank)

    def entry(self, entry: Entry, indent: int, path: tuple[str, ...], start: str) -> None:
        value = entry.value
        flow = _flow(value)
        start += f"{entry.key}:" if entry.key else "-"
        if value.properties:
            start += f" {value.properties}"
        is_line = flow is not None and len(start) + 1 + len(flow) <= WIDTH
        is_dash = not (entry.key or value.properties or value.kind == "scalar" or is_line)
        above, beside = [*entry.above, *entry.beside[:-1]], "".join(entry.beside[-1:])
        if is_dash:  # its line is that of the first entry, which may have comments of its own
            first = self.ordered(value, (*path, ""))[0]
            above, beside = [*above, *([beside] if beside else []), *_unled(first.above)], ""
            first.above = []
        self.comments(above, indent)
        if is_dash:
            self.collection(value, indent + 2, (*path, ""), start + " ")
        elif is_line:
            self.lines.append(_Line(f"{start} {flow}", beside))
        elif value.kind == "scalar":
            self.scalar(value, start, beside, indent)
        else:
            self.lines.append(_Line(start, beside))
            self.collection(value, indent + 2, (*path, entry.key))

    def scalar(self, value: Value, start: str, comment: str, indent: int) -> None:
        if value.style in ("|", ">"):
            header, body = _block_scalar(value)
            self.lines.append(_Line(f"{start} {header}", comment))
            lead = " " * (indent + 2)
            self.lines += [_Line(lead + line if line else "", is_content=True) for line in body]
            return
        first, *rest = value.text.split("\n")
        self.lines.append(_Line(f"{start} {first}" if first else start))
        lead = " " * (indent + 2)
        stripped = [line.lstrip(" \t") for line in rest]
        self.lines += [_Line(lead + line if line else "", is_content=True) for line in stripped]
        self.lines[-1].beside = comment


def _unled(lines: list[str]) -> list[str]:
    """Without an empty line at the start: there is none before the first entry of anything."""
    return lines[1:] if lines[:1] == [""] else lines


def _flow(value: Value) -> str | None:
    """A flow collection, or an empty one, on one line; None where it needs several."""
    if value.kind == "scalar":
        return None
    if not value.is_flow and value.entries:
        return None
    parts = []
    for entry in value.entries:
        if entry.beside or any(entry.above):
            return None
        inner = entry.value
        text = _flow(inner) if inner.kind != "scalar" else inner.text or "null"
        if text is None or "\n" in text + entry.key:
            return None
        text = f"{inner.properties} {text}" if inner.properties else text
        parts.append(f"{entry.key}: {text}" if value.kind == "map" else text)
    if any(value.tail):
        return None
    return f"{{{', '.join(parts)}}}" if value.kind == "map" else f"[{', '.join(parts)}]"


def _block_scalar(value: Value) -> tuple[str, list[str]]:
    """The first line of a literal or folded text, and its lines without indentation."""
    header, _, source = value.text.partition("\n")
    content = value.content
    ends = len(content) - len(content.rstrip("\n"))
    chomp = "+" if ends > 1 or content == "\n" else "-" if not ends else ""
    if value.style == "|":
        body = content.split("\n")
        body = body[:-1] if ends else body
    else:
        body = _folded(header, source, value.column)
        body += [""] * (ends - 1)
    if not content:
        body, chomp = [], "-"
    first = next((line for line in body if line.strip()), " ")
    depth = "2" if first.startswith((" ", "\t")) and content.strip("\n") else ""
    return value.style + depth + chomp, body


def _folded(header: str, source: str, column: int) -> list[str]:
    lines = source.split("\n")
    given = re.search(r"[1-9]", header.partition("#")[0])
    first = next((line for line in lines if line.strip()), "")
    indent = column + int(given[0]) if given else len(first) - len(first.lstrip(" "))
    body = [line[indent:] for line in lines]
    while body and not body[-1].strip():
        body.pop()
    return body


def _aligned(lines: Sequence[_Line]) -> Iterator[str]:
    """The lines with comments in one column per paragraph, two spaces after the longest line that has one."""
    column = 0
    for number, line in enumerate(lines):
        if number == 0 or not lines[number - 1].text:
            column = _column(islice(lines, number, None))
        if not line.beside:
            yield line.text
        elif len(line.text) > _WIDEST_ALIGNED:
            yield f"{line.text}  {line.beside}"
        else:
            yield f"{line.text:<{column}}{line.beside}"


def _column(lines: Iterable[_Line]) -> int:
    column = 0
    for line in lines:
        if not line.text:
            break
        if line.beside and len(line.text) <= _WIDEST_ALIGNED:
            column = max(column, len(line.text) + 2)
        elif not line.is_content and (found := re.match(r"\s*#.*?\S  +(?=# )", line.text)):
            column = max(column, min(len(found[0]), _WIDEST_ALIGNED + 2))  # a line that is commented out
    return column
