"""Merge from Python: compile a recipe and run its plan, then do the same merge on state dicts in memory.

python examples/python_api.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file

import mergec

QUICKSTART = Path(__file__).parent / "quickstart"


def main(out: Path) -> None:
    try:
        plan = mergec.compile(QUICKSTART / "ties.yml", overrides={"parameters.lambda": 0.9})
    except mergec.RecipeError as error:  # every problem, with its place
        sys.exit("\n".join(map(str, error.problems)))
    print(f"plan {plan.hash()[:12]}: {len(plan.outputs)} tensors, at most {plan.memory.peak_bytes / 2**20:.0f} MiB")

    result = plan.run(out)
    print(f"made {result.folder} in {result.seconds:.1f} s")

    states = {
        name: load_file(QUICKSTART / name / "model.safetensors") for name in ("base", "english", "german", "roman")
    }
    merged = mergec.merge(
        "ties",
        {name: states[name] for name in ("english", "german", "roman")},
        base=states["base"],
        parameters={"weight": 0.4, "density": 0.5, "normalize": False, "lambda": 0.9},
    )
    written = load_file(out / "model.safetensors")
    assert all(merged[name].equal(written[name]) for name in written)
    print(f"merged again in memory: the same {len(merged)} tensors, bit for bit")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("merged/python_api"))
