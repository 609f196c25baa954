"""Hypothesis strategy: recipes as people might write them, in every style that YAML has for the same values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NUMBERS = ["0.5", ".5", "5e-1", "0.50", "1", "1.0", "-0.25", "1_000.5", "+1.5", "1e3"]
WORDS = [
    "a",
    "'b c'",
    '"d\\te"',
    "héllo",
    "雪",
    "'it''s # no comment'",
    '"# none either"',
    "a#b",
    "http://x/y@z",
    "-1-",
]
COMMENTS = ["# why", "#", "#tight", "# 雪 ünï", "# key: value", "# base_model: x   # more", "# - model: [a"]


class Text:
    """Lines under construction, with comments and empty lines strewn in."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.lines, self.anchors = draw, [], 0

    def some(self, chance: int) -> bool:
        return self.draw(st.integers(0, chance)) == 1

    def one(self, options: list[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def noise(self, indent: int) -> None:
        if self.some(5):
            self.lines.append(self.one(["", "  "]))
        if self.some(4):
            self.lines.append(" " * self.one([indent, indent, indent + 2, max(indent - 2, 0), 0]) + self.one(COMMENTS))
        if self.some(7):
            self.lines.append("")

    def line(self, indent: int, text: str) -> None:
        beside = self.one([" ", "     "]) + self.one(COMMENTS) if self.some(3) else ""
        self.lines.append(" " * indent + text + beside + self.one(["", "", " "]))

    def setting(self, indent: int, name: str) -> None:
        """A parameter: number, gradient or list of filters, in a style drawn at random."""
        kind, space = self.one(["number", "number", "flow", "block", "filters", "lines"]), self.one([" ", "   "])
        numbers = [self.one(NUMBERS) for _ in range(self.draw(st.integers(1, 3)))]
        if kind == "number":
            anchor = self.anchor()
            self.line(indent, f"{name}:{space}{anchor}{numbers[0]}")
        elif kind == "flow":
            self.line(indent, f"{name}:{space}[ {self.one([',', ' , ']).join(numbers)}]")
        elif kind == "lines":
            self.line(indent, f"{name}: [")
            for number in numbers:
                self.noise(indent + 2)
                self.line(indent + 2, f"{number},")
            self.noise(indent + 2)
            self.line(indent + 1, "]")
        else:
            self.line(indent, f"{name}:")
            deeper = indent + self.one([0, 1, 2, 4])
            for number in numbers:
                self.noise(deeper)
                if kind == "block":
                    self.line(deeper, f"-{space}{number}")
                else:
                    self.line(deeper, f"-{space}value: {number}")
                    self.noise(deeper + 1 + len(space))
                    self.line(deeper + 1 + len(space), f"filter: {self.one(WORDS)}")

    def anchor(self) -> str:
        if not self.some(6):
            return ""
        self.anchors += 1
        return f"&n{self.anchors} "

    def settings(self, indent: int) -> None:
        names = self.draw(st.lists(st.sampled_from(["weight", "density", "'gamma'", "lambda"]), unique=True))
        if names and self.some(3):
            pairs = ", ".join(f"{name}{self.one([': ', ':  '])}{self.one(NUMBERS)}" for name in names)
            self.line(indent, f"parameters: {{{pairs}{self.one(['', ' '])}}}")
            return
        self.line(indent, "parameters:")
        deeper = indent + self.one([1, 2, 3])
        for name in names:
            self.noise(deeper)
            self.setting(deeper, name)

    def models(self) -> None:
        self.line(0, "models:")
        indent = self.one([0, 2, 3])
        for name in ("m1", "m2"):
            self.noise(indent)
            if self.some(4):
                self.line(indent, f"- {{model: {name}, 'id' : {self.one(WORDS)}}}")
                continue
            rest = indent + self.one([2, 4])
            keys = ["model", "parameters", *["id"] * self.some(2)]
            start = len(self.lines)
            for number, key in enumerate(self.draw(st.permutations(keys))):
                if number:
                    self.noise(rest)
                if key == "parameters":
                    self.settings(rest)
                else:
                    self.line(rest, f"model: {name}" if key == "model" else f"id: {self.one(WORDS)}")
            first = self.lines[start]
            self.lines[start] = first[:indent] + "-" + first[indent + 1 :]

    def prose(self, key: str) -> None:
        kind = self.one(["|", ">", "|-", ">+", "|+", "|2", "plain", "'", '"'])
        if kind[0] in "|>":
            self.line(0, f"{key}: {kind}")
            lines = [self.one(["one # two", "", "- x: y", "  deeper", "雪", "# text"]) for _ in range(3)]
            lines[0] = "start" if kind != "|2" else lines[0]
            self.lines += ["  " + line if line else "" for line in lines]
        else:
            quote = "" if kind == "plain" else kind
            self.lines += [f"{key}: {quote}one two", *[""] * self.one([0, 0, 1]), f"   three{quote}"]

    def aliases(self) -> None:
        if self.anchors:
            self.line(0, "metadata:")
            self.line(1, f"again: *n{self.draw(st.integers(1, self.anchors))}")


@st.composite
def recipe_texts(draw: Any) -> str:
    """A recipe of mergec, its line ends one of those there are."""
    text = Text(draw)
    text.noise(0)
    if text.some(5):
        text.line(0, "---")
    keys = [
        lambda: text.line(0, "merge_method: ties"),
        lambda: text.line(0, f"{text.one(['base_model', chr(34) + 'base_model' + chr(34)])}:  base"),
        text.models,
        lambda: text.settings(0),
        lambda: text.line(0, "dtype: bfloat16"),
        lambda: text.prose("name"),
        lambda: text.line(0, f"seed: {text.one(['0', '0x1F', '7'])}"),
    ]
    for key in draw(st.permutations(keys)):
        text.noise(0)
        key()
    text.aliases()
    text.noise(0)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    return end.join(text.lines) + draw(st.sampled_from(["", end, end * 3]))
