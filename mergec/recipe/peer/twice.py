"""Keys that stand twice: mergekit takes the last, mergec refuses them."""

from __future__ import annotations

from collections.abc import Iterator

from mergec.errors import Place, Problem
from mergec.recipe.layout import Entry, Value, documents, read_layout
from mergec.recipe.peer.edit import source_end


def without_doubles(text: str, file: str) -> tuple[str, list[Problem]]:
    """The text with blanks in place of entries whose key stands again, so that all others stay where they were."""
    findings: list[Problem] = []
    start = 0
    for part in documents(text):
        for entry, again, is_flow in list(_doubles(read_layout(part).root)):
            begin, end = start + entry.start, start + source_end(entry)
            if is_flow:
                end = text.index(",", end) + 1
            blank = "".join("\n" if letter == "\n" else " " for letter in text[begin:end])
            line, column = text.count("\n", 0, begin) + 1, begin - text.rfind("\n", 0, begin)
            other = text.count("\n", 0, start + again.start) + 1
            what = f"mergekit ignores '{entry.key}': it stands again on line {other}, and that counts; removed"
            findings.append(Problem(Place(file, line, column), "W720", what))
            text = text[:begin] + blank + text[end:]
        start += len(part)
    return text, findings


def _doubles(value: Value) -> Iterator[tuple[Entry, Entry, bool]]:
    """Entries that a later one of the same mapping overrules, innermost last."""
    last = {entry.key: entry for entry in value.entries if value.kind == "map"}
    for entry in value.entries:
        if value.kind == "map" and last[entry.key] is not entry and entry.key != "<<":
            yield entry, last[entry.key], value.is_flow
        else:
            yield from _doubles(entry.value)
