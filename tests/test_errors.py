"""Errors: one line each, suggestions that help, and codes that are documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergec.errors import InputError, Place, Problem, RecipeError, RunError, UsageError, count, did_you_mean

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("densty", ["weight", "density"], "did you mean 'density'?"),
        ("wieght", ["weight", "density"], "did you mean 'weight'?"),
        ("dare-ties", ["dare_ties", "dare_linear", "ties"], "did you mean 'dare_ties'?"),
        ("zzz", ["weight", "density"], "known here: density, weight"),
        ("zzz", [], ""),
        (
            "zzz",
            {f"k{n:02}": n for n in range(25)},
            f"known here: {', '.join(f'k{n:02}' for n in range(20))} and 5 more",
        ),
    ],
)
def test_the_nearest_word_is_suggested_or_all_are_listed(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tensors"), (1, "1 tensor"), (2, "2 tensors"), (12345, "12,345 tensors")]
)
def test_numbers_agree_with_their_nouns(number: int, text: str) -> None:
    assert count(number, "tensor") == text


def test_a_problem_says_where_what_and_how() -> None:
    place = Place("r.yml", 3, 7)
    assert str(Problem(place, "E103", "found 1")) == "r.yml:3:7: error[E103]: found 1"
    assert str(Problem(place, "W202", "found 1", "remove it")) == "r.yml:3:7: warning[W202]: found 1; hint: remove it"
    assert Problem(place, "E103", "").is_error
    assert not Problem(place, "W103", "").is_error


@given(st.text(), st.text())
def test_an_error_is_one_printable_line_whatever_it_is_about(what: str, hint: str) -> None:
    place = Place("r.yml", 1, 1)
    for text in (
        str(Problem(place, "E103", what, hint)),
        str(UsageError("E501", what, hint)),
        str(RunError("E410", what, hint)),
    ):
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        text.encode()


def test_terminals_are_not_told_what_to_do() -> None:
    assert str(Problem(Place("r.yml", 1, 1), "E300", "no model '\x1b[31mred'")).endswith(r"no model '\x1b[31mred'")
    assert str(UsageError("E405", "no tensor 雪 \u202e")).endswith("no tensor 雪 \\u202e")


def test_problems_are_sorted_by_place_and_said_once() -> None:
    late, early = Problem(Place("r.yml", 10, 1), "E101", "b"), Problem(Place("r.yml", 9, 5), "E101", "a")
    first, second = Problem(Place("r.yml", 10, 1), "E320", "z"), Problem(Place("r.yml", 10, 1), "E320", "a")
    error = RecipeError([late, first, second, early, late])
    assert error.problems == (early, late, first, second)  # at one place: by code, then as they were found
    assert str(error).splitlines() == [str(problem) for problem in error.problems]


def test_exit_codes() -> None:
    place = Place("r.yml", 1, 1)
    input_error = InputError("E310", "what", "hint")
    assert input_error.at(place) == Problem(place, "E310", "what", "hint")
    assert (RecipeError([]).exit_code, input_error.exit_code, UsageError("E501", "").exit_code) == (2, 2, 2)
    assert RunError("E410", "").exit_code == 1


def codes_in(text: str) -> list[str]:
    return re.findall(r"\b[EW]\d{3}\b", text)


def used() -> set[str]:
    literals = (
        re.findall(r'"([EW]\d{3})"', path.read_text(encoding="utf-8")) for path in (ROOT / "mergec").rglob("*.py")
    )
    return {code for found in literals for code in found}


def documented() -> list[str]:
    rows = (ROOT / "docs/errors.md").read_text(encoding="utf-8").splitlines()
    return [code for row in rows if row.startswith("| ") for code in codes_in(row.split("|")[1])]


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    assert set(documented()) == used()


def test_codes_are_documented_once_in_order_within_their_tables() -> None:
    codes = documented()
    assert len(codes) == len(set(codes))
    errors = [code for code in codes if code.startswith("E")]
    assert errors == sorted(errors)


def test_codes_in_docstrings_exist() -> None:
    for path in (ROOT / "mergec").rglob("*.py"):
        assert set(codes_in(path.read_text(encoding="utf-8"))) <= used() | {"E001", "E009"}, path


def test_the_table_of_mistakes_covers_the_codes_of_a_check() -> None:
    text = "".join(
        (ROOT / "tests" / name).read_text(encoding="utf-8")
        for name in (
            "cli/test_mistakes.py",
            "compiler/test_stages.py",
            "io/test_hub.py",
            "io/test_vocabulary.py",
            "compiler/test_mixture.py",
            "execute/test_states.py",
            "compiler/test_rules.py",
            "recipe/test_reference.py",
            "recipe/test_shuffle.py",
            "peer/test_replay.py",
        )
    )
    checked = {code for code in used() if code[0] == "E" and code < "E400"}
    assert checked - set(codes_in(text)) == set()
