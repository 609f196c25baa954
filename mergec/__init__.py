"""mergec: a compiler for merge recipes of neural-network checkpoints.

`mergec.compile("ties.yml").run("out")` runs a recipe; `mergec.merge("ties", models, base=...)` merges state dicts
in memory. Importing this package loads neither torch nor transformers.
"""

from mergec.api import Plan, compile, load_artifact, merge
from mergec.errors import MergecError, RecipeError, RunError, UsageError

__version__ = "0.1.0"

__all__ = [
    "MergecError",
    "Plan",
    "RecipeError",
    "RunError",
    "UsageError",
    "__version__",
    "compile",
    "load_artifact",
    "merge",
]
