"""Random edits of one value of a recipe: does `mergec diff` name what differs between two clean builds?"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from edits import Outcome, outcome
from recipes_fixtures import write_family

EDITS = 200


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_family(Path(name))
        os.environ["MERGEC_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        found = [outcome(folder, number) for number in range(EDITS)]
    print(f"{EDITS} edits: {sum(one.named == one.differing for one in found)} named exactly what differs,")
    print(f"  {_tensors(found, 'named')} tensors named, {_tensors(found, 'differing')} differ")
    missed = sum(len(one.differing - one.named) for one in found)
    rounded = sum(len((one.named - one.differing) & one.exact) for one in found)
    equal = [one for one in found if _equal(one)]
    print(f"  {missed} missed; of those named, {rounded} differ in float64 and are rounded to the same bytes,")
    print(f"  {sum(map(_equal, equal))} come out the same with these models:")
    for one in equal:
        print(f"    {_equal(one)} by {one.what}")
    other = [one for one in found if one.computed != one.named or not one.rebuilt_as_built]
    print(f"  {EDITS - len(other)} rebuilds computed just what was named, and gave the bytes of a clean build")
    for one in other:
        print(f"    not: {one.what}")
    raise SystemExit(missed > 0 or bool(other))


def _tensors(found: list[Outcome], which: str) -> int:
    return sum(len(getattr(one, which)) for one in found)


def _equal(one: Outcome) -> int:
    return len(one.named - one.differing - one.exact)


if __name__ == "__main__":
    main()
