"""A recipe's text as a tree that forgets no comment, for writing it anew: what formatting reads, and nothing checks."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*\s+)*(?:[&!][^\s,\[\]{}]*$)?")  # anchor and tag before a value


@dataclass(eq=False)
class Value:
    """A scalar or alias with its source text, or a list or mapping with its entries.

    `column` is where a block collection's entries stood, `end` where the text of the value stopped.
    """

    kind: Literal["scalar", "list", "map"]
    properties: str  # its anchor and tag, as written
    end: int
    text: str = ""
    style: str = ""  # of a scalar: "", ', ", | or >
    content: str = ""  # of a block scalar
    is_flow: bool = False
    column: int = 0
    entries: list[Entry] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)  # comments after the last entry, "" for an empty line


@dataclass(eq=False)
class Entry:
    """An item of a list (key "") or of a mapping, with the comments that go where it goes."""

    key: str
    value: Value
    start: int
    above: list[str] = field(default_factory=list)  # comments, "" for an empty line
    beside: list[str] = field(default_factory=list)


@dataclass
class Layout:
    """A whole text: the lines before `---`, whether there is one, and the root."""

    head: list[str]
    marker: str
    root: Value


class Comment:
    """A comment, where it stands, and whether it has its line for itself."""

    def __init__(self, text: str, start: int, end: int) -> None:
        line = text.rfind("\n", 0, start) + 1
        self.text, self.start = text[start:end].rstrip(), start
        self.column = start - line
        self.is_alone = not text[line:start].strip()
        self.after_blank = line > 0 and _is_blank_before(text, line)


def documents(text: str) -> list[str]:
    """The texts of the YAML documents of a text, each but the first from its `---` on."""
    from ruamel.yaml import YAML

    starts, is_begun = [0], False
    for token in YAML(typ="safe", pure=True).scan(text):
        name = type(token).__name__
        if name in ("DocumentStartToken", "DirectiveToken") and is_begun:
            starts.append(token.start_mark.index)
        is_begun = name not in ("StreamStartToken", "DirectiveToken")
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def read_layout(text: str) -> Layout:
    """The tree of a text that is one YAML document, its lines ended by line feeds."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    tokens = list(yaml.scan(text))
    reader = _Events(text, iter(list(YAML(typ="safe", pure=True).parse(text))), tokens)
    layout = reader.document()
    _attach(text, layout, list(_comments(text, tokens)))
    return layout


def comments(text: str) -> list[str]:
    """The comments of a text, in order."""
    from ruamel.yaml import YAML

    return [comment.text for comment in _comments(text, list(YAML(typ="safe", pure=True).scan(text)))]


def _comments(text: str, tokens: list[Any]) -> Iterator[Comment]:
    """What stands between tokens is white space and comments; a block scalar's first line may hold one too."""
    at = 0
    for token in tokens:
        yield from _between(text, at, token.start_mark.index)
        if getattr(token, "style", None) in ("|", ">"):
            yield from _between(text, token.start_mark.index, _line_end(text, token.start_mark.index))
        at = max(at, token.end_mark.index)
    yield from _between(text, at, len(text))


def _between(text: str, start: int, stop: int) -> Iterator[Comment]:
    for found in re.finditer(r"#[^\n]*", text[start:stop]):
        yield Comment(text, start + found.start(), start + found.end())


def _line_end(text: str, index: int) -> int:
    return (text + "\n").index("\n", index)


def _is_blank_before(text: str, line: int) -> bool:
    """Whether the line before the one that starts at an index is empty."""
    return line > 0 and not text[text.rfind("\n", 0, line - 1) + 1 : line].strip()


class _Events:
    """Builds the tree from the library's events, which know anchors, aliases and styles."""

    def __init__(self, text: str, events: Iterator[Any], tokens: list[Any]) -> None:
        self.text, self.events = text, events
        self.dashes = [t.start_mark.index for t in tokens if type(t).__name__ == "BlockEntryToken"]

    def document(self) -> Layout:
        next(self.events)  # the start of the stream
        start = next(self.events)
        head: list[str] = []
        if start.explicit:
            before = self.text[: start.end_mark.index - 3]
            head = [line.rstrip() for line in before.splitlines() if line.startswith("%")]
        return Layout(head, "---" if start.explicit else "", self.value(next(self.events), 0))

    def value(self, event: Any, column: int) -> Value:
        name = type(event).__name__
        source = self.text[event.start_mark.index : event.end_mark.index]
        if name == "AliasEvent":
            return Value("scalar", "", event.end_mark.index, text=source)
        if name == "ScalarEvent":
            found = _PROPERTIES.match(source)
            properties = found[0] if found else ""
            style = event.style or ""
            body = source[len(properties) :]
            end = event.end_mark.index if source else 0  # where nothing stands, the library says the next token
            return Value("scalar", properties.strip(), end, body, style, event.value, column=column)
        return self.collection(event, "map" if name == "MappingStartEvent" else "list")

    def collection(self, event: Any, kind: Literal["list", "map"]) -> Value:
        properties = _PROPERTIES.match(self.text, event.start_mark.index)
        written = properties[0].strip() if properties and (event.anchor or event.tag) else ""
        made = Value(kind, written, 0, is_flow=bool(event.flow_style))
        while not type(first := next(self.events)).__name__.endswith("EndEvent"):
            made.entries.append(self.entry(first, made))
        made.end = first.end_mark.index
        return made

    def entry(self, first: Any, parent: Value) -> Entry:
        start: int = first.start_mark.index
        if parent.kind == "list" and not parent.is_flow:
            start = self.dashes[bisect_left(self.dashes, start) - 1]
        if not parent.entries:
            parent.column = start - self.text.rfind("\n", 0, start) - 1
        if parent.kind == "list":
            return Entry("", self.value(first, parent.column), start)
        key = self.text[start : first.end_mark.index]
        return Entry(key, self.value(next(self.events), parent.column), start)


def _attach(text: str, layout: Layout, found: list[Comment]) -> None:
    """Give every comment and every empty line to the entry or collection that it belongs to."""
    order = list(_walk(layout.root, ()))
    starts = [entry.start for entry, _ in order]
    marker = re.search(r"^---", text, re.MULTILINE) if layout.marker else None
    for comment in found:
        if marker and comment.start < marker.start():
            layout.head.insert(0 if not layout.head else len(layout.head), comment.text)
            continue
        at = bisect_left(starts, comment.start)
        after = order[at] if at < len(order) else None
        before = next((order[i] for i in range(at - 1, -1, -1) if not _is_closed(order[i][1], comment.start)), None)
        if not comment.is_alone:
            (before[0].beside if before else layout.head).append(comment.text)
        else:
            lines = _owner(layout.root, comment, before, after)
            lines += [""] * comment.after_blank + [comment.text]
    seen = set()
    for entry, _ in order:
        line = text.rfind("\n", 0, entry.start) + 1
        if line not in seen and _is_blank_before(text, line):
            entry.above.append("")
        seen.add(line)


Place = tuple[Entry, tuple[Value, ...]]


def _walk(value: Value, around: tuple[Value, ...]) -> Iterator[Place]:
    for entry in value.entries:
        yield entry, (*around, value)
        yield from _walk(entry.value, (*around, value))


def _is_closed(around: tuple[Value, ...], index: int) -> bool:
    return any(value.is_flow and value.end <= index for value in around)


def _owner(root: Value, comment: Comment, before: Place | None, after: Place | None) -> list[str]:
    """The lines that a comment on its own line joins: above an entry, or at the end of a collection.

    A comment that is indented further than the entry after it belongs to the collection that ends there.
    """
    if not before:
        return after[0].above if after else root.tail
    entry, around = before
    if entry.value.kind == "scalar" and comment.start < entry.value.end:
        return entry.above  # between a key and its value
    chain = [*around, entry.value] if entry.value.entries or entry.value.is_flow else list(around)
    chain = [value for value in chain if not (value.is_flow and value.end <= comment.start)]
    flow = [value for value in chain if value.is_flow]
    if flow:
        return after[0].above if after and after[1][-1] in flow else flow[-1].tail
    if after and len(after[1]) > len(around):
        return after[0].above  # the first entry of what the entry before it holds
    ends = [value for value in chain if value.column <= comment.column]
    innermost = ends[-1] if ends else root
    if after and chain.index(innermost) <= len(after[1]) - 1:
        return after[0].above
    return innermost.tail
