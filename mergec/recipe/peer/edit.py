"""Edits of a recipe's text as a tree: entries commented out, values replaced, an entry added; no comment is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mergec.recipe.document import Path
from mergec.recipe.layout import Entry, Layout, Value

IGNORED, NEEDLESS = "# mergekit ignores it", "# not needed here"


class Tree:
    """A document's layout and the text it was read from, edited by paths."""

    def __init__(self, text: str, layout: Layout) -> None:
        self.text, self.layout = text, layout
        self.places = dict(_walk(layout.root, ()))
        self.anchors = {
            word[1:]: value
            for value in (layout.root, *(entry.value for entry in self.places))
            for word in value.properties.split()
            if word.startswith("&")
        }

    def find(self, path: Path) -> Entry:
        """The entry at a path, through aliases and merge keys. Raises KeyError where the text has none."""
        value, entry = self.layout.root, None
        for part in path:
            value = self._resolved(value)
            entry = value.entries[part] if isinstance(part, int) else self._keyed(value, part)
            value = entry.value
        if entry is None:
            raise KeyError(path)
        return entry

    def is_anchored(self, path: Path) -> bool:
        """Whether the entry holds an anchor, which other places may refer to."""
        entry = self.find(path)
        return any("&" in one.value.properties for one in (entry, *dict(_walk(entry.value, ()))))

    def comment_out(self, notes: Mapping[Path, str]) -> None:
        """Turn entries into comments with a note, where they stood: of a list or mapping on one line, above that."""
        for entry, note in {self.find(path): note for path, note in notes.items()}.items():
            around = self.places[entry]
            parent = around[-1][0]
            index = parent.entries.index(entry)
            parent.entries.remove(entry)
            self._leave(_commented(self.text, entry, note), index, around)

    def _leave(self, lines: list[str], index: int, around: tuple[tuple[Value, Entry], ...]) -> None:
        """Put comments in place of an entry that stood at an index of the innermost collection."""
        parent = around[-1][0]
        if parent.is_flow:
            hosts = [entry for value, entry in around[:-1] if not value.is_flow]
            host = hosts[-1] if hosts else self.layout.root.entries[0]
            host.above += lines
        elif index < len(parent.entries):
            parent.entries[index].above[:0] = lines
        else:
            parent.tail[:0] = lines

    def rewrite(self, path: Path, text: str) -> None:
        """Give an entry a plain value in place of its own."""
        entry = self.find(path)
        entry.above += list(_comments(entry.value))
        entry.value = Value("scalar", "", entry.value.end, text=text)

    def add(self, key: str, text: str, comment: str) -> None:
        """Add an entry to the root, after all others."""
        end = len(self.text)
        self.layout.root.entries.append(Entry(key, Value("scalar", "", end, text=text), end, beside=[comment]))

    def _resolved(self, value: Value) -> Value:
        is_alias = value.kind == "scalar" and not value.style and value.text.startswith("*")
        return self.anchors[value.text[1:]] if is_alias else value

    def _keyed(self, value: Value, key: str) -> Entry:
        for entry in reversed(value.entries):
            if entry.key.strip("'\"") == key:
                return entry
        for merged in (self._resolved(entry.value) for entry in value.entries if entry.key == "<<"):
            for one in [merged] if merged.kind == "map" else [self._resolved(item.value) for item in merged.entries]:
                try:
                    return self._keyed(one, key)
                except KeyError:
                    continue
        raise KeyError(key)


def source_end(entry: Entry) -> int:
    """Where the text of an entry stops, without the white space and comments behind it."""
    return max(entry.start + len(entry.key) + 1, _end(entry.value))


def _end(value: Value) -> int:
    if value.kind == "scalar" or value.is_flow or not value.entries:
        return value.end
    return max(source_end(entry) for entry in value.entries)


def _commented(text: str, entry: Entry, note: str) -> list[str]:
    """An entry as lines of comments, those that belong to it above."""
    end = source_end(entry)
    source = text[entry.start : end].rstrip()
    if "\n" in source:  # the last line with the comment behind it
        source = text[entry.start : (text + "\n").index("\n", entry.start + len(source))].rstrip()
    column = entry.start - (text.rfind("\n", 0, entry.start) + 1)
    first, *rest = source.split("\n")
    more = [line[min(column, len(line) - len(line.lstrip())) :].rstrip() for line in rest]
    lost = [one for one in _comments(entry.value) if one not in source]
    lines = [f"# {first.rstrip()}  {note}", *(f"# {line}" if line else "#" for line in more)]
    return [*entry.above, *entry.beside, *lost, *lines]


def _comments(value: Value) -> Iterator[str]:
    for entry in value.entries:
        yield from filter(None, (*entry.above, *entry.beside))
        yield from _comments(entry.value)
    yield from filter(None, value.tail)


def _walk(
    value: Value, around: tuple[tuple[Value, Entry], ...]
) -> Iterator[tuple[Entry, tuple[tuple[Value, Entry], ...]]]:
    """Every entry with what is around it: pairs of a collection and the entry of it, from the root inwards."""
    for entry in value.entries:
        here = (*around, (value, entry))
        yield entry, here
        yield from _walk(entry.value, here)
