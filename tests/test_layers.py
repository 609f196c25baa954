"""The shape of the package: imports point downward, heavy libraries are imported late, every module says what it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mergec"
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

# layer -> the layers it may import besides itself
ALLOWED = {
    "errors": set(),
    "io": {"errors"},
    "graph": {"io"},
    "plan": {"graph", "io"},
    "keys": {"graph", "io", "plan"},
    "planfile": {"graph", "io", "plan", "keys"},
    "lock": {"errors", "io", "graph", "plan", "keys"},
    "ops": {"errors", "graph"},
    "recipe": {"errors", "graph", "ops"},
    "compiler": {"errors", "io", "graph", "plan", "keys", "planfile", "lock", "ops", "recipe"},
    "execute": {"errors", "io", "graph", "plan", "keys", "lock", "ops"},
    "memory": {"errors", "io", "graph", "plan", "ops", "recipe", "compiler", "execute"},
    "artifact": {"errors", "io", "graph", "plan", "ops", "compiler", "execute"},
    "api": {"errors", "plan", "keys", "planfile", "compiler", "execute", "memory", "artifact"},
    "cli": {"errors", "graph", "plan", "keys", "planfile", "lock", "ops", "io", "recipe", "compiler", "execute"},
    "__init__": {"errors", "api"},
    "__main__": {"cli"},
}
HEAVY = {"torch", "transformers", "numpy", "networkx", "huggingface_hub", "safetensors"}


def label(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(nodes: Iterable[ast.AST], late: bool) -> Iterator[str]:
    """The modules that statements import; `late` includes those in functions and under TYPE_CHECKING."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif late or not (isinstance(node, ast.FunctionDef) or _is_typing(node)):
            yield from imports(ast.iter_child_nodes(node), late)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_every_part_of_the_package_has_a_layer() -> None:
    assert {layer(path) for path in MODULES} == set(ALLOWED)


def test_imports_point_downward() -> None:
    upward = []
    for path, tree in MODULES.items():
        for name in imports([tree], late=True):
            package, *rest = name.split(".")
            if package == "mergec" and rest[0] not in ALLOWED[layer(path)] | {layer(path)}:
                upward.append(f"{label(path)} imports {name}")
    assert upward == []


def test_heavy_libraries_are_imported_late() -> None:
    early = [
        f"{label(path)} imports {name}"
        for path, tree in MODULES.items()
        for name in imports([tree], late=False)
        if name.split(".")[0] in HEAVY
    ]
    assert early == []


def test_every_module_opens_with_a_sentence() -> None:
    first = {label(path): (ast.get_docstring(tree) or "").split("\n\n")[0] for path, tree in MODULES.items()}
    assert [name for name, text in first.items() if not text.endswith(".") or text.count("\n") > 1] == []


def test_a_method_is_called_like_its_file() -> None:
    for path, tree in MODULES.items():
        if path.parent.name == "methods" and path.stem != "__init__":
            functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            marked = [one.name for one in functions if any("method(" in ast.unparse(m) for m in one.decorator_list)]
            assert marked == [path.stem]


@pytest.mark.parametrize("command", ["import mergec", "import mergec.cli.main", "import mergec.compiler.compile"])
def test_planning_needs_no_torch(command: str) -> None:
    code = f"import sys; {command}; print({HEAVY!r} & set(sys.modules) or 'light')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "light\n"
