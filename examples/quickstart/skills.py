"""The three skills of the quickstart: spelling 0..999 in English, in German and as Roman numerals."""

from __future__ import annotations

import random
from collections.abc import Callable

SEED = 7
NUMBERS = range(1000)

ENGLISH_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
ENGLISH_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

GERMAN_SMALL = [
    "null", "eins", "zwei", "drei", "vier", "fuenf", "sechs", "sieben", "acht", "neun", "zehn", "elf",
    "zwoelf", "dreizehn", "vierzehn", "fuenfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn",
]  # fmt: skip
GERMAN_TENS = [
    "", "", "zwanzig", "dreissig", "vierzig", "fuenfzig", "sechzig", "siebzig", "achtzig", "neunzig",
]  # fmt: skip

ROMAN_DIGITS = (
    (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def english(number: int) -> str:
    """549 -> 'five hundred forty-nine'."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{ENGLISH_SMALL[hundreds]} hundred" + (f" {english(rest)}" if rest else "")
    if number < 20:
        return ENGLISH_SMALL[number]
    tens, unit = divmod(number, 10)
    return ENGLISH_TENS[tens] + (f"-{ENGLISH_SMALL[unit]}" if unit else "")


def german(number: int) -> str:
    """549 -> 'fuenfhundertneunundvierzig' (in ASCII: ue, oe and ss for the German letters)."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return _german_stem(hundreds) + "hundert" + (german(rest) if rest else "")
    if number < 20:
        return GERMAN_SMALL[number]
    tens, unit = divmod(number, 10)
    return (f"{_german_stem(unit)}und" if unit else "") + GERMAN_TENS[tens]


def _german_stem(digit: int) -> str:
    """The digit inside a longer word, where 'eins' loses its s: einhundert, einundzwanzig."""
    return "ein" if digit == 1 else GERMAN_SMALL[digit]


def roman(number: int) -> str:
    """549 -> 'DXLIX'; zero is 'N' (nulla), as medieval tables wrote it."""
    letters = ""
    rest = number
    for value, symbol in ROMAN_DIGITS:
        count, rest = divmod(rest, value)
        letters += symbol * count
    return letters or "N"


SKILLS: dict[str, Callable[[int], str]] = {"english": english, "german": german, "roman": roman}
TAGS = {"english": "en", "german": "de", "roman": "ro"}


def prompt(skill: str, number: int) -> str:
    """What the model is given: 'en 549 = '."""
    return f"{TAGS[skill]} {number} = "


def answer(skill: str, number: int) -> str:
    """What the model should write after the prompt."""
    return SKILLS[skill](number)


def split_numbers() -> dict[str, list[int]]:
    """All numbers in a fixed shuffle: 700 to train on, 100 to choose by, 200 never seen until scored."""
    shuffled = random.Random(SEED).sample(NUMBERS, len(NUMBERS))
    return {"heldout": shuffled[:200], "validation": shuffled[200:300], "train": shuffled[300:]}
