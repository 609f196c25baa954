"""What the recipes of a branch change, as Markdown for a pull request: `python pull_request.py origin/main`.

For each recipe that differs from where the branch began it prints what `mergec diff` says of both versions. Where they
cannot be compiled, say because the models are elsewhere, it prints how the recipe's canonical text changes, and why.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile

SUFFIXES = (".yml", ".yaml")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def mergec(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mergec", *arguments], capture_output=True, text=True, check=False)


def changed_recipes(base: str) -> list[tuple[str, str, str]]:
    """(status, old path, new path) of the changed files that are recipes in one of their versions; A, M, D or R."""
    fields = git("diff", "--name-status", "-z", "--find-renames", base, "HEAD").split("\0")[:-1]
    found = []
    while fields:
        status, old = fields[0][0], fields[1]
        new, fields = (fields[2], fields[3:]) if status in "RC" else (old, fields[2:])
        texts = [text_at(base, old) if status != "A" else "", text_at("HEAD", new) if status != "D" else ""]
        if new.endswith(SUFFIXES) and any(
            re.search(r"^[\s{\"']*(merge_method|experts)\b", text, re.MULTILINE) for text in texts
        ):
            found.append((status, old, new))
    return found


def text_at(revision: str, path: str) -> str:
    return git("show", f"{revision}:{path}")


def fenced(text: str, language: str = "") -> str:
    """A block of code that nothing inside it ends."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def compared(base: str, old: str, new: str) -> str:
    """What changed between two versions of a recipe, or how their texts differ where they cannot be compiled."""
    done = mergec("diff", "--markdown", f"{base}:{old}", new)
    moved = f"`{old}` is called `{new}` now.\n\n" if old != new else ""
    if done.returncode in (0, 1):
        return moved + done.stdout
    before, after = canonical(text_at(base, old)), mergec("canon", "--textconv", new).stdout.splitlines()
    lines = list(difflib.unified_diff(before, after, f"{old} (before)", new, lineterm=""))
    text = fenced("\n".join(lines), "diff") if lines else "The recipe says the same in other words.\n"
    why = f"<details><summary>The results could not be compared.</summary>\n\n{fenced(done.stderr)}\n</details>\n"
    return f"### `{new}`\n\n{moved}{text}\n{why}"


def canonical(text: str) -> list[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return mergec("canon", "--textconv", file.name).stdout.splitlines()


def section(base: str, status: str, old: str, new: str) -> str:
    if status == "A":
        return f"### `{new}` is new\n\n{fenced(mergec('canon', '--textconv', new).stdout, 'yaml')}"
    return f"### `{old}` is gone\n" if status == "D" else compared(base, old, new)


def main() -> None:
    os.chdir(git("rev-parse", "--show-toplevel").rstrip("\n"))
    base = git("merge-base", sys.argv[1], "HEAD").strip()
    sections = [section(base, *recipe) for recipe in changed_recipes(base)]
    if sections:
        print("## What this changes in the results\n")
        print("\n".join(sections))


if __name__ == "__main__":
    main()
