"""One exception family: what is wrong, where it stands in the recipe, and how to mend it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass

_MOST_LISTED = 20


@dataclass(frozen=True, order=True)
class Place:
    """A position in a text the user wrote; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One finding about a recipe or an input; prints as one line."""

    place: Place
    code: str
    what: str
    hint: str = ""

    @property
    def is_error(self) -> bool:
        return self.code.startswith("E")

    def __str__(self) -> str:
        severity = "error" if self.is_error else "warning"
        return _line(f"{self.place}: {severity}[{self.code}]", self.what, self.hint)


def _line(head: str, what: str, hint: str) -> str:
    """One line for a terminal: white space folded, what cannot be printed escaped."""
    text = " ".join(f"{head}: {what}{'; hint: ' if hint else ''}{hint}".split())
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def remark(code: str, what: str, hint: str = "") -> str:
    """One line about what is odd and stands in no text of the user's."""
    return _line(f"warning[{code}]", what, hint)


class MergecError(Exception):
    """What mergec raises on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class RecipeError(MergecError):
    """The recipe or one of its inputs is wrong; carries every problem that was found."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.place, p.code)))
        super().__init__("\n".join(map(str, self.problems)))


class InputError(MergecError):
    """A checkpoint, header or folder is not what it should be; the recipe's line is added by the inventory."""

    exit_code = 2

    def __init__(self, code: str, what: str, hint: str = "") -> None:
        self.code, self.what, self.hint = code, what, hint
        super().__init__(_line(f"error[{code}]", what, hint))

    def at(self, place: Place) -> Problem:
        return Problem(place, self.code, self.what, self.hint)


class UsageError(InputError):
    """A command was called with options or paths that cannot be meant."""


class RunError(MergecError):
    """The merge itself failed: the disk, an input that changed, a value that is not finite."""

    def __init__(self, code: str, what: str, hint: str = "") -> None:
        self.code, self.what, self.hint = code, what, hint
        super().__init__(_line(f"error[{code}]", what, hint))


def near(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a question, "" when none is near.

    >>> near("densty", ["weight", "density"])
    "did you mean 'density'?"
    """
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a question, or the list of all when none is near.

    >>> did_you_mean("densty", ["weight", "density"])
    "did you mean 'density'?"
    >>> did_you_mean("zzz", ["weight", "density"])
    'known here: density, weight'
    """
    options = sorted(known)
    more = f" and {len(options) - _MOST_LISTED} more" if len(options) > _MOST_LISTED else ""
    return near(word, options) or (f"known here: {', '.join(options[:_MOST_LISTED])}{more}" if options else "")


def first_few(texts: Iterable[str], most: int = 3) -> str:
    """Texts as part of a sentence: the first ones, and how many more there are.

    >>> first_few("abcde")
    'a, b, c and 2 more'
    """
    listed = list(texts)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 tensor`, `2 tensors`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def path_text(path: str) -> str:
    """A path for people: counted from the current folder where it lies inside it."""
    try:
        return path.removeprefix(os.path.join(os.getcwd(), ""))
    except OSError:  # the current folder is gone
        return path


def size_text(size: float) -> str:
    """Bytes for people: 1,536 is 1.5 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} B" if unit == "B" else f"{size:,.2f} {unit}"
