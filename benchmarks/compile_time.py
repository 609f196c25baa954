"""Plan a merge of 100,000-tensor mixtures of experts from headers alone: seconds, peak memory, bytes of its page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from families import experts_shapes, measure, median, mergec, recipe, write_headers

LAYERS, EXPERTS, REPEATS = 60, 555, 3
LIMIT_SECONDS, LIMIT_MIB, LIMIT_PAGE_MB = 15.0, 1500.0, 2.0


def main() -> None:
    shapes = experts_shapes(LAYERS, EXPERTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label in ("base", "a", "b"):
            write_headers(folder / label, shapes, per_shard=5000)
        (folder / "ties.yml").write_text(recipe("ties", "ab", {"weight": [0.2, 0.8], "density": 0.5}))
        found = median([measure(mergec("check", "ties.yml"), folder) for _ in range(REPEATS)])
        measure(mergec("plan", "ties.yml", "--html", "plan.html"), folder)
        page_mb = (folder / "plan.html").stat().st_size / 1e6
    print(f"{len(shapes):,} tensors, 3 models: {found.seconds:.1f} s (limit {LIMIT_SECONDS:.0f}), ", end="")
    print(f"{found.peak_mib:,.0f} MiB (limit {LIMIT_MIB:,.0f})")
    print(f"a page of {page_mb:.2f} MB (limit {LIMIT_PAGE_MB:.0f})")
    raise SystemExit(found.seconds > LIMIT_SECONDS or found.peak_mib > LIMIT_MIB or page_mb > LIMIT_PAGE_MB)


if __name__ == "__main__":
    main()
