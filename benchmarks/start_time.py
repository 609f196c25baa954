"""How soon the commands that read no weights answer, on the headers of three 8B-shaped models."""

from __future__ import annotations

import tempfile
from pathlib import Path

from families import llama_shapes, measure, median, mergec, recipe, table, write_headers

REPEATS = 7


def main() -> None:
    shapes = llama_shapes(layers=32, width=4096, inner=14336, vocabulary=128256, kv_width=1024)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label in ("base", "a", "b"):
            write_headers(folder / label, shapes, per_shard=75)
        (folder / "ties.yml").write_text(recipe("ties", "ab", {"weight": 0.5, "density": [0.3, 0.8]}))
        (folder / "new.yml").write_text(recipe("ties", "ab", {"weight": 0.5, "density": [0.3, 0.7]}))
        commands = {
            "--help": (["--help"], 0.3),
            "fmt": (["fmt", "--diff", "ties.yml"], 0.4),
            "canon": (["canon", "ties.yml"], 0.4),
            "check": (["check", "ties.yml"], 1.5),
            "plan": (["plan", "ties.yml"], 1.5),
            "explain": (["explain", "ties.yml", "model.layers.7.mlp.up_proj.weight"], 1.5),
            "diff": (["diff", "ties.yml", "new.yml"], 1.5),
        }
        rows = []
        for label, (arguments, limit) in commands.items():
            found = median([measure(mergec(*arguments), folder, codes=(0, 1)) for _ in range(REPEATS)])
            rows.append([label, f"{found.seconds:.2f} s", f"{limit:.1f} s", f"{found.peak_mib:.0f} MiB"])
    print("\n".join(table(["command", "median", "limit", "peak"], rows)))


if __name__ == "__main__":
    main()
